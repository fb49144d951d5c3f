"""What the logits cache keeps of the teacher at each token, and the divergence of a student from it.

`sampled` keeps ids drawn from the teacher's distribution at the temperature (Random Sampling KD, arXiv 2503.16870), an
id that is drawn c times filling c slots, and the distribution's entropy. Its forward KL, -mean log q(drawn id) minus
the entropy, and that one's gradient have those of the full teacher as their expectation, whatever the student. The
draws are systematic: one random number places `slots` evenly spaced points on the cumulative distribution. Each id's
expected count is slots * p as with independent draws, at less variance. A block keeps its draws for ever: a student
that sees them in many epochs learns them by heart, where `topk` is the safer kind.

`topk` keeps the `slots` likeliest ids with their log-probabilities at temperature 1, and for each temperature the
mass of all others, the tail. Its divergence compares slots + 1 outcomes, the tail being one of them, which is at most
the full one: how the teacher divides the tail is not known.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.config import CacheConfig, CacheKind, DistillConfig
from pipeline.training.divergences import Divergence, divergence_of, log_probabilities

_TINY = 1e-30  # stands for a tail of probability zero, whose logarithm must be finite


def token_dtype(cache: CacheConfig, temperatures: Sequence[float], vocab_size: int) -> np.dtype:
    """One token's part of a record, packed."""
    ids = ("ids", "<u2" if vocab_size <= 1 << 16 else "<u4", (cache.slots,))
    if cache.kind == CacheKind.sampled:
        return np.dtype([ids, ("entropy", "<f4")])
    return np.dtype([ids, ("log_p", "<f2", (cache.slots,)), ("tail", "<f4", (len(temperatures),))])


def encode(logits: Tensor, dtype: np.dtype, temperatures: Sequence[float], uniform: Tensor) -> np.ndarray:
    """The teacher's logits (n, V) in fp32, used up, as n tokens of `dtype`; uniform (n,) in [0, 1) places the draws."""
    tokens = np.empty(len(logits), dtype)
    slots = tokens["ids"].shape[1]
    if "entropy" in dtype.names:
        log_p = log_probabilities(logits, temperatures[0])
        p = log_p.exp()
        cumulated = p.cumsum(1, dtype=torch.float64)
        points = (torch.arange(slots, device=p.device) + uniform[:, None]) / slots * cumulated[:, -1:]
        tokens["ids"] = torch.searchsorted(cumulated, points, right=True).clamp_(max=p.size(1) - 1).cpu()
        tokens["entropy"] = -p.mul_(log_p).sum(1).cpu()
        return tokens
    log_p = log_probabilities(logits, 1.0)
    kept, ids = log_p.topk(slots)
    tokens["ids"], tokens["log_p"] = ids.cpu(), kept.cpu()
    for number, temperature in enumerate(temperatures):
        p = log_probabilities(log_p.clone(), temperature).exp_()
        tokens["tail"][:, number] = p.scatter_(1, ids, 0).sum(1).cpu()
    return tokens


@dataclass(frozen=True)
class Sampled:
    """Drawn ids (N, slots) and entropies (N,): a reference of `losses.chunked_loss`, the forward KL."""

    ids: Tensor
    entropy: Tensor

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "Sampled":
        return Sampled(function(self.ids), function(self.entropy))

    def __call__(self, part: slice, log_q: Tensor) -> tuple[Tensor, Tensor]:
        ids = self.ids[part]
        value = -log_q.gather(1, ids).mean(1) - self.entropy[part]
        q = log_q.exp_()
        return value, q.scatter_add_(1, ids, q.new_full(ids.shape, -1 / ids.size(1)))


@dataclass(frozen=True)
class TopK:
    """Kept ids (N, slots) and log-probabilities (N, slots + 1) at the temperature, the tail's last: a reference of
    `losses.chunked_loss`."""

    ids: Tensor
    log_p: Tensor
    divergence: Divergence

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "TopK":
        return TopK(function(self.ids), function(self.log_p), self.divergence)

    def __call__(self, part: slice, log_q: Tensor) -> tuple[Tensor, Tensor]:
        ids = self.ids[part]
        kept = log_q.gather(1, ids)
        q = log_q.exp_().scatter_(1, ids, 0)
        tail = q.sum(1, keepdim=True).clamp_(min=_TINY)
        value, gradient = self.divergence(torch.cat([kept, tail.log()], dim=1), self.log_p[part].clone())
        # The tail's logit is the logsumexp of its ids' logits, so they share its gradient by their shares of its mass.
        q.mul_(gradient[:, -1:] / tail)
        return value, q.scatter_(1, ids, gradient[:, :-1])


def decode(tokens: np.ndarray, temperatures: Sequence[float], config: DistillConfig) -> Sampled | TopK:
    """The reference of N tokens that `encode` made, at the configured temperature."""
    ids = torch.from_numpy(tokens["ids"].astype(np.int64))
    if "entropy" in tokens.dtype.names:
        return Sampled(ids, torch.from_numpy(tokens["entropy"].copy()))
    log_p = torch.from_numpy(tokens["log_p"].astype(np.float32)) / config.temperature
    tail = torch.from_numpy(tokens["tail"][:, temperatures.index(config.temperature), None].copy())
    # Kept probabilities and tail sum to one, so the tail gives the normaliser that the temperature needs.
    log_p += torch.log1p(-tail) - log_p.logsumexp(1, keepdim=True)
    return TopK(ids, torch.cat([log_p, tail.clamp(min=_TINY).log()], dim=1), divergence_of(config))


def distance(tokens: np.ndarray, others: np.ndarray, vocab_size: int) -> float:
    """Total variation between what two records keep, mean over their tokens: 0 is the same, 1 as far as can be."""

    def dense(tokens: np.ndarray) -> Tensor:
        ids = torch.from_numpy(tokens["ids"].astype(np.int64))
        if "entropy" in tokens.dtype.names:
            weights = torch.full(ids.shape, 1 / ids.size(1))
        else:
            weights = torch.from_numpy(tokens["log_p"].astype(np.float32)).exp()
        return torch.zeros(len(ids), vocab_size).scatter_add_(1, ids, weights)

    return (dense(tokens) - dense(others)).abs().sum(1).mean().item() / 2
