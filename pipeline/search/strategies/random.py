"""Best of n random samples of the bin: the baseline of every search."""

import numpy as np

from pipeline.config import SearchConfig
from pipeline.search.strategies.protocol import RANDOM, Novelty, Scored
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork

BATCH = 16  # candidates asked for at a time


class RandomSearch:
    def __init__(self, space: Space, config: SearchConfig, seed: int):
        self.config, self.seed = config, seed
        self.novelty = Novelty(space)
        self.asked = 0

    def ask(self) -> list[SubNetwork]:
        rng = np.random.default_rng([self.seed, RANDOM, self.asked])
        wanted = min(BATCH, self.config.evaluations - self.asked)
        self.asked += wanted
        return self.novelty.first([], wanted, rng)

    def tell(self, scored: list[Scored]) -> None:
        pass
