"""Perplexity is exp(mean negative log-likelihood per token) over fixed blocks, everywhere in Sprig.

Perplexities of different vocabularies are not comparable, because their tokens are of different lengths. Bits per byte
are.
"""

import math

import torch
from torch import nn

from pipeline.models.head import chunk_tokens, token_nll
from pipeline.models.precision import autocast
from pipeline.models.student import hidden_states

CPU_CHUNK_TOKENS = 512


@torch.no_grad()
def mean_nll(model: nn.Module, blocks: torch.Tensor, batch: int, precision: str) -> float:
    """Mean negative log-likelihood in nats per token of blocks (n, T + 1), `batch` blocks per forward pass.

    Summed in float64, so that it does not depend on the order of batches beyond a forward pass' own rounding.
    """
    total = 0.0
    for chunk in blocks.split(batch):
        total += summed_nll(model, chunk, precision).item()
    return total / blocks[:, 1:].numel()


def bits_per_byte(nll: float, tokens: int, size: int) -> float:
    """Of a mean negative log-likelihood in nats over `tokens` tokens, which are `size` bytes of text."""
    return nll * tokens / (math.log(2) * size)


@torch.no_grad()
def summed_nll(model: nn.Module, blocks: torch.Tensor, precision: str) -> torch.Tensor:
    """The sum over blocks (n, T + 1) that run together, a scalar in float64 on the model's device."""
    device = next(model.parameters()).device
    tokens = blocks.to(device)
    with autocast(precision, device):
        hidden = hidden_states(model, tokens[:, :-1])
        losses = token_nll(model, hidden, tokens[:, 1:], chunk_tokens(device, CPU_CHUNK_TOKENS))
    return losses.double().sum()
