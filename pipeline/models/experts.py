"""Where a mixture of experts sends its tokens, as litgpt computes it."""

import torch
from litgpt.model import LLaMAMoE
from torch import Tensor


def routes(mixture: LLaMAMoE, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each expert the tokens of x (B, T, width) that pass it, numbered from 0 to B * T - 1, and their weights: both
    (n,). The weights of a token sum to 1."""
    x = x.flatten(0, -2)
    logits, chosen = mixture.gate(x).topk(mixture.config.n_expert_per_token)
    weights = logits.softmax(dim=1, dtype=torch.float).to(x.dtype)
    found = []
    for expert in range(mixture.config.n_expert):
        tokens, places = torch.where(chosen == expert)
        found.append((tokens, weights[tokens, places]))
    return found
