"""The one interface of all search strategies: `ask` names the next candidates, `tell` brings their fitness.

Every draw comes from a generator seeded by (seed, purpose, counter), so the trajectory depends on nothing but the seed
and the fitness values: a resumed search walks the same way.
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

# Purposes of the generators; 3 and 4 are extraction's.
EVOLUTION, RANDOM, ONE_PLUS_LAMBDA, LOCAL = 1, 2, 5, 7
NOVELTY_ATTEMPTS = 100  # draws before a space counts as exhausted near a parent

Draw = Callable[[], SubNetwork]


@dataclass(frozen=True)
class Scored:
    """A candidate with its fitness, lower is better; inf where the loss was not finite."""

    subnetwork: SubNetwork
    fitness: float


class Strategy(Protocol):
    """One of the user's own is made as `MyStrategy(space, config, seed)`, from a Space, a SearchConfig and a number."""

    def __init__(self, space: Space, config: SearchConfig, seed: int) -> None: ...

    def ask(self) -> list[SubNetwork]:
        """The next candidates, none of which was asked before; none when the search is over."""

    def tell(self, scored: list[Scored]) -> None:
        """The fitness of what was asked last, in ask order; fewer where the search's limit was reached."""


def by_fitness(scored: Iterable[Scored]) -> list[Scored]:
    """Best first; equal fitness keeps ask order."""
    return sorted(scored, key=lambda each: each.fitness)


def _always(start: SubNetwork) -> Draw:
    return lambda: start


class Novelty:
    """Hands out every candidate once."""

    def __init__(self, space: Space):
        self.space = space
        self.seen: set[SubNetwork] = set()
        self.is_scarce = False

    def candidates(self, draws: Iterable[Draw], rng: np.random.Generator) -> list[SubNetwork]:
        """One new candidate a draw. A duplicate is drawn again, after many attempts replaced by a random sample, and
        left out where samples are duplicates, too; the first time this is logged, because many such draws take long."""
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
        """A first generation: the given starts, random samples for the rest."""
        given = [_always(start) for start in starts]
        return self.candidates([*given, *[lambda: self.space.sample(rng)] * (count - len(starts))], rng)

    def _new(self, draw: Draw) -> SubNetwork | None:
        for _ in range(NOVELTY_ATTEMPTS):
            candidate = draw()
            if candidate not in self.seen:
                self.seen.add(candidate)
                return candidate
        return None
