"""Perplexity is exp(mean negative log-likelihood a token) over fixed blocks, everywhere in Sprig."""

import torch
from torch import nn

from pipeline.models.head import token_nll
from pipeline.models.precision import autocast
from pipeline.models.student import hidden_states

CHUNK_TOKENS = 512  # tokens whose logits exist at one time


@torch.no_grad()
def mean_nll(model: nn.Module, blocks: torch.Tensor, batch: int, precision: str) -> float:
    """Mean negative log-likelihood in nats a token of blocks (n, T + 1), `batch` blocks a forward pass.

    Summed in float64, so that it does not depend on the order of batches beyond a forward pass' own rounding.
    """
    device = next(model.parameters()).device
    total = 0.0
    for chunk in blocks.split(batch):
        tokens = chunk.to(device)
        with autocast(precision, device):
            hidden = hidden_states(model, tokens[:, :-1])
            total += token_nll(model, hidden, tokens[:, 1:], CHUNK_TOKENS).double().sum().item()
    return total / blocks[:, 1:].numel()
