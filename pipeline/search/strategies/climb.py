"""Hill climbing: from the best candidate so far to one near it.

`local` steps to neighbours, which differ in one or two genes. `one_plus_lambda` is the (1 + lambda) evolution of
EvoPress (arXiv 2410.14649), whose mutants swap: genes grow where others shrink.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from pipeline.config import SearchConfig
from pipeline.search.strategies.protocol import LOCAL, ONE_PLUS_LAMBDA, Novelty, Scored, by_fitness
from pipeline.subnetwork import neighbours
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork

Step = Callable[[Space, SubNetwork, np.random.Generator], SubNetwork]

SWAPS = 3  # of a mutant, at most, as in EvoPress


class Climb:
    """Starts at the best of a first generation and keeps its layers and width. Where all that it draws near the best
    was scored before, random samples look for another hill."""

    def __init__(
        self, space: Space, config: SearchConfig, seed: int, starts: list[SubNetwork], *, purpose: int, step: Step
    ):
        self.space, self.config, self.seed, self.starts = space, config, seed, starts
        self.purpose, self.step = purpose, step
        self.novelty = Novelty(space)
        self.generation = 0
        self.best: list[Scored] = []  # one at most

    def ask(self) -> list[SubNetwork]:
        if self.generation > self.config.generations:
            return []
        rng = np.random.default_rng([self.seed, self.purpose, self.generation])
        if not self.best:
            return self.novelty.first(self.starts, self.config.population, rng)
        best = self.best[0].subnetwork
        return self.novelty.candidates([lambda: self.step(self.space, best, rng)] * self.config.offspring, rng)

    def tell(self, scored: list[Scored]) -> None:
        self.generation += 1
        self.best = by_fitness(self.best + scored)[:1]


local = partial(Climb, purpose=LOCAL, step=neighbours.neighbour)
one_plus_lambda = partial(Climb, purpose=ONE_PLUS_LAMBDA, step=partial(neighbours.swap, most=SWAPS))
