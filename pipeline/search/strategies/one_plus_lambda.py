"""(1 + lambda) evolution with budget-neutral swaps and multi-step selection (EvoPress, arXiv 2410.14649)."""

import numpy as np

from pipeline.config import SearchConfig
from pipeline.search.strategies.protocol import ONE_PLUS_LAMBDA, Ask, Novelty, Scored, by_fitness
from pipeline.subnetwork.neighbours import swap
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork


class OnePlusLambda:
    """The best of a first generation is the parent; a generation asks for mutants in which genes grew where others
    shrank, and the best of parent and mutants is the next parent. Layers and width stay.

    A generation, the first included, is scored step by step: all on a share of the blocks, the best of them on a larger
    share, the last ones on all blocks. Only scores on all blocks are compared with the parent's.
    """

    def __init__(self, space: Space, config: SearchConfig, seed: int, starts: list[SubNetwork]):
        self.space, self.config, self.seed, self.starts = space, config, seed, starts
        self.novelty = Novelty(space)
        self.generation = self.step = 0
        self.running: list[SubNetwork] = []  # candidates of this generation that are still in the race
        self.parent: list[Scored] = []  # one at most

    def ask(self) -> Ask:
        if self.step == 0:
            self.running = self._generation()
        return Ask(self.running, self.config.step_blocks()[self.step])

    def tell(self, scored: list[Scored]) -> None:
        survivors = self.config.selection.survivors
        if self.step < len(survivors):
            self.running = [each.subnetwork for each in by_fitness(scored)[: survivors[self.step]]]
            self.step += 1
        else:
            self.parent = by_fitness(self.parent + scored)[:1]
            self.step = 0
            self.generation += 1

    def _generation(self) -> list[SubNetwork]:
        if self.generation > self.config.generations:
            return []
        rng = np.random.default_rng([self.seed, ONE_PLUS_LAMBDA, self.generation])
        if not self.parent:
            return self.novelty.first(self.starts, self.config.population, rng)
        parent = self.parent[0].subnetwork
        draws = [lambda: swap(self.space, parent, rng, self.config.swaps)] * self.config.offspring
        return self.novelty.candidates(draws, rng)
