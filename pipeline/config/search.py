"""The search for the best untrained sub-network."""

from dataclasses import dataclass, field

from pipeline.config.checks import (
    BLOCKS,
    LEARNING_RATE,
    TOKENS,
    location,
    real,
    require,
    share,
    used_by,
    whole,
)
from pipeline.config.choices import Fitness, Start, Strategy
from pipeline.config.own import known_or_own

CANDIDATES = 10**5  # of one generation


@dataclass
class CrossoverConfig:
    offspring: int = whole(25, low=0, high=CANDIDATES)  # children a generation


@dataclass
class MutationConfig:
    offspring: int = whole(25, low=0, high=CANDIDATES)  # mutants a generation
    gene_rate: float = share(0.2)  # chance that a gene of a layer is drawn again
    global_rate: float = share(0.4)  # chance that depth, and embedding width, is drawn again


@dataclass
class LimitConfig:
    """What a search may spend; null: whatever the strategy asks for. A search stops before an evaluation exceeds it."""

    evaluations: int | None = whole(None, high=10**9)
    tokens: int | None = whole(None, high=TOKENS)  # that evaluations predict
    flops: int | None = whole(None, high=10**30)  # of their forward passes


@dataclass
class RerankConfig:
    """The best of a search, each trained for a short while: the winner is the one that reaches the lowest loss."""

    candidates: int = whole(0, low=0, high=10_000)  # how many; 0: the best untrained one wins
    tokens: int = whole(20_480, high=TOKENS)  # training budget of each, with the run's distillation settings
    lr: float | None = real(None, **LEARNING_RATE)  # null: distill.lr


# Strategies that continue from the best of a first generation.
FROM_A_POPULATION = (Strategy.evolution, Strategy.one_plus_lambda, Strategy.local)


@dataclass
class SearchConfig:
    """Bin-constrained search for the best untrained sub-network."""

    # One of the strategies (docs/extend.md), or the import path of your own class.
    strategy: str = Strategy.evolution
    path: str | None = location(None)  # strategy=given: a sub-network's JSON file
    # Members that a first generation begins with, the rest random.
    start: list[Start] = used_by(field(default_factory=list), *FROM_A_POPULATION)
    population: int = used_by(whole(50, high=CANDIDATES), *FROM_A_POPULATION)  # candidates of the first generation
    generations: int = used_by(whole(100, low=0), *FROM_A_POPULATION)  # after the first
    # Candidates a generation.
    offspring: int = used_by(whole(16, high=CANDIDATES), Strategy.one_plus_lambda, Strategy.local)
    parents: int = used_by(whole(10, high=CANDIDATES), Strategy.evolution)
    crossover: CrossoverConfig = used_by(field(default_factory=CrossoverConfig), Strategy.evolution)
    mutation: MutationConfig = used_by(field(default_factory=MutationConfig), Strategy.evolution)
    evaluations: int = used_by(whole(100), Strategy.random)  # how many candidates; your own class reads every key
    limit: LimitConfig = used_by(field(default_factory=LimitConfig), *FROM_A_POPULATION, Strategy.random)
    rerank: RerankConfig = field(default_factory=RerankConfig)
    random_baseline: bool = False  # also score best-of-n random on as many tokens
    # perplexity; kl: mean forward KL to the teacher, in nats per token; or the import path of your own function.
    fitness: str = Fitness.perplexity
    blocks: int = whole(8, high=BLOCKS)  # calibration blocks a candidate is scored on
    batch: int = whole(8)  # blocks a forward pass

    def __post_init__(self) -> None:
        known_or_own("search.strategy", self.strategy, Strategy, "MyStrategy")
        known_or_own("search.fitness", self.fitness, Fitness, "my_fitness")
        require(
            self.parents <= self.population or self.strategy != Strategy.evolution,
            f"search.parents={self.parents} exceeds search.population={self.population}: lower it.",
        )
        children, mutants = self.crossover.offspring, self.mutation.offspring
        require(
            children + mutants > 0,
            f"search.crossover.offspring={children} and search.mutation.offspring={mutants} must not both be 0.",
        )
        require(
            (self.strategy == Strategy.given) == (self.path is not None),
            f"search.strategy={self.strategy} with search.path={self.path}: `given` needs a path, no other takes one.",
        )
        starts = [str(start) for start in self.start]
        require(
            not starts or self.strategy in FROM_A_POPULATION,
            f"search.strategy={self.strategy} does not accept search.start={starts}: "
            f"{', '.join(FROM_A_POPULATION)} do.",
        )
        require(
            len(set(starts)) == len(starts) <= self.population,
            f"search.start={starts} must name each at most once, and at most search.population={self.population}.",
        )
