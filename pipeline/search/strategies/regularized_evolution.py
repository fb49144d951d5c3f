"""Regularised evolution (Real et al., arXiv 1802.01548): the oldest member dies, however good it is."""

from collections import deque

import numpy as np

from pipeline.config import SearchConfig
from pipeline.search.strategies.protocol import REGULARIZED, Ask, Novelty, Scored, by_fitness
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork


class RegularizedEvolution:
    """Each child is a mutant of the best of a random tournament; the children of one ask, all from the same population,
    then enter the queue and push out as many of the oldest."""

    def __init__(self, space: Space, config: SearchConfig, seed: int, starts: list[SubNetwork]):
        self.space, self.config, self.seed, self.starts = space, config, seed, starts
        self.novelty = Novelty(space)
        self.generation = 0
        self.population: deque[Scored] = deque(maxlen=config.population)

    def ask(self) -> Ask:
        if self.generation > self.config.generations:
            return Ask([], self.config.blocks)
        rng = np.random.default_rng([self.seed, REGULARIZED, self.generation])
        if self.generation == 0:
            candidates = self.novelty.first(self.starts, self.config.population, rng)
        else:
            candidates = self.novelty.candidates([lambda: self._child(rng)] * self.config.offspring, rng)
        # Tournaments of t among p members seldom have a winner beyond rank p / t.
        places = max(self.config.population // self.config.tournament, 1)
        is_last = self.generation == self.config.generations
        return Ask(candidates, self.config.blocks, self.config.winners() if is_last else places)

    def tell(self, scored: list[Scored]) -> None:
        self.generation += 1
        self.population.extend(scored)

    def _child(self, rng: np.random.Generator) -> SubNetwork:
        size = min(self.config.tournament, len(self.population))
        rivals = rng.choice(len(self.population), size=size, replace=False)
        parent = by_fitness(self.population[number] for number in sorted(rivals))[0].subnetwork
        rates = self.config.mutation
        return self.space.mutate(parent, rng, rates.gene_rate, rates.global_rate)
