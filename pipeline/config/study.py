"""The correlation study: which fitness predicts what training gives."""

from dataclasses import dataclass

from pipeline.config.checks import TOKENS, require, share, whole

FEWEST = 3  # sub-networks: two always rank alike or opposite


@dataclass
class StudyConfig:
    """Sub-networks of the bin, each measured by every fitness and then trained; without any there is no study."""

    random: int = whole(0, low=0, high=10_000)  # sub-networks drawn from the bin
    searched: int = whole(
        0, low=0, high=10_000
    )  # candidates of the run's search, evenly spaced from its best to its worst
    tokens: int | None = whole(
        None, high=TOKENS
    )  # training budget of each, with the run's distillation settings; null: distill.tokens
    # Budgets of shorter trainings, each with a schedule of its own: the loss on calibration blocks is one more fitness.
    short: list[int] = whole([], high=TOKENS)
    resamples: int = whole(1_000, high=100_000)  # of the bootstrap
    confidence: float = share(0.95, open_low=True, open_high=True)  # of its intervals

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
