"""The correlation study: which fitness predicts what training gives."""

from dataclasses import dataclass, field

from pipeline.config.checks import positive, require

FEWEST = 3  # sub-networks: two always rank alike or opposite


@dataclass
class StudyConfig:
    """Sub-networks of the bin, each measured by every fitness and then trained; without any there is no study."""

    random: int = 0  # sub-networks drawn from the bin
    searched: int = 0  # candidates of the run's search, evenly spaced from its best to its worst
    tokens: int | None = None  # training budget of each, with the run's distillation settings; null: distill.tokens
    # Budgets of shorter trainings, each with a schedule of its own: the loss on calibration blocks is one more fitness.
    short: list[int] = field(default_factory=list)
    resamples: int = 1_000  # of the bootstrap
    confidence: float = 0.95  # of its intervals

    def __post_init__(self):
        require(
            min(self.random, self.searched) >= 0,
            f"study.random={self.random} and study.searched={self.searched} must not be negative.",
        )
        require(
            self.subnetworks == 0 or self.subnetworks >= FEWEST,
            f"study.random={self.random} and study.searched={self.searched} make {self.subnetworks} sub-networks, but "
            f"a rank correlation needs at least {FEWEST}: raise them, or set both to 0 for no study.",
        )
        positive("study", self, "tokens", "resamples")
        short = list(self.short)
        require(
            all(tokens > 0 for tokens in short) and short == sorted(set(short)),
            f"study.short={short} must be growing budgets above 0.",
        )
        require(0 < self.confidence < 1, f"study.confidence={self.confidence} must lie between 0 and 1, both excluded.")

    @property
    def subnetworks(self) -> int:
        return self.random + self.searched
