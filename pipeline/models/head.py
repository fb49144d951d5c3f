"""The language-model head for inference, in chunks: full logits are the largest tensor of a small model."""

import torch
from litgpt import GPT
from torch import Tensor


@torch.no_grad()
def token_nll(model: GPT, hidden: Tensor, targets: Tensor, chunk_tokens: int) -> Tensor:
    """Negative log-likelihood of every target, in nats.

    `hidden` is (B, T, E), after the final norm; `targets` (B, T); the result (B, T) in fp32. Never more than
    `chunk_tokens` rows of logits exist. The vocabulary's padding rows do not enter the softmax, which is in fp32.
    """
    vocabulary = model.config.vocab_size
    losses = []
    for states, tokens in zip(
        hidden.flatten(0, 1).split(chunk_tokens), targets.flatten().split(chunk_tokens), strict=True
    ):
        logits = model.lm_head(states)[:, :vocabulary].float()
        losses.append(logits.logsumexp(dim=1) - logits.gather(1, tokens[:, None])[:, 0])
    return torch.cat(losses).view(targets.shape)
