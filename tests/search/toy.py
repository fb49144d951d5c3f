"""A toy space and a fixed landscape for the tests of this folder, and a search over them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from architectures import SMOLLM2_135M

from pipeline.config import (
    BinConfig,
    CrossoverConfig,
    Fitness,
    LimitConfig,
    MutationConfig,
    SearchConfig,
    Sizes,
    SpaceConfig,
    Strategy,
)
from pipeline.search.budget import Budget
from pipeline.search.forecast import expected
from pipeline.search.journal import Journal
from pipeline.search.loop import Scorer, Search
from pipeline.search.strategies.protocol import Scored
from pipeline.search.strategies.registry import make
from pipeline.subnetwork.bins import make_bin
from pipeline.subnetwork.counting import flops_per_token, parameters
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork

TEACHER = replace(
    SMOLLM2_135M,
    name="toy",
    n_layer=4,
    n_embd=32,
    n_head=4,
    n_query_groups=2,
    head_size=8,
    intermediate_size=64,
    vocab_size=50,
    padded_vocab_size=64,
    context=32,
    rope_base=10000,
)
BLOCKS, LENGTH = 8, 16
SPACE = Space(
    TEACHER,
    SpaceConfig(step=Sizes(n_embd=8, intermediate_size=4, head_size=2)),
    make_bin(BinConfig(low=12_000, high=16_000)),
    None,
)


def configure(strategy: str, **changes) -> SearchConfig:
    """A short search: 10 candidates, then 5 generations of 10; "surrogate" is an evolution with one."""
    if strategy == "surrogate":
        strategy, changes = "evolution", {"surrogate": 3} | changes
    standard = {
        "population": 10,
        "generations": 5,
        "offspring": 10,
        "parents": 4,
        "crossover": CrossoverConfig(offspring=5),
        "mutation": MutationConfig(offspring=5),
        "evaluations": 60,
        "blocks": BLOCKS,
        "fitness": Fitness.kl,  # the mean of the blocks' losses as it is
    }
    return SearchConfig(strategy=Strategy(strategy), **standard | changes)


def fitness(sub) -> float:
    """More MLP in early layers is better, fewer layers too."""
    weights = sum(gene.intermediate_size / (1 + layer) for layer, gene in zip(sub.layers, sub.genes, strict=True))
    return 1000 / weights + sub.n_layer


class Counted:
    """Notes what it is asked for; as a killed process would, dies at a call."""

    def __init__(self, dies_at: int | None = None, landscape: Callable = fitness):
        self.calls, self.dies_at, self.landscape = [], dies_at, landscape

    def __call__(self, sub) -> float:
        if len(self.calls) == self.dies_at:
            raise KeyboardInterrupt
        self.calls.append(sub.key)
        return self.landscape(sub)


def make_budget(limit: LimitConfig) -> Budget:
    return Budget(limit, LENGTH, lambda sub: flops_per_token(TEACHER, sub, length=LENGTH))


def walk(
    config: SearchConfig,
    path: Path,
    evaluate: Callable = fitness,
    space: Space = SPACE,
    seed: int = 0,
    budget: Budget | None = None,
) -> Scored:
    """The winner of one search, whose journal is `path`; `evaluate` takes a candidate."""
    return follow(config, make(config, space, seed), path, evaluate, budget)


def follow(
    config: SearchConfig, strategy, path: Path, evaluate: Callable = fitness, budget: Budget | None = None
) -> Scored:
    return search(config, strategy, Landscape(evaluate), path, budget)


def search(
    config: SearchConfig,
    strategy,
    scorer: Scorer,
    path: Path,
    budget: Budget | None = None,
    log: Callable[[dict], None] = lambda line: None,
) -> Scored:
    """As walk; the scorer stays open."""
    journal = Journal(path, "abc")
    try:
        return Search(
            config,
            strategy,
            scorer,
            journal,
            budget or make_budget(config.limit),
            parameters=lambda sub: parameters(TEACHER, sub),
            expected=expected(config, LENGTH),
            log=log,
        ).run()
    finally:
        journal.close()


class Landscape:
    """Scores by a function of a candidate; its value is the loss of every block, and so their mean."""

    def __init__(self, evaluate: Callable):
        self.evaluate = evaluate

    def run(self, subs: list[SubNetwork]):
        for number, sub in enumerate(subs):
            yield number, [self.evaluate(sub)] * BLOCKS
