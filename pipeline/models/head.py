"""The language-model head for inference, in chunks: full logits are the largest tensor of a small model."""

from collections.abc import Callable
from functools import cache

import torch
from litgpt import GPT
from torch import Tensor, nn
from torch.nn import functional as F

_GPU_TOKENS = 2_048  # with fewer, reading the head's weights takes longer than the product


class CappedHead(nn.Linear):
    """A head with soft-capped logits, cap * tanh(logits / cap), in fp32 (Gemma 2, arXiv 2408.00118, section 2)."""

    def __init__(self, features: int, rows: int, bias: bool, cap: float):
        super().__init__(features, rows, bias=bias)
        self.cap = cap

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x).float()
        if torch.is_grad_enabled():
            return torch.tanh(logits / self.cap) * self.cap
        return logits.div_(self.cap).tanh_().mul_(self.cap)


def chunk_tokens(device: torch.device, on_cpu: int) -> int:
    """How many tokens' logits exist at one time."""
    return _GPU_TOKENS if device.type == "cuda" else on_cpu


@torch.no_grad()
def token_nll(model: GPT, hidden: Tensor, targets: Tensor, chunk_tokens: int, compiled: bool = False) -> Tensor:
    """Negative log-likelihood of every target, in nats.

    `hidden` is (B, T, E), after the final norm; `targets` (B, T); the result (B, T) in fp32. Never more than
    `chunk_tokens` rows of logits exist. The vocabulary's padding rows do not enter the softmax, which is in fp32.
    `compiled`: in one kernel, which all models of a vocabulary share.
    """
    vocabulary, nll = model.config.vocab_size, _compiled(_nll) if compiled else _nll
    losses = []
    for states, tokens in zip(
        hidden.flatten(0, 1).split(chunk_tokens), targets.flatten().split(chunk_tokens), strict=True
    ):
        logits = model.lm_head(states)[:, :vocabulary]
        if not compiled:
            logits = logits.float()  # and those that the head returned are free
        losses.append(nll(logits, tokens))
        del logits  # or it would still be there when the next chunk's are made
    return torch.cat(losses).view(targets.shape)


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    # On a CPU half the time of logsumexp and gather, and lower by 1.5e-5 nats with 49,152 tokens, 2.8e-5 with 262,144.
    return F.cross_entropy(logits.float(), targets, reduction="none")


@cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function, dynamic=False)


@torch.no_grad()
def token_kl(teacher: GPT, teacher_hidden: Tensor, model: GPT, hidden: Tensor, chunk_tokens: int) -> Tensor:
    """Forward KL(teacher || model) of every next-token distribution, in nats.

    `teacher_hidden` is (B, T, E_teacher) and `hidden` (B, T, E), both after the final norm; the result (B, T) in fp32.
    Chunks and vocabulary as in `token_nll`.
    """
    vocabulary = model.config.vocab_size
    divergences = []
    for theirs, ours in zip(
        teacher_hidden.flatten(0, 1).split(chunk_tokens), hidden.flatten(0, 1).split(chunk_tokens), strict=True
    ):
        log_p = teacher.lm_head(theirs)[:, :vocabulary].float().log_softmax(dim=1)
        log_q = model.lm_head(ours)[:, :vocabulary].float().log_softmax(dim=1)
        divergences.append((log_p.exp() * log_q.neg_().add_(log_p)).sum(dim=1))
        del log_p, log_q  # as above
    return torch.cat(divergences).view(hidden.shape[:2])
