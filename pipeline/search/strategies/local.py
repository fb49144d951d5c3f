"""Hill climbing: neighbours of the best candidate, which differ from it in one or two genes."""

import numpy as np

from pipeline.config import SearchConfig
from pipeline.search.strategies.protocol import LOCAL, Novelty, Scored, by_fitness
from pipeline.subnetwork.neighbours import neighbour
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork


class Local:
    """Starts at the best of a first generation and keeps its layers and width. Where all that it draws near the best
    was scored before, random samples look for another hill."""

    def __init__(self, space: Space, config: SearchConfig, seed: int, starts: list[SubNetwork]):
        self.space, self.config, self.seed, self.starts = space, config, seed, starts
        self.novelty = Novelty(space)
        self.generation = 0
        self.best: list[Scored] = []  # one at most

    def ask(self) -> list[SubNetwork]:
        if self.generation > self.config.generations:
            return []
        rng = np.random.default_rng([self.seed, LOCAL, self.generation])
        if self.generation == 0:
            return self.novelty.first(self.starts, self.config.population, rng)
        best = self.best[0].subnetwork
        return self.novelty.candidates([lambda: neighbour(self.space, best, rng)] * self.config.offspring, rng)

    def tell(self, scored: list[Scored]) -> None:
        self.generation += 1
        self.best = by_fitness(self.best + scored)[:1]
