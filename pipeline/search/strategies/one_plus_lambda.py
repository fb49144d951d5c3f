"""(1 + lambda) evolution with budget-neutral swaps (EvoPress, arXiv 2410.14649)."""

import numpy as np

from pipeline.config import SearchConfig
from pipeline.search.strategies.protocol import ONE_PLUS_LAMBDA, Novelty, Scored, by_fitness
from pipeline.subnetwork.neighbours import swap
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork

SWAPS = 3  # of a mutant, at most, as in EvoPress


class OnePlusLambda:
    """The best of a first generation is the parent; a generation asks for mutants in which genes grew where others
    shrank, and the best of parent and mutants is the next parent. Layers and width stay."""

    def __init__(self, space: Space, config: SearchConfig, seed: int, starts: list[SubNetwork]):
        self.space, self.config, self.seed, self.starts = space, config, seed, starts
        self.novelty = Novelty(space)
        self.generation = 0
        self.parent: list[Scored] = []  # one at most

    def ask(self) -> list[SubNetwork]:
        if self.generation > self.config.generations:
            return []
        rng = np.random.default_rng([self.seed, ONE_PLUS_LAMBDA, self.generation])
        if not self.parent:
            return self.novelty.first(self.starts, self.config.population, rng)
        parent = self.parent[0].subnetwork
        draws = [lambda: swap(self.space, parent, rng, SWAPS)] * self.config.offspring
        return self.novelty.candidates(draws, rng)

    def tell(self, scored: list[Scored]) -> None:
        self.generation += 1
        self.parent = by_fitness(self.parent + scored)[:1]
