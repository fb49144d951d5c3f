"""What a search has spent, and what it may spend: comparisons are at equal cost."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.config import Fitness, LimitConfig, SearchConfig
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.counting import flops_per_token, layers_flops, outer_flops
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


def teacher_flops(config: SearchConfig, architecture: Architecture, length: int) -> tuple[int, int]:
    """With fitness=kl: of the teacher's layers, which run once on all blocks of `length` tokens, and of its head, for
    each token that is evaluated."""
    if config.fitness != Fitness.kl:
        return 0, 0
    layers = layers_flops(architecture, length=length)
    return layers * config.blocks * length, outer_flops(architecture, architecture.n_embd)


def budget_of(config: SearchConfig, architecture: Architecture, length: int, before: int = 0) -> Budget:
    """A search's budget, from which a KL's teacher and the FLOPs `before` it are booked first."""
    once, head = teacher_flops(config, architecture, length)
    return Budget(
        config.limit,
        length,
        lambda sub: flops_per_token(architecture, sub, length=length) + head,
        Spent(flops=once + before),
    )
