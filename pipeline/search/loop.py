"""The search itself: ask a strategy, score what is new, tell it, until it has nothing more to ask."""

import math
from collections.abc import Callable

from pipeline.errors import SprigError
from pipeline.progress import Progress
from pipeline.search.journal import Journal
from pipeline.search.strategies import Scored, Strategy
from pipeline.subnetwork.value import SubNetwork


def search(
    strategy: Strategy,
    evaluate: Callable[[SubNetwork], float],
    parameters: Callable[[SubNetwork], int],
    journal: Journal,
    evaluations: int,
    log: Callable[[dict], None],
) -> Scored:
    """The best candidate that the strategy finds.

    What the journal already knows is not evaluated again: the strategy is led along the same way up to where it was
    killed. `evaluations` is how many to expect, for the progress bar; `log` gets each new line of the journal.

    Raises:
        SprigError: no candidate has a finite loss.
    """
    best: Scored | None = None
    count = 0
    with Progress("search", total=evaluations, unit="candidates", start=len(journal.known)) as progress:
        while candidates := strategy.ask():
            scored = []
            for candidate in candidates:
                known = journal.known.get(candidate.key)
                each = Scored(candidate, evaluate(candidate) if known is None else known)
                scored.append(each)
                count += 1
                if best is None or each.fitness < best.fitness:
                    best = each
                if known is None:
                    log(journal.add(each, parameters=parameters(candidate)))
                    progress.advance(1, best=f"{best.fitness:,.1f}")
            strategy.tell(scored)
    if best is None or math.isinf(best.fitness):
        raise SprigError(
            f"None of {count} candidates has a finite loss: use precision=fp32, or another ordering or bin."
        )
    return best
