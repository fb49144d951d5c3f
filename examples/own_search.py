"""A strategy, a fitness and a space of one's own, used without editing Sprig.

PYTHONPATH=examples sprig experiment=smoke search.strategy=own_search.Halving search.evaluations=8
PYTHONPATH=examples sprig experiment=smoke search.fitness=own_search.worst_token
PYTHONPATH=examples sprig experiment=smoke space.type=own_search.Shallow
"""

from dataclasses import replace
from typing import Any

import numpy as np
from litgpt import GPT
from torch import Tensor

from pipeline.config import SearchConfig, SpaceConfig
from pipeline.models.head import token_nll
from pipeline.models.student import hidden_states
from pipeline.search.strategies.protocol import Novelty, Scored, by_fitness
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork

PURPOSE = 100  # of the generator: every draw comes from (seed, purpose, counter), so that a killed search resumes


class Halving:
    """Draws `search.evaluations` / 2 members at random, then mutates the best half of what it has scored."""

    def __init__(self, space: Space, config: SearchConfig, seed: int) -> None:
        self.space, self.seed, self.left, self.generation = space, seed, config.evaluations, 0
        self.novelty = Novelty(space)
        self.scored: list[Scored] = []

    def ask(self) -> list[SubNetwork]:
        rng = np.random.default_rng([self.seed, PURPOSE, self.generation])
        count = min(self.left, max(1, self.left // 2))
        parents = by_fitness(self.scored)[: max(1, len(self.scored) // 2)]
        draws = [
            lambda parent=parent: self.space.mutate(parent.subnetwork, rng, 0.2, 0.4) for parent in parents[:count]
        ] or [lambda: self.space.sample(rng)] * count
        return self.novelty.candidates(draws, rng) if count else []

    def tell(self, scored: list[Scored]) -> None:
        self.scored += scored
        self.left, self.generation = self.left - len(scored), self.generation + 1


def worst_token(teacher: GPT, student: GPT, tokens: Tensor) -> Tensor:
    """Tokens (B, T + 1) to the loss of the worst token of each block (B,), in nats."""
    return token_nll(student, hidden_states(student, tokens[:, :-1]), tokens[:, 1:], 512).amax(dim=1)


class Shallow(Space):
    """Only sub-networks with at most two layers; sampling, mutation and crossover then stay in the bin as ever."""

    def __init__(self, architecture: Architecture, config: SpaceConfig, *others: Any, **counted_at: Any) -> None:
        shallow = replace(config, max=replace(config.max, n_layer=2))
        super().__init__(architecture, shallow, *others, **counted_at)
