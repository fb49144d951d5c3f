"""Greedy continuation of a prompt."""

import torch
from torch import nn

from pipeline.models.precision import autocast
from pipeline.models.student import hidden_states


@torch.no_grad()
def continue_greedily(model: nn.Module, prompt: list[int], count: int, eos_id: int, precision: str) -> list[int]:
    """Up to `count` new token ids, each the likeliest real entry of the vocabulary; stops before the EOS token."""
    device = next(model.parameters()).device
    ids = list(prompt)
    for _ in range(count):
        with autocast(precision, device):
            hidden = hidden_states(model, torch.tensor([ids[-model.max_seq_length :]], device=device))
            logits = model.lm_head(hidden[:, -1])[0, : model.config.vocab_size]
        token = int(logits.argmax())
        if token == eos_id:
            break
        ids.append(token)
    return ids[len(prompt) :]
