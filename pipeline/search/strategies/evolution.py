"""The paper's search (method 4): evolution with elitist selection, inside the parameter bin.

Mutation and crossover themselves are in pipeline.subnetwork.space; pipeline.search.loop evaluates what `ask` returns.
"""

import numpy as np

from pipeline.config import SearchConfig
from pipeline.search.strategies.protocol import EVOLUTION, Draw, Novelty, Scored, by_fitness
from pipeline.search.strategies.surrogate import most_promising
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork


class Evolution:
    """Each generation consists of children of two parents and mutants of one. The parents are the best candidates of
    all generations so far, as in AutoFormer. With search.surrogate, that many times as many are drawn, and a model of
    the fitness chooses half of the generation among them."""

    def __init__(self, space: Space, config: SearchConfig, seed: int, starts: list[SubNetwork]):
        self.space, self.config, self.seed, self.starts = space, config, seed, starts
        self.novelty = Novelty(space)
        self.generation = 0
        self.best: list[Scored] = []
        self.scored: list[Scored] = []

    def ask(self) -> list[SubNetwork]:
        if self.generation > self.config.generations:
            return []
        rng = np.random.default_rng([self.seed, EVOLUTION, self.generation])
        if self.generation == 0:
            return self.novelty.first(self.starts, self.config.population, rng)
        offspring = self._offspring(rng)
        return self._chosen(offspring, rng) if self.config.surrogate else self.novelty.candidates(offspring, rng)

    def tell(self, scored: list[Scored]) -> None:
        self.generation += 1
        self.scored += scored
        self.best = by_fitness(self.best + scored)[: self.config.parents]

    def _chosen(self, offspring: list[Draw], rng: np.random.Generator) -> list[SubNetwork]:
        """A generation of which the surrogate chooses one half. The other is drawn as without it, because the model may
        be wrong where nothing was evaluated."""
        drawn: list[SubNetwork] = []
        for number in range(self.config.surrogate):
            drawn += self.novelty.candidates(offspring, rng)
            if len(drawn) < (number + 1) * len(offspring):
                break  # few new ones are left, and each takes long to find
        plain = drawn[: len(offspring)][1::2]
        others = [each for each in drawn if each not in plain]
        best = most_promising(self.space.architecture, self.scored, others, len(offspring) - len(plain))
        self.novelty.forget(set(others) - set(best))
        return plain + best

    def _offspring(self, rng: np.random.Generator) -> list[Draw]:
        parents = [each.subnetwork for each in self.best]
        mutation = self.config.mutation

        def parent() -> SubNetwork:
            return parents[rng.integers(len(parents))]

        def child() -> SubNetwork:
            return self.space.crossover(parent(), parent(), rng)

        def mutant() -> SubNetwork:
            return self.space.mutate(parent(), rng, mutation.gene_rate, mutation.global_rate)

        return [child] * self.config.crossover.offspring + [mutant] * mutation.offspring
