"""The search loop: asks a strategy for candidates, evaluates them, and reports their fitness, until it or a limit
ends."""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from pipeline.config import SearchConfig
from pipeline.config.own import is_own
from pipeline.errors import SprigError
from pipeline.progress import Progress
from pipeline.search.budget import Budget
from pipeline.search.fitness import fitness_of
from pipeline.search.forecast import Forecast
from pipeline.search.journal import Journal
from pipeline.search.strategies.protocol import Scored, Strategy
from pipeline.subnetwork.value import SubNetwork

log = logging.getLogger("sprig")


class Scorer(Protocol):
    """Evaluates candidates: one Evaluator, or one on each rank."""

    def run(self, candidates: list[SubNetwork]) -> Iterator[tuple[int, list[float]]]:
        """Yields the number of each candidate and its losses, one per block, as they become available."""


class Search:
    """One search, resumed from its journal.

    Candidates in the journal are not evaluated again: the strategy receives their recorded fitness, and so proposes the
    same candidates up to the interruption. The search ends before the first evaluation that the budget does not allow,
    even in the middle of a generation, so that strategies with other generation sizes spend the same.

    Args:
        parameters: the count that the journal notes of a candidate.
        expected: what it will spend, for the progress bar; where it spends less, and not by a limit, that is reported.
            None: only the strategy knows.
        log: gets each new line of the journal.
    """

    def __init__(
        self,
        config: SearchConfig,
        strategy: Strategy,
        scorer: Scorer,
        journal: Journal,
        budget: Budget,
        *,
        parameters: Callable[[SubNetwork], int],
        expected: Forecast | None,
        log: Callable[[dict], None],
    ):
        self.config, self.strategy, self.scorer, self.journal, self.budget = config, strategy, scorer, journal, budget
        self.parameters, self.log, self.expected = parameters, log, expected.evaluations if expected else None
        self.progress = Progress("search", total=self.expected, unit="candidates")
        self.best: Scored | None = None
        self.generation = self.evaluated = 0
        self.allowed, self.resuming = True, bool(journal.losses)

    def run(self) -> Scored:
        """The best candidate that the strategy finds.

        Raises:
            SprigError: no candidate was scored, or none has a finite loss.
        """
        with self.progress:
            while self.allowed and (asked := self.strategy.ask()):
                self.strategy.tell(self._scored(asked))
                self.generation += 1
        if self.best is None and self.allowed:
            raise SprigError(f"search.strategy={self.config.strategy} asked for no candidate: let ask() return some.")
        if self.best is None:
            raise SprigError("search.limit ended the search before any candidate was evaluated: raise the limit.")
        if self.allowed and (self.expected is None or self.progress.done < self.expected):
            self._report_end()
        if math.isinf(self.best.fitness):
            raise self._without_a_finite_loss()
        return self.best

    def _report_end(self) -> None:
        """Of a strategy that asked for fewer candidates than expected: only the built-in ones end when the bin does."""
        if is_own(self.config.strategy):
            log.info(
                "search.strategy=%s has no further candidates: the search ended after %d.",
                self.config.strategy,
                self.evaluated,
            )
        else:
            log.warning(
                "The bin holds no further new sub-networks: the search ended after %d candidates.", self.evaluated
            )

    def _without_a_finite_loss(self) -> SprigError:
        fitness = self.config.fitness
        if is_own(fitness):
            return SprigError(
                f"search.fitness={fitness} gives none of {self.evaluated} candidates a finite loss: correct it, or use "
                "precision=fp32 if their logits overflow."
            )
        return SprigError(
            f"None of {self.evaluated} candidates has a finite loss: use precision=fp32, or another ordering or bin."
        )

    def _scored(self, asked: list[SubNetwork]) -> list[Scored]:
        """The fitness of all candidates that were asked for, or of as many as the budget allows."""
        candidates = []
        for sub in asked:
            self.allowed = self.allowed and self.budget.take(sub, self.config.blocks)
            if self.allowed:
                candidates.append(sub)
        return [self._note(sub, losses) for sub, losses in self._in_order(candidates)]

    def _note(self, sub: SubNetwork, losses: list[float]) -> Scored:
        scored = Scored(sub, fitness_of(self.config.fitness, losses))
        self.evaluated += 1
        if sub.key not in self.journal.losses:
            self.resuming = False
            self.log(self.journal.add(sub, losses, scored.fitness, parameters=self.parameters(sub)))
        self.best = scored if self.best is None or scored.fitness < self.best.fitness else self.best
        self._show()
        return scored

    def _in_order(self, candidates: list[SubNetwork]) -> Iterator[tuple[SubNetwork, list[float]]]:
        """Every candidate with its losses: from the journal, or from the scorer, which may finish a later one first. A
        candidate that is asked for twice is evaluated once."""
        known = self.journal.losses
        losses = {sub.key: known[sub.key] for sub in candidates if sub.key in known}
        new = list({sub.key: sub for sub in candidates if sub.key not in known}.values())
        waiting = deque(candidates)

        def ready() -> Iterator[tuple[SubNetwork, list[float]]]:
            while waiting and waiting[0].key in losses:
                sub = waiting.popleft()
                yield sub, losses[sub.key]

        yield from ready()
        for number, measured in self.scorer.run(new):
            losses[new[number].key] = measured
            yield from ready()

    def _show(self) -> None:
        """Shows that one more candidate has been evaluated."""
        if self.resuming:
            self.progress.begin_at(self.progress.done + 1)
            return
        best = {} if self.best is None else {f"best {self.config.fitness}": f"{self.best.fitness:,.2f}"}
        self.progress.advance(1, **best, generation=self.generation)
