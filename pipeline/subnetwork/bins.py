"""The parameter bin: the counts that a sub-network may have."""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

from pipeline.config import BinConfig
from pipeline.errors import SprigError
from pipeline.subnetwork.architecture import Architecture


@dataclass(frozen=True)
class Bin:
    """Parameter counts low..high, both inside. `count` says what is counted: "total", "non_embedding",
    "exported" or "active"."""

    center: int
    low: int
    high: int
    count: str = "total"

    def contains(self, parameters: int) -> bool:
        return self.low <= parameters <= self.high

    def __str__(self) -> str:
        of = {"non_embedding": " (non-embedding)", "exported": " (as exported)", "active": " (active)"}.get(
            self.count, ""
        )
        return f"{self.low:,}..{self.high:,}{of}"


def check_count(bin: Bin, architecture: Architecture) -> None:
    """Raises SprigError where a bin counts what this teacher does not have."""
    if bin.count == "active" and not architecture.n_expert:
        raise SprigError(
            f"bin.count=active counts the experts that a token passes, but {architecture.name} has none: use "
            "bin.count=total."
        )


def make_bin(config: BinConfig) -> Bin:
    """The configured bin, rounded inward: low = ceil(centre * (1 - tolerance)), high = floor(centre * (1 + tolerance)).

    Raises:
        SprigError: low exceeds high.
    """
    count = str(config.count)
    if config.center is not None:
        # The decimal that was written, not the binary number next to it: 100 * (1 + 0.1) must hold 110.
        tolerance = Fraction(str(config.tolerance))
        return Bin(config.center, ceil(config.center * (1 - tolerance)), floor(config.center * (1 + tolerance)), count)
    low, high = config.low, config.high
    assert low is not None and high is not None  # the schema asks for both where no centre is given
    if low > high:
        raise SprigError(f"bin.low={low:,} exceeds bin.high={high:,}: swap or correct them.")
    return Bin((low + high) // 2, low, high, count)
