"""Ridge regression of the correction to a projection's weights, from sums over tokens.

The correction shrinks towards zero, so the weights shrink towards the cut weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.errors import SprigError

Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Correction:
    """A correction to add to a projection's weights.

    `delta` has the shape (features, outputs), and is None if the cut weights are kept. `ridge` is the chosen strength
    in tokens. `before` and `after` are the weighted squared errors per held-out token.
    """

    delta: Tensor | None
    ridge: float
    before: float
    after: float


def at_least_fp32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def token_weights(stream: Tensor, eps: float) -> Tensor:
    """The weights (B, T) of errors in a stream (B, T, E): one over the square of what the next norm divides by.

    This also tames the first token, whose stream can be 100 times larger than the others'.
    """
    return 1 / (at_least_fp32(stream).square().mean(-1) + eps)


class Regression:
    """Regresses errors (outputs) on features with a weight per token, through sums that ranks can add up.

    Minimises sum_t w_t |e_t - D' a_t|^2 + (ridge / N) * mean(diag G) * |D|^2 over D, where G = sum_t w_t a_t a_t' and N
    is the number of tokens. The penalty is a prior that the cut weights are right, worth `ridge` tokens of isotropic
    features. Sums are in fp32 or better within a chunk, and in fp64 over chunks. With `constant`, a 1 is appended to
    the features for the bias. It is not penalised, because a common shift of the outputs adds little variance.
    """

    def __init__(self, features: int, outputs: int, constant: bool, device: torch.device, reduce: Reduce | None):
        self.constant, self.reduce = constant, reduce or (lambda sums: sums)
        rows = features + constant
        self.gram = torch.zeros(rows, rows, dtype=torch.float64, device=device)
        self.cross = torch.zeros(rows, outputs, dtype=torch.float64, device=device)
        self.tokens = torch.zeros((), dtype=torch.float64, device=device)
        self.held_out: list[tuple[Tensor, Tensor]] = []

    def add(self, features: Tensor, errors: Tensor, weights: Tensor, held_out: bool) -> None:
        """Adds tokens with features (..., F), errors (..., O) and weights (...), to fit or to hold out."""
        root = at_least_fp32(weights).flatten().sqrt()[:, None]
        x, e = (at_least_fp32(each).flatten(0, -2) * root for each in (features, errors))
        if self.constant:
            x = torch.cat([x, root], dim=1)
        if held_out:
            self.held_out.append((x, e))
            return
        self.gram += x.T @ x
        self.cross += x.T @ e
        self.tokens += len(x)

    def solve(self, ridges: Sequence[float], what: str) -> Correction:
        """The correction under the ridge that errs least on the held-out tokens; `what` names it in errors.

        Skips a ridge with which the Gram matrix is numerically singular; larger ones may still work.

        Raises:
            SprigError: the Gram matrix is singular with every ridge, or activations are not finite.
        """
        gram, cross, tokens = self.reduce(self.gram), self.reduce(self.cross), self.reduce(self.tokens).item()
        diagonal = gram.diagonal().clone()
        if not torch.isfinite(cross).all() or not torch.isfinite(diagonal).all():
            raise SprigError(f"Activations at {what} are not finite: use precision=fp32, or look for broken weights.")
        mean = diagonal[: len(diagonal) - self.constant].mean()
        penalty = (mean / tokens).expand(len(diagonal)).clone()
        if self.constant:
            penalty[-1] = 0
        before = self._held_out_error(None)
        best = Correction(None, 0.0, before, before)
        if not diagonal.any():
            return best  # features that are zero everywhere predict nothing
        solved = False
        for ridge in sorted(ridges):
            gram.diagonal().copy_(diagonal + ridge * penalty)
            factor, info = torch.linalg.cholesky_ex(gram)
            if info.item():
                continue
            solved = True
            delta = torch.cholesky_solve(cross, factor)
            after = self._held_out_error(delta)
            if after < best.after:
                best = Correction(delta, ridge, before, after)
        if not solved:
            raise SprigError(
                f"The activations at {what} leave the Gram matrix singular under every ridge, up to {max(ridges):g} "
                "tokens: raise recover.ridges, or recover.tokens."
            )
        return best

    def _held_out_error(self, delta: Tensor | None) -> float:
        """Weighted squared error of a held-out token, without or with the correction."""
        total = torch.zeros(2, dtype=torch.float64, device=self.gram.device)
        for x, e in self.held_out:
            left = e if delta is None else e - x @ delta.to(x.dtype)
            total[0] += left.square().sum(dtype=torch.float64)
            total[1] += len(x)
        error, tokens = self.reduce(total).tolist()
        return error / tokens if tokens else 0.0  # an expert may be passed by no token


@torch.no_grad()
def correct(projections: list[nn.Linear], delta: Tensor) -> None:
    """Adds the rows of `delta` (features of all projections and perhaps a constant, outputs) to the weights, and the
    constant to the bias of the last projection."""
    first = 0
    for each in projections:
        each.weight += delta[first : first + each.in_features].T.to(each.weight.dtype)
        first += each.in_features
    if first < len(delta):
        projections[-1].bias.add_(delta[first].to(each.weight.dtype))
