"""The search itself: ask a strategy, score what is new, tell it, until it has nothing more to ask or may not."""

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Protocol

from pipeline.config import Fitness, SearchConfig
from pipeline.errors import SprigError
from pipeline.progress import Progress
from pipeline.search.budget import Budget
from pipeline.search.evaluator import Task
from pipeline.search.fitness import fitness_of, mean
from pipeline.search.journal import Journal
from pipeline.search.racing import Race
from pipeline.search.strategies.protocol import Ask, Scored, Strategy, by_fitness
from pipeline.subnetwork.value import SubNetwork

log = logging.getLogger("sprig")


class Scorer(Protocol):
    """What evaluates: an Evaluator, or many of them at a time."""

    def run(self, tasks: list[Task]) -> Iterator[tuple[int, list[float]]]:
        """The number of each task and its losses, block by block, as they come."""


class Search:
    """One search, from its journal on.

    What the journal already knows is not evaluated again: the strategy is led along the same way up to where it was
    killed. The search ends before the first evaluation that the budget does not allow, even in the middle of a batch,
    so that strategies with other batches spend the same. A candidate that was scored on some blocks before is scored,
    and booked, on those that it lacks.

    Args:
        parameters: the count that the journal notes of a candidate.
        expected: evaluations to expect, for the progress bar; fewer, by no limit, are said.
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
        expected: int,
        log: Callable[[dict], None],
        measure: Callable[[Fitness, list[float]], float] = fitness_of,
    ):
        self.config, self.strategy, self.scorer, self.journal, self.budget = config, strategy, scorer, journal, budget
        self.parameters, self.log, self.measure = parameters, log, measure
        self.progress = Progress("search", total=expected, unit="candidates")
        self.losses: dict[str, list[float]] = defaultdict(list)  # as the journal's, up to where the strategy was led
        self.told: dict[str, Scored] = {}  # by key, who has raced
        self.best: Scored | None = None
        self.generation = self.tokens = 0
        self.allowed, self.resuming = True, bool(journal.losses)

    def run(self) -> Scored:
        """The best candidate that the strategy finds, of those scored on all blocks.

        Raises:
            SprigError: no candidate was scored on all blocks, or none has a finite loss.
        """
        with self.progress:
            while self.allowed and (asked := self.strategy.ask()).candidates:
                self.strategy.tell(self._scored(asked))
                self.generation += asked.blocks == self.config.blocks
        if self.allowed and self.progress.done < self.progress.total:
            found = len(self.losses)
            log.warning("The bin holds no further new sub-networks: the search ended after %d candidates.", found)
        if self.best is None:
            raise SprigError(
                f"search.limit ended the search before one candidate was scored on all {self.config.blocks} blocks: "
                "raise the limit."
            )
        if math.isinf(self.best.fitness):
            raise SprigError(
                f"None of {len(self.losses)} candidates has a finite loss: use precision=fp32, or another ordering "
                "or bin."
            )
        return self.best

    def _scored(self, asked: Ask) -> list[Scored]:
        """What the strategy is told; where the limit ended the search, without who is not known on all asked blocks."""
        # A selection of the strategy's own comes first: racing is for what that left.
        if asked.blocks == self.config.blocks and (steps := self.config.racing_blocks()):
            return self._raced(asked, steps)
        self._score(asked.candidates, asked.blocks)
        known = [sub for sub in asked.candidates if len(self.losses[sub.key]) == asked.blocks]
        return [self._measured(sub, self.losses[sub.key]) for sub in known]

    def _raced(self, asked: Ask, steps: list[int]) -> list[Scored]:
        """The same, from a race of what is asked against the former candidates that it may displace; corrects what was
        told of these."""
        former = [each.subnetwork for each in by_fitness(self.told.values())[: asked.places]]
        field = {sub.key: sub for sub in [*former, *asked.candidates]}
        race = Race(self.losses, list(field), asked.places, asked.blocks, self.config.racing.confidence)
        waiting = {sub.key for sub in asked.candidates}
        # Who wins is decided on all blocks. Parents that are as good as level by the last share are as good as parents.
        steps = [*steps, asked.blocks] if asked.places <= self.config.winners() else steps
        for step in steps:
            self._score([field[key] for key in race.running], step, decides=False)
            if not self.allowed:
                return []
            race.decide(step, is_last=step == steps[-1])
            self._show(len(waiting.difference(race.running)))
            waiting.intersection_update(race.running)
        # Whatever ends the search, its winner is known on all blocks. The others are estimated from it, so one that is
        # not finite there makes way.
        for _ in range(len(race.chosen) + 1):
            best = race.best(self.config.winners())
            self._score([field[key] for key in best], asked.blocks, decides=False)
            if not self.allowed:
                return []
            if math.isfinite(mean(self.losses[best[0]])):
                break
        for key, estimate in race.estimates(best[0]).items():
            losses = self.losses[key] if len(self.losses[key]) == asked.blocks else [estimate]
            self.told.setdefault(key, Scored(field[key], math.inf)).fitness = self.measure(self.config.fitness, losses)
        return [self.told[sub.key] for sub in asked.candidates]

    def _measured(self, sub: SubNetwork, losses: list[float]) -> Scored:
        return Scored(sub, self.measure(self.config.fitness, losses))

    def _score(self, subs: list[SubNetwork], blocks: int, decides: bool = True) -> None:
        """Scores candidates up to so many blocks, as far as the budget allows; `decides` where that is all of them."""
        tasks = []
        for sub in subs:
            known = len(self.losses[sub.key])
            self.allowed = self.allowed and (known >= blocks or self.budget.take(sub, blocks - known))
            if self.allowed and known < blocks:
                tasks.append(Task(sub, known, blocks))
        for task, losses in self._in_order(tasks):
            sub = task.subnetwork
            self.losses[sub.key] += losses
            self.tokens += len(losses) * self.budget.block_size
            scored = self._measured(sub, self.losses[sub.key])
            if len(self.journal.losses[sub.key]) < blocks:
                self.resuming = False
                self.log(self.journal.add(sub, losses, scored.fitness, parameters=self.parameters(sub)))
            if blocks == self.config.blocks:
                self.best = scored if self.best is None or scored.fitness < self.best.fitness else self.best
            self._show(int(decides))

    def _in_order(self, tasks: list[Task]) -> Iterator[tuple[Task, list[float]]]:
        """Every task with its losses: from the journal, then from the scorer, which may finish a later one first."""
        noted = [self.journal.losses[task.subnetwork.key][task.first : task.last] for task in tasks]
        known = sum(map(bool, noted))  # the first ones: the journal is in this order
        yield from zip(tasks[:known], noted[:known], strict=True)
        done, waiting = known, {}
        for number, losses in self.scorer.run(tasks[known:]):
            waiting[known + number] = losses
            while done in waiting:
                yield tasks[done], waiting.pop(done)
                done += 1

    def _show(self, decided: int) -> None:
        """So many more candidates need no further evaluation."""
        if self.resuming:
            self.progress.begin_at(self.progress.done + decided)
            return
        best = {} if self.best is None else {f"best {self.config.fitness}": f"{self.best.fitness:,.2f}"}
        self.progress.advance(decided, generation=self.generation, tokens=f"{self.tokens:,}", **best)
