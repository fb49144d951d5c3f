"""The interface of all search strategies: `ask` returns the next candidates, and `tell` receives their fitness.

Every draw comes from a generator seeded by (seed, purpose, counter), so a search depends only on the seed and the
fitness values, and a resumed search proposes the same candidates.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.config import SearchConfig
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork

log = logging.getLogger("sprig")

# Purposes of the generators of a run's seed. Stages use 3, 4, 8, 9 and 10, the order of training 101, the logits cache
# 102; from 1,000 on, they are free for strategies of users.
EVOLUTION, RANDOM, ONE_PLUS_LAMBDA, LOCAL = 1, 2, 5, 7
NOVELTY_ATTEMPTS = 100  # duplicates in a row after which a draw is given up

Draw = Callable[[], SubNetwork]


@dataclass(frozen=True)
class Scored:
    """A candidate with its fitness, lower is better; inf where the loss was not finite."""

    subnetwork: SubNetwork
    fitness: float


class Strategy(Protocol):
    """A search strategy. Sprig creates your own as `MyStrategy(space, config, seed)`."""

    def __init__(self, space: Space, config: SearchConfig, seed: int) -> None: ...

    def ask(self) -> list[SubNetwork]:
        """The next candidates, all of them new; an empty list when the search is over."""

    def tell(self, scored: list[Scored]) -> None:
        """Receives the last candidates with their fitness, in the same order; fewer if the search's limit was
        reached."""


def by_fitness(scored: Iterable[Scored]) -> list[Scored]:
    """Sorts the best first; candidates of equal fitness keep their order."""
    return sorted(scored, key=lambda each: each.fitness)


def _always(start: SubNetwork) -> Draw:
    return lambda: start


class Novelty:
    """Proposes each candidate only once."""

    def __init__(self, space: Space):
        self.space = space
        self.seen: set[SubNetwork] = set()
        self.is_scarce = False

    def candidates(self, draws: Iterable[Draw], rng: np.random.Generator) -> list[SubNetwork]:
        """One new candidate per draw. A duplicate is drawn again; after many attempts a random sample replaces it, and
        if samples are duplicates too, it is left out. The first omission is logged, because such draws take long."""
        found = []
        for draw in draws:
            candidate = self._new(draw) or self._new(lambda: self.space.sample(rng))
            if candidate is not None:
                found.append(candidate)
            elif not self.is_scarce:
                self.is_scarce = True
                log.warning(
                    "After %d sub-networks, %d draws found no new one in the bin: few are left, and hard to find.",
                    len(self.seen),
                    2 * NOVELTY_ATTEMPTS,
                )
        return found

    def first(self, starts: list[SubNetwork], count: int, rng: np.random.Generator) -> list[SubNetwork]:
        """A first generation: the given starts, then random samples."""
        given = [_always(start) for start in starts]
        return self.candidates([*given, *[lambda: self.space.sample(rng)] * (count - len(starts))], rng)

    def forget(self, candidates: set[SubNetwork]) -> None:
        """These were not evaluated after all, and may be proposed again."""
        self.seen -= candidates

    def _new(self, draw: Draw) -> SubNetwork | None:
        for _ in range(NOVELTY_ATTEMPTS):
            candidate = draw()
            if candidate not in self.seen:
                self.seen.add(candidate)
                return candidate
        return None
