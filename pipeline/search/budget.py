"""What a search has spent, and what it may spend: comparisons are at equal cost."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.config import LimitConfig
from pipeline.subnetwork.value import SubNetwork


@dataclass
class Spent:
    """Evaluations, tokens predicted by them, and FLOPs of their forward passes."""

    evaluations: int = 0
    tokens: int = 0
    flops: int = 0


class Budget:
    """Books evaluations. `block_size` is in tokens, `flops_per_token` of scoring a candidate on one of them; `spent` is
    what the search costs before its first candidate."""

    def __init__(
        self,
        limit: LimitConfig,
        block_size: int,
        flops_per_token: Callable[[SubNetwork], int],
        spent: Spent | None = None,
    ):
        self.limit, self.block_size, self.flops_per_token = limit, block_size, flops_per_token
        self.spent = spent or Spent()

    def take(self, candidate: SubNetwork, blocks: int) -> bool:
        """Books one evaluation; False, with nothing booked, where it would exceed a limit."""
        tokens = blocks * self.block_size
        after = Spent(
            self.spent.evaluations + 1,
            self.spent.tokens + tokens,
            self.spent.flops + tokens * self.flops_per_token(candidate),
        )
        for name, amount in vars(after).items():
            most = getattr(self.limit, name)
            if most is not None and amount > most:
                return False
        self.spent = after
        return True
