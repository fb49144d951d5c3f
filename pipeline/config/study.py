"""The correlation study: which fitness predicts the trained loss."""

from dataclasses import dataclass

from pipeline.config.checks import TOKENS, require, share, whole

FEWEST = 3  # sub-networks: two always rank alike or opposite


@dataclass
class StudyConfig:
    """Sub-networks in the bin that are measured by every fitness and then trained. Without any, no study is made."""

    random: int = whole(0, low=0, high=10_000)  # random sub-networks in the bin
    # candidates of the run's search, evenly spaced from its best to its worst
    searched: int = whole(0, low=0, high=10_000)
    # training budget of each, with the run's distillation settings; null: distill.tokens
    tokens: int | None = whole(None, high=TOKENS)
    # Budgets of shorter training runs, each with its own schedule; their calibration loss is one more fitness.
    short: list[int] = whole([], high=TOKENS)
    resamples: int = whole(1_000, high=100_000)  # number of bootstrap resamples
    confidence: float = share(0.95, open_low=True, open_high=True)  # level of the bootstrap's intervals

    def __post_init__(self) -> None:
        require(
            self.subnetworks == 0 or self.subnetworks >= FEWEST,
            f"study.random={self.random} and study.searched={self.searched} make {self.subnetworks} sub-networks, but "
            f"a rank correlation needs at least {FEWEST}: raise them, or set both to 0 for no study.",
        )
        short = list(self.short)
        require(
            short == sorted(set(short)),
            f"study.short={short} must be growing budgets.",
        )

    @property
    def subnetworks(self) -> int:
        return self.random + self.searched
