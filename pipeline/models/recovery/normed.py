"""Refits a projection whose output passes a norm before it is added to the residual stream (Gemma 3).

The stream gets g * W a / rms(W a), with features a, projection W and the norm's weights g. It is no regression on the
stream: the norm undoes the size of W a. So W is regressed on what the teacher gives into its own norm, on the kept
entries, and then g on the stream, entry by entry, which also makes up for a mean square over fewer entries.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.models.recovery.ridge import Correction, Reduce, at_least_fp32, correct, token_weights

DAMPING = 0.01  # of the mean square of g: entries that the norm all but removes cannot carry a correction


@dataclass
class Tokens:
    """What a chunk's tokens give the refit: features a (B, T, F), the student's stream before the addition and the
    teacher's after it on the kept entries, both (B, T, e)."""

    features: Tensor
    ours: Tensor
    target: Tensor
    held_out: bool


def wanted(inside: Tensor, kept: Tensor, gain: Tensor, ours: Tensor, target: Tensor, eps: float) -> Tensor:
    """What W a should be (B, T, e): the teacher's own input `inside` (B, T, E) of its norm on the kept entries, and
    what else the stream lacks (earlier errors, dropped layers), in the teacher's scale before the norm."""
    inside = at_least_fp32(inside)
    size = (inside.square().mean(-1, keepdim=True) + eps).sqrt()
    lacking = target - ours - gain * inside[..., kept] / size
    return inside[..., kept] + size * lacking * gain / (gain.square() + DAMPING * gain.square().mean())


def weights(inside: Tensor, target: Tensor, eps: float) -> Tensor:
    """The weights (B, T) of errors before the norm, which divides them by its input's size."""
    return token_weights(target, eps) * token_weights(inside, eps)


class Site:
    """The projection and its norm in the student, with all tokens."""

    def __init__(
        self,
        projection: nn.Linear,
        norm: nn.Module,
        tokens: Callable[[], Iterator[Tokens]],
        eps: float,
        reduce: Reduce | None,
        autocast: Callable[[], AbstractContextManager],
    ):
        assert isinstance(norm.weight, nn.Parameter)
        self.projection, self.norm, self.gain = projection, norm, norm.weight
        self.tokens, self.eps = tokens, eps
        self.reduce, self.autocast = reduce or (lambda sums: sums), autocast

    def refit_projection(self, found: Correction) -> tuple[float | None, float, float]:
        """Applies a correction if the stream's error falls: the ridge, None if not, and the errors before and after."""
        before = self._error()
        if found.delta is None:
            return None, before, before
        original = [parameter.clone() for parameter in self.projection.parameters()]
        correct([self.projection], found.delta)
        if (after := self._error()) < before:
            return found.ridge, before, after
        for parameter, weights in zip(self.projection.parameters(), original, strict=True):
            parameter.copy_(weights)
        return None, before, before

    def refit_gain(self, ridges: Sequence[float]) -> tuple[float | None, float, float]:
        """Takes the norm's weights under the ridge that errs least, as `refit_projection` does."""
        best = self.gain.clone()
        before = after = self._error()
        chosen = None
        for ridge, gain in list(self._gains(ridges)):
            self.gain.copy_(gain)
            if (error := self._error()) < after:
                chosen, after, best = ridge, error, gain
        self.gain.copy_(best)
        return chosen, before, after

    def _added(self, features: Tensor) -> Tensor:
        """What the stream gets (B, T, e)."""
        with self.autocast():
            return at_least_fp32(self.norm(self.projection(features)))

    def _error(self) -> float:
        """Weighted squared error of the stream per held-out token."""
        total = torch.zeros(2, dtype=torch.float64, device=self.gain.device)
        for each in self.tokens():
            if each.held_out:
                left = each.target - each.ours - self._added(each.features)
                weighted = left.square().sum(-1) * token_weights(each.target, self.eps)
                total[0] += weighted.sum(dtype=torch.float64)
                total[1] += weighted.numel()
        error, tokens = self.reduce(total).tolist()
        return error / tokens

    def _gains(self, ridges: Sequence[float]) -> Iterator[tuple[float, Tensor]]:
        """For each ridge the norm's weights (e,) by weighted least squares, shrunk towards the present ones."""
        gain = self.gain.detach()
        sums = torch.zeros(3, len(gain), dtype=torch.float64, device=gain.device)
        for each in self.tokens():
            if each.held_out:
                continue
            added = self._added(each.features)
            weights = token_weights(each.target, self.eps)[..., None]
            unit = torch.where(gain == 0, 0, added / gain)
            sums[0] += (weights * unit * (each.target - each.ours - added)).sum((0, 1), dtype=torch.float64)
            sums[1] += (weights * unit.square()).sum((0, 1), dtype=torch.float64)
            sums[2] += weights.numel()
        cross, square, tokens = self.reduce(sums)
        for ridge in sorted(ridges):
            penalty = ridge / tokens * square.mean()
            yield ridge, gain + (cross / (square + penalty).clamp_min(torch.finfo(square.dtype).tiny)).to(gain.dtype)
