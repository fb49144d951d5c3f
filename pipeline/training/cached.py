"""What the logits cache keeps of the teacher at each token, and the divergence of a student from it.

`sampled` keeps ids drawn from the teacher's distribution at the temperature, their counts, and the distribution's
entropy (Random Sampling KD, arXiv 2503.16870). Its forward KL, -sum count/draws log q(id) minus the entropy, and that
one's gradient have those of the full teacher as their expectation, whatever the student. Independent draws may not be
more than the slots, or they could find more ids than fit. These depend on one another: whatever the teacher, four draws
a slot never find more, at less variance (see `_draw`). A block keeps its draws permanently: a student that sees them in
many epochs learns them by heart, where `topk` is the safer kind.

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

_DRAWS = 4  # a slot
_TINY = 1e-30  # stands for a tail of probability zero, whose logarithm must be finite


def token_dtype(cache: CacheConfig, temperatures: Sequence[float], vocab_size: int) -> np.dtype:
    """One token's part of a record, packed."""
    ids = ("ids", "u1", (cache.slots, 2 if vocab_size <= 1 << 16 else 3))
    if cache.kind == CacheKind.sampled:
        bits = (_DRAWS + 1) * cache.slots - 1  # one for each draw, and one for each border between two slots
        return np.dtype([ids, ("counts", "u1", (-(-bits // 8),)), ("entropy", "<f4")])
    return np.dtype([ids, ("log_p", "<f2", (cache.slots,)), ("tail", "<f4", (len(temperatures),))])


def _is_sampled(dtype: np.dtype) -> bool:
    return "entropy" in (dtype.names or ())


def encode(logits: Tensor, dtype: np.dtype, temperatures: Sequence[float], uniform: Tensor) -> np.ndarray:
    """The teacher's logits (n, V) in fp32, used up, as n tokens of `dtype`; uniform (n, 2) in [0, 1) are the draws'."""
    tokens = np.empty(len(logits), dtype)
    slots = tokens["ids"].shape[1]
    if _is_sampled(dtype):
        log_p = log_probabilities(logits, temperatures[0])
        p = log_p.exp()
        ids, counts = _draw(p, slots, uniform)
        tokens["counts"] = _pack_counts(counts.cpu().numpy())
        tokens["entropy"] = -p.mul_(log_p).sum(1).cpu()
    else:
        log_p = log_probabilities(logits, 1.0)
        kept, ids = log_p.topk(slots)
        tokens["log_p"] = kept.cpu()
        for number, temperature in enumerate(temperatures):
            p = log_probabilities(log_p.clone(), temperature).exp_()
            tokens["tail"][:, number] = p.scatter_(1, ids, 0).sum(1).cpu()
    tokens["ids"] = ids.cpu().numpy().astype("<u4")[:, :, None].view("u1")[:, :, : tokens["ids"].shape[2]]
    return tokens


def _draw(p: Tensor, slots: int, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Ids (n, slots), no two the same, and how many of all draws each of them has, whose expectation is draws * p.

    Threshold sampling, of least variance among the unbiased ways to keep that many ids (Cohen, Duffield, Kaplan, Lund
    and Thorup 2009): ids above a threshold are kept with their own weight p, and the others share the slots left, each
    being kept with probability p / threshold and then with the threshold as its weight, by systematic sampling: evenly
    spaced points on the cumulative distribution. In the same way weights become whole numbers of draws.
    """
    p = p.double()
    top, likeliest = p.topk(slots)
    places = torch.arange(slots, device=p.device)
    rest = p.sum(1, keepdim=True) - top.cumsum(1) + top  # the mass of this id and all that are less likely
    above = (top * (slots - places) > rest)[:, :-1].long().cumprod(1).sum(1, keepdim=True)
    own = places < above
    cumulated = p.scatter_(1, likeliest, top.masked_fill(own, 0)).cumsum_(1)
    threshold = cumulated[:, -1:] / (slots - above)
    points = (places - above + uniform[:, :1]).clamp_(min=0) * threshold
    others = torch.searchsorted(cumulated, points, right=True).clamp_(max=p.size(1) - 1)
    weights = torch.where(own, top, threshold).cumsum(1)
    draws = (weights * (_DRAWS * slots / weights[:, -1:]) + uniform[:, 1:]).floor_().clamp_(max=_DRAWS * slots)
    draws[:, -1] = _DRAWS * slots
    return torch.where(own, likeliest, others), draws.long().diff(dim=1, prepend=torch.zeros_like(above))


def _pack_counts(counts: np.ndarray) -> np.ndarray:
    """Each slot's number of draws in unary zeros, and a one between two slots: 5 bits a slot, whatever its count."""
    slots = counts.shape[1]
    bits = np.zeros((len(counts), (_DRAWS + 1) * slots - 1), bool)
    np.put_along_axis(bits, counts.cumsum(1)[:, :-1] + np.arange(slots - 1), True, axis=1)
    return np.packbits(bits, axis=1)


def _read_ids(tokens: np.ndarray) -> Tensor:
    ids = np.zeros((*tokens["ids"].shape[:2], 4), "u1")
    ids[:, :, : tokens["ids"].shape[2]] = tokens["ids"]
    return torch.from_numpy(ids.view("<u4")[:, :, 0].astype(np.int64))


def _read_weights(tokens: np.ndarray) -> Tensor:
    """Which share of the draws each slot has."""
    slots = tokens["ids"].shape[1]
    borders = np.nonzero(np.unpackbits(tokens["counts"], axis=1))[1].reshape(len(tokens), slots - 1)
    counts = np.diff(borders - np.arange(slots - 1), prepend=0, append=_DRAWS * slots)
    return torch.from_numpy(counts.astype(np.float32) / (_DRAWS * slots))


@dataclass(frozen=True)
class Sampled:
    """Ids and their weights (N, slots), which sum to one, and entropies (N,): a reference of `losses.chunked_loss`, the
    forward KL."""

    ids: Tensor
    weights: Tensor
    entropy: Tensor

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "Sampled":
        return Sampled(function(self.ids), function(self.weights), function(self.entropy))

    def part(self, part: slice) -> "Sampled":
        return self.mapped(lambda tensor: tensor[part])

    def against(self, log_q: Tensor) -> tuple[Tensor, Tensor]:
        value = -(self.weights * log_q.gather(1, self.ids)).sum(1) - self.entropy
        return value, log_q.exp_().scatter_add_(1, self.ids, -self.weights)


@dataclass(frozen=True)
class TopK:
    """Kept ids (N, slots) and log-probabilities (N, slots + 1) at the temperature, the tail's last: a reference of
    `losses.chunked_loss`."""

    ids: Tensor
    log_p: Tensor
    divergence: Divergence

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "TopK":
        return TopK(function(self.ids), function(self.log_p), self.divergence)

    def part(self, part: slice) -> "TopK":
        return self.mapped(lambda tensor: tensor[part])

    def against(self, log_q: Tensor) -> tuple[Tensor, Tensor]:
        ids = self.ids
        kept = log_q.gather(1, ids)
        q = log_q.exp_().scatter_(1, ids, 0)
        tail = q.sum(1, keepdim=True).clamp_(min=_TINY)
        value, gradient = self.divergence(torch.cat([kept, tail.log()], dim=1), self.log_p.clone())
        # The tail's logit is the logsumexp of its ids' logits, so they share its gradient by their shares of its mass.
        q.mul_(gradient[:, -1:] / tail)
        return value, q.scatter_(1, ids, gradient[:, :-1])


def decode(tokens: np.ndarray, temperatures: Sequence[float], config: DistillConfig) -> Sampled | TopK:
    """The reference of N tokens that `encode` made, at the configured temperature."""
    ids = _read_ids(tokens)
    if _is_sampled(tokens.dtype):
        return Sampled(ids, _read_weights(tokens), torch.from_numpy(tokens["entropy"].copy()))
    log_p = torch.from_numpy(tokens["log_p"].astype(np.float32)) / config.temperature
    tail = torch.from_numpy(tokens["tail"][:, temperatures.index(config.temperature), None].copy())
    # Kept probabilities and tail sum to one, so the tail gives the normaliser that the temperature needs.
    log_p += torch.log1p(-tail) - log_p.logsumexp(1, keepdim=True)
    return TopK(ids, torch.cat([log_p, tail.clamp(min=_TINY).log()], dim=1), divergence_of(config))


def distance(tokens: np.ndarray, others: np.ndarray, vocab_size: int) -> float:
    """Total variation between what two records keep, mean over their tokens: 0 is the same, 1 as far as can be."""

    def dense(tokens: np.ndarray) -> Tensor:
        ids = _read_ids(tokens)
        if _is_sampled(tokens.dtype):
            weights = _read_weights(tokens)
        else:
            weights = torch.from_numpy(tokens["log_p"].astype(np.float32)).exp()
        return torch.zeros(len(ids), vocab_size).scatter_add_(1, ids, weights)

    return (dense(tokens) - dense(others)).abs().sum(1).mean().item() / 2
