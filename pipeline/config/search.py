"""The search for the best untrained sub-network."""

from dataclasses import dataclass, field

from pipeline.config.checks import fraction, positive, require
from pipeline.config.choices import Fitness, Start, Strategy


@dataclass
class CrossoverConfig:
    offspring: int = 25  # children a generation


@dataclass
class MutationConfig:
    offspring: int = 25  # mutants a generation
    gene_rate: float = 0.2  # chance that a gene of a layer is drawn anew
    global_rate: float = 0.4  # chance that depth, and embedding width, is drawn anew

    def __post_init__(self):
        fraction("search.mutation", self, "gene_rate", "global_rate")


@dataclass
class SelectionConfig:
    """Multi-step selection: each step scores on a larger share of the blocks what the one before left."""

    blocks: list[float] = field(default_factory=lambda: [1.0])  # share of search.blocks, the last step's being 1
    survivors: list[int] = field(default_factory=list)  # candidates that every step but the last leaves

    def __post_init__(self):
        shares, left = list(self.blocks), list(self.survivors)
        require(
            bool(shares) and all(0 < share <= 1 for share in shares) and shares[-1] == 1,
            f"search.selection.blocks={shares} must be shares above 0 and at most 1, the last one 1.",
        )
        require(
            len(left) == len(shares) - 1 and left == sorted(left, reverse=True) and min(left, default=1) > 0,
            f"search.selection.survivors={left} must hold a number for each but the last of search.selection.blocks="
            f"{shares}, above 0 and none above the one before.",
        )


@dataclass
class LimitConfig:
    """What a search may spend; null: whatever the strategy asks for. It ends before the first evaluation beyond."""

    evaluations: int | None = None  # of however many blocks
    tokens: int | None = None  # that evaluations predict
    flops: int | None = None  # of their forward passes

    def __post_init__(self):
        positive("search.limit", self, "evaluations", "tokens", "flops")


@dataclass
class RacingConfig:
    """Candidates are scored on growing shares of the blocks, until it is beyond doubt who the strategy goes on from."""

    enabled: bool = False
    confidence: float = 0.9  # of each comparison, that the better of two on the blocks so far is so on all
    blocks: list[float] = field(
        default_factory=lambda: [0.125, 0.1875, 0.25, 0.375, 0.5]
    )  # shares of search.blocks, at least 2 blocks; after the last one, only who wins is in doubt any longer

    def __post_init__(self):
        require(
            0.5 < self.confidence < 1,
            f"search.racing.confidence={self.confidence} must lie above 0.5 and below 1.",
        )
        shares = list(self.blocks)
        require(
            bool(shares) and all(0 < share < 1 for share in shares) and shares == sorted(set(shares)),
            f"search.racing.blocks={shares} must be growing shares above 0 and below 1.",
        )


@dataclass
class RerankConfig:
    """The best of a search, each trained for a short while: the winner is the one that reaches the lowest loss."""

    candidates: int = 0  # how many; 0: the best untrained one wins
    tokens: int = 20_480  # training budget of each, with the run's distillation settings
    lr: float | None = None  # null: distill.lr

    def __post_init__(self):
        require(self.candidates >= 0, f"search.rerank.candidates={self.candidates} must not be negative.")
        positive("search.rerank", self, "tokens", "lr")


# Strategies that go on from the best of a first generation.
FROM_A_POPULATION = (Strategy.evolution, Strategy.one_plus_lambda, Strategy.regularized_evolution, Strategy.local)


