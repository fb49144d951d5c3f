"""The validation loss over all ranks: each evaluates every n-th batch of the same fixed blocks."""

import torch
from torch import Tensor, nn

from pipeline.models.perplexity import summed_nll
from pipeline.ranks import rank, world_size
from pipeline.training.distributed import summed


@torch.no_grad()
def shared_nll(model: nn.Module, blocks: Tensor, batch: int, precision: str) -> float:
    """As pipeline.models.perplexity.mean_nll, on every rank, which all call it together.

    The batches are those of one rank, so only the order of the final sum in float64 depends on the number of ranks.
    """
    batches, ranks = blocks.split(batch), world_size()
    total = torch.zeros((), dtype=torch.float64, device=next(model.parameters()).device)
    for first in range(0, len(batches), ranks):
        # Each rank makes the same number of passes, because ZeRO-3 gathers weights in them.
        number = min(first + rank(), len(batches) - 1)
        nll = summed_nll(model, batches[number], precision)
        if number == first + rank():
            total += nll
    if ranks > 1:
        summed(total)
    return total.item() / blocks[:, 1:].numel()
