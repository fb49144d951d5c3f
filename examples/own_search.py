"""Your own strategy, fitness and space, used without editing Sprig.

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

# Every generator is seeded by (seed, purpose, counter), so that an interrupted search resumes with the same draws.
PURPOSE = 1_000  # of its generators; numbers below are those of Sprig


class Halving:
    """Draws half of `search.evaluations` candidates at random. Each further round spends half of the remaining ones on
    mutants of the best half so far."""

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
    """The largest token loss in each block (B,), in nats, from tokens (B, T + 1)."""
    return token_nll(student, hidden_states(student, tokens[:, :-1]), tokens[:, 1:], 512).amax(dim=1)


class Shallow(Space):
    """Only sub-networks with at most two layers; sampling, mutation and crossover still stay in the bin."""

    def __init__(self, architecture: Architecture, config: SpaceConfig, *others: Any, **counted_at: Any) -> None:
        shallow = replace(config, max=replace(config.max, n_layer=2))
        super().__init__(architecture, shallow, *others, **counted_at)
