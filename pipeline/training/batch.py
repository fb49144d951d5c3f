"""What one forward pass is trained on."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.training.cached import Sampled, TopK


@dataclass(frozen=True)
class Batch:
    """Blocks of tokens (B, T+1), and what a cache keeps of the teacher at their B*T targets."""

    tokens: Tensor
    cached: Sampled | TopK | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(function(self.tokens), self.cached and self.cached.mapped(function))
