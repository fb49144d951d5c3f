"""Perplexity is exp(mean negative log-likelihood a token) over fixed blocks, everywhere in Sprig."""

import torch
from torch import nn

from pipeline.models.head import chunk_tokens, token_nll
from pipeline.models.precision import autocast
from pipeline.models.student import hidden_states

CPU_CHUNK_TOKENS = 512


@torch.no_grad()
def mean_nll(model: nn.Module, blocks: torch.Tensor, batch: int, precision: str) -> float:
    """Mean negative log-likelihood in nats a token of blocks (n, T + 1), `batch` blocks a forward pass.

    Summed in float64, so that it does not depend on the order of batches beyond a forward pass' own rounding.
    """
    device = next(model.parameters()).device
    total, rows = 0.0, chunk_tokens(device, CPU_CHUNK_TOKENS)
    for chunk in blocks.split(batch):
        tokens = chunk.to(device)
        with autocast(precision, device):
            hidden = hidden_states(model, tokens[:, :-1])
            total += token_nll(model, hidden, tokens[:, 1:], rows).double().sum().item()
    return total / blocks[:, 1:].numel()
