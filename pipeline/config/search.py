"""The search for the best untrained sub-network."""

from dataclasses import dataclass, field

from pipeline.config.checks import (
    BLOCKS,
    LEARNING_RATE,
    TOKENS,
    later,
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
    offspring: int = whole(25, low=0, high=CANDIDATES)  # children per generation


@dataclass
class MutationConfig:
    offspring: int = whole(25, low=0, high=CANDIDATES)  # mutants per generation
    gene_rate: float = share(0.2)  # probability that a gene of a layer is drawn again
    global_rate: float = share(0.4)  # the same for depth and for embedding width


@dataclass
class LimitConfig:
    """What a search may spend; null: no limit. A search stops before an evaluation that would exceed a limit."""

    evaluations: int | None = whole(None, high=10**9)
    tokens: int | None = whole(None, high=TOKENS)  # tokens predicted by evaluations
    flops: int | None = whole(None, high=10**30)  # FLOPs of their forward passes


@dataclass
class RerankConfig:
    """Trains the best candidates of a search briefly; the one that reaches the lowest loss wins."""

    # number of candidates; 0: no rerank, which has saved no FLOPs (results/lab/rerank)
    candidates: int = whole(0, low=0, high=10_000)
    tokens: int = whole(20_480, high=TOKENS)  # training budget of each, with the run's distillation settings
    lr: float | None = real(None, **LEARNING_RATE)  # null: distill.lr


# Strategies that continue from the best of a first generation.
FROM_A_POPULATION = (Strategy.evolution, Strategy.one_plus_lambda, Strategy.local)


@dataclass
class SearchConfig:
    """Bin-constrained search for the best untrained sub-network."""

    # One of the strategies (docs/choose-a-search.md), or the import path of your own class.
    strategy: str = Strategy.evolution
    path: str | None = location(None)  # strategy=given: a sub-network's JSON file
    # Rules whose candidates join the first generation; the others are random.
    start: list[Start] = used_by(field(default_factory=list), *FROM_A_POPULATION)
    population: int = used_by(whole(50, high=CANDIDATES), *FROM_A_POPULATION)  # candidates of the first generation
    generations: int = used_by(whole(100, low=0), *FROM_A_POPULATION)  # generations after the first
    # Candidates per generation.
    offspring: int = used_by(whole(16, high=CANDIDATES), Strategy.one_plus_lambda, Strategy.local)
    # The best candidates, from which offspring are made.
    parents: int = used_by(whole(10, high=CANDIDATES), Strategy.evolution)
    crossover: CrossoverConfig = used_by(field(default_factory=CrossoverConfig), Strategy.evolution)
    mutation: MutationConfig = used_by(field(default_factory=MutationConfig), Strategy.evolution)
    # Offspring drawn for each that is evaluated; a regression on the evaluations so far chooses half of them. 0: off.
    surrogate: int = later(used_by(whole(0, low=0, high=1_000), Strategy.evolution))
    evaluations: int = used_by(whole(100), Strategy.random)  # number of candidates
    limit: LimitConfig = used_by(field(default_factory=LimitConfig), *FROM_A_POPULATION, Strategy.random)
    rerank: RerankConfig = field(default_factory=RerankConfig)
    random_baseline: bool = False  # also evaluates random candidates on the same number of tokens
    # perplexity; kl, the mean forward KL to the teacher in nats per token; or the import path of your own function.
    fitness: str = Fitness.perplexity
    blocks: int = whole(8, high=BLOCKS)  # calibration blocks on which each candidate is evaluated
    batch: int = whole(8)  # blocks per forward pass

    @property
    def reads_errors(self) -> bool:
        """Whether it chooses by the teacher's reconstruction errors."""
        return Strategy.allocation in (self.strategy, *self.start)

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
            f"search.strategy={self.strategy} with search.path={self.path}: `given` needs a path, and no other "
            "strategy takes one.",
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
