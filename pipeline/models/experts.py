"""Where a mixture of experts sends its tokens, as litgpt computes it, and with weights that litgpt lacks.

litgpt weights the chosen experts by a softmax over their logits alone. OLMoE takes a softmax over all experts' logits,
so that the weights of the chosen ones do not sum to 1. litgpt's configuration has no field for that. Sprig writes it as
`routed_scaling_factor` None, at which litgpt's own mixture stops.
"""

import torch
from litgpt import Config
from litgpt.model import LLaMAMoE
from torch import Tensor


def has_open_weights(config: Config) -> bool:
    """Whether the weights of the experts that a token passes do not sum to 1."""
    return config.routed_scaling_factor is None


class OpenMixture(LLaMAMoE):
    """A mixture with these weights."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, width) to what the experts add (B, T, width)."""
        flat = x.flatten(0, -2)
        added = torch.zeros_like(flat)
        for expert, (tokens, weights) in zip(self.experts, routes(self, x), strict=True):
            added[tokens] += weights[:, None] * expert(flat[tokens])
        return added.view_as(x)


def routes(mixture: LLaMAMoE, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each expert the tokens of x (B, T, width) that pass it, numbered from 0 to B * T - 1, and their weights: both
    (n,)."""
    x = x.flatten(0, -2)
    logits = mixture.gate(x)
    highest, chosen = logits.topk(mixture.config.n_expert_per_token)
    if has_open_weights(mixture.config):
        weights = logits.softmax(dim=1, dtype=torch.float).gather(1, chosen)
    else:
        weights = highest.softmax(dim=1, dtype=torch.float)
    weights = weights.to(x.dtype)
    found = []
    for expert in range(mixture.config.n_expert):
        tokens, places = torch.where(chosen == expert)
        found.append((tokens, weights[tokens, places]))
    return found
