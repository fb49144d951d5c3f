"""Search strategies behind one ask/tell interface: `ask` names the next candidates, `tell` brings their fitness.

Every draw comes from a generator seeded by (seed, purpose, counter), so the trajectory depends on nothing but the seed
and the fitness values: a resumed search walks the same way.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.config import SearchConfig
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork

EVOLUTION, RANDOM = 1, 2  # purposes of the generators
NOVELTY_ATTEMPTS = 100  # draws before a space counts as exhausted near a parent


@dataclass(frozen=True)
class Scored:
    """A candidate with its fitness: its perplexity, lower is better; inf where the loss was not finite."""

    subnetwork: SubNetwork
    fitness: float


class Strategy(Protocol):
    def ask(self) -> list[SubNetwork]:
        """The next candidates, none of which was asked before; empty when the search is over."""

    def tell(self, scored: list[Scored]) -> None:
        """The fitness of what was asked last, in ask order."""


class Evolution:
    """The paper's search (method 4): elitist parents, crossover and mutation, only inside the bin.

    A generation asks for children of two parents and mutants of one, the parents being the best candidates of all
    generations (AutoFormer's scheme). A duplicate is drawn again, and after many attempts replaced by a random sample.
    """

    def __init__(self, space: Space, config: SearchConfig, seed: int):
        self.space, self.config, self.seed = space, config, seed
        self.generation = 0
        self.best: list[Scored] = []
        self.seen: set[SubNetwork] = set()

    def ask(self) -> list[SubNetwork]:
        if self.generation > self.config.generations:
            return []
        rng = np.random.default_rng([self.seed, EVOLUTION, self.generation])
        first = self.generation == 0
        return list(self._distinct(self._population(rng) if first else self._offspring(rng), rng))

    def tell(self, scored: list[Scored]) -> None:
        self.generation += 1
        # sorted() is stable, so equal fitness keeps ask order.
        self.best = sorted(self.best + scored, key=lambda each: each.fitness)[: self.config.parents]

    def _population(self, rng: np.random.Generator) -> list:
        return [lambda: self.space.sample(rng)] * self.config.population

    def _offspring(self, rng: np.random.Generator) -> list:
        parents = [each.subnetwork for each in self.best]
        mutation = self.config.mutation

        def parent() -> SubNetwork:
            return parents[rng.integers(len(parents))]

        def child() -> SubNetwork:
            return self.space.crossover(parent(), parent(), rng)

        def mutant() -> SubNetwork:
            return self.space.mutate(parent(), rng, mutation.gene_rate, mutation.global_rate)

        return [child] * self.config.crossover.offspring + [mutant] * mutation.offspring

    def _distinct(self, draws: list, rng: np.random.Generator) -> Iterator[SubNetwork]:
        for draw in draws:
            new = _new(draw, self.seen) or _new(lambda: self.space.sample(rng), self.seen)
            if new is not None:
                yield new


class RandomSearch:
    """Best of n random samples of the bin: the baseline of every search."""

    def __init__(self, space: Space, evaluations: int, batch: int, seed: int):
        self.space, self.evaluations, self.batch, self.seed = space, evaluations, batch, seed
        self.asked = 0
        self.seen: set[SubNetwork] = set()

    def ask(self) -> list[SubNetwork]:
        rng = np.random.default_rng([self.seed, RANDOM, self.asked])
        wanted = min(self.batch, self.evaluations - self.asked)
        samples = [_new(lambda: self.space.sample(rng), self.seen) for _ in range(wanted)]
        self.asked += wanted
        return [sample for sample in samples if sample is not None]

    def tell(self, scored: list[Scored]) -> None:
        pass


class Given:
    """One sub-network from a file: scored, not searched."""

    def __init__(self, subnetwork: SubNetwork):
        self.pending = [subnetwork]

    def ask(self) -> list[SubNetwork]:
        return self.pending

    def tell(self, scored: list[Scored]) -> None:
        self.pending = []


def _new(draw, seen: set[SubNetwork]) -> SubNetwork | None:
    for _ in range(NOVELTY_ATTEMPTS):
        candidate = draw()
        if candidate not in seen:
            seen.add(candidate)
            return candidate
    return None