@dataclass
class SearchConfig:
    """Bin-constrained search for the best untrained sub-network."""

    strategy: Strategy = Strategy.evolution
    path: str | None = None  # strategy=given: a sub-network's JSON file
    start: list[Start] = field(default_factory=list)  # members that a first generation begins with, the rest random
    population: int = 50  # candidates of the first generation; regularized_evolution: of every one
    generations: int = 100  # after the first
    offspring: int = 16  # one_plus_lambda, regularized_evolution, local: candidates a generation
    parents: int = 10  # evolution
    crossover: CrossoverConfig = field(default_factory=CrossoverConfig)  # evolution
    mutation: MutationConfig = field(default_factory=MutationConfig)  # evolution; rates: regularized_evolution, too
    swaps: int = 3  # one_plus_lambda: at most so many a mutant
    selection: SelectionConfig = field(default_factory=SelectionConfig)  # one_plus_lambda
    tournament: int = 10  # regularized_evolution: members that compete to be the parent
    evaluations: int = 100  # random: how many candidates
    limit: LimitConfig = field(default_factory=LimitConfig)
    rerank: RerankConfig = field(default_factory=RerankConfig)
    random_baseline: bool = False  # also score best-of-n random on as many tokens
    fitness: Fitness = Fitness.perplexity  # or kl: mean forward KL to the teacher, in nats a token
    racing: RacingConfig = field(default_factory=RacingConfig)
    blocks: int = 8  # calibration blocks a candidate is scored on
    batch: int = 8  # blocks a forward pass
    prefix_memory: int = 256  # MiB of hidden states a process keeps for candidates of the same first layers; 0: none
    workers: int = 1  # processes that evaluate: one a GPU, or the cores shared out; 1 where torchrun starts them

    def __post_init__(self):
        positive("search", self, "population", "offspring", "parents", "swaps", "tournament", "evaluations")
        positive("search", self, "blocks", "batch")
        positive("search", self, "workers")
        require(self.prefix_memory >= 0, f"search.prefix_memory={self.prefix_memory} must not be negative.")
        require(
            self.blocks > 2 or not self.racing.enabled,
            f"search.racing compares candidates on 2 blocks before all search.blocks={self.blocks}: raise it above 2.",
        )
        require(self.generations >= 0, f"search.generations={self.generations} must not be negative.")
        require(
            self.parents <= self.population or self.strategy != Strategy.evolution,
            f"search.parents={self.parents} exceeds search.population={self.population}: lower it.",
        )
        require(
            self.tournament <= self.population or self.strategy != Strategy.regularized_evolution,
            f"search.tournament={self.tournament} exceeds search.population={self.population}: lower it.",
        )
        children, mutants = self.crossover.offspring, self.mutation.offspring
        require(
            min(children, mutants) >= 0 and children + mutants > 0,
            f"search.crossover.offspring={children} and search.mutation.offspring={mutants} must not be negative, nor "
            "both 0.",
        )
        require(
            (self.strategy == Strategy.given) == (self.path is not None),
            f"search.strategy={self.strategy} with search.path={self.path}: `given` needs a path, no other takes one.",
        )
        starts = [str(start) for start in self.start]
        require(
            not starts or self.strategy in FROM_A_POPULATION,
            f"search.strategy={self.strategy} takes no search.start={starts}: {', '.join(FROM_A_POPULATION)} do.",
        )
        require(
            len(set(starts)) == len(starts) <= self.population,
            f"search.start={starts} must name each at most once, and at most search.population={self.population}.",
        )
        counts = self.step_blocks()
        require(
            counts == sorted(set(counts)),
            f"search.selection.blocks={list(self.selection.blocks)} of search.blocks={self.blocks} are {counts} "
            "blocks; each step needs more than the one before: raise search.blocks, or take fewer steps.",
        )

    def step_blocks(self) -> list[int]:
        """Blocks that each step of the selection scores on."""
        return [max(round(share * self.blocks), 1) for share in self.selection.blocks]

    def racing_blocks(self) -> list[int]:
        """Numbers of blocks at which racing compares candidates: none where it is off."""
        if not self.racing.enabled:
            return []
        return sorted({max(round(share * self.blocks), 2) for share in self.racing.blocks} - {self.blocks})

    def winners(self) -> int:
        """How many candidates a search is for."""
        return max(self.rerank.candidates, 1)

    def cuts(self) -> list[int]:
        """Numbers of blocks that a candidate may be scored up to, before all of them."""
        selected = self.step_blocks() if self.strategy == Strategy.one_plus_lambda else []
        return sorted({*selected, *self.racing_blocks()} - {self.blocks})
