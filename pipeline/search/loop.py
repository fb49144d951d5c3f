"""The search itself: ask a strategy, score what is new, tell it, until it has nothing more to ask or may not."""

import math
from collections.abc import Callable

from pipeline.errors import SprigError
from pipeline.progress import Progress
from pipeline.search.budget import Budget
from pipeline.search.journal import Journal
from pipeline.search.strategies.protocol import Scored, Strategy
from pipeline.subnetwork.value import SubNetwork


def search(
    strategy: Strategy,
    evaluate: Callable[[SubNetwork, int], float],
    parameters: Callable[[SubNetwork], int],
    journal: Journal,
    budget: Budget,
    blocks: int,
    evaluations: int,
    log: Callable[[dict], None],
) -> Scored:
    """The best candidate that the strategy finds, of those scored on all `blocks`.

    What the journal already knows is not evaluated again: the strategy is led along the same way up to where it was
    killed. The search ends before the first evaluation that the budget does not allow, even in the middle of a batch,
    so that strategies with other batches spend the same. `evaluate` takes a candidate and a number of blocks;
    `evaluations` is how many to expect, for the progress bar; `log` gets each new line of the journal.

    Raises:
        SprigError: no candidate was scored on all blocks, or none has a finite loss.
    """
    best: Scored | None = None
    count, allowed = 0, True
    with Progress("search", total=evaluations, unit="candidates", start=len(journal.known)) as progress:
        while allowed and (asked := strategy.ask()).candidates:
            scored = []
            for candidate in asked.candidates:
                allowed = budget.take(candidate, asked.blocks)
                if not allowed:
                    break
                known = journal.known.get((candidate.key, asked.blocks))
                each = Scored(candidate, evaluate(candidate, asked.blocks) if known is None else known)
                scored.append(each)
                if asked.blocks == blocks:
                    count += 1
                    best = each if best is None or each.fitness < best.fitness else best
                if known is None:
                    log(journal.add(each, asked.blocks, parameters=parameters(candidate)))
                    progress.advance(1, **({} if best is None else {"best": f"{best.fitness:,.1f}"}))
            strategy.tell(scored)
    if best is None:
        raise SprigError(
            f"search.limit ended the search before one candidate was scored on all {blocks} blocks: raise the limit."
        )
    if math.isinf(best.fitness):
        raise SprigError(
            f"None of {count} candidates has a finite loss: use precision=fp32, or another ordering or bin."
        )
    return best
