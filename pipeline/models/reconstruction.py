"""What each cut of a teacher's heads, neurons or layers would cost the loss, in closed form, from one backward pass."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from litgpt import GPT
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import SprigError
from pipeline.models.families import architecture_of, is_tied
from pipeline.models.precision import autocast
from pipeline.models.recovery.residual import attention, captured, mlp, through
from pipeline.models.recovery.ridge import at_least_fp32, token_weights
from pipeline.models.student import embed
from pipeline.progress import Progress
from pipeline.subnetwork.allocation import Errors, refuse_experts
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.counting import flops_per_token, layers_flops
from pipeline.subnetwork.selection import Ordering

RIDGE = 1_500.0  # strength of the prior that the cut weights are right, in tokens
CHUNK_TOKENS = 512  # tokens whose logits, and their gradients, exist at one time


class _Part:
    """Sums over tokens for one output projection, in float64: the Gram matrix of its inputs, each token weighted by the
    inverse mean square of the stream it is added to; the weights; and the squared gradients of the loss there."""

    def __init__(self, projection: nn.Linear):
        device = projection.weight.device
        self.weight = projection.weight.detach().double()
        self.constant = int(projection.bias is not None)
        rows = projection.in_features + self.constant
        self.gram = torch.zeros(rows, rows, dtype=torch.float64, device=device)
        self.weights, self.gradients = torch.zeros(2, dtype=torch.float64, device=device)
        self.tokens = 0

    def add(self, features: Tensor, weights: Tensor, gradients: Tensor) -> None:
        """features (B, T, F), weights (B, T), and gradients (B, T, E) of the loss with respect to the stream."""
        root = weights.flatten().sqrt()[:, None]
        x = at_least_fp32(features).flatten(0, 1) * root
        if self.constant:
            x = torch.cat([root, x], dim=1)
        self.gram += x.T @ x
        self.weights += weights.sum(dtype=torch.float64)
        self.gradients += at_least_fp32(gradients).square().sum(dtype=torch.float64)
        self.tokens += len(x)

    @property
    def sensitivity(self) -> Tensor:
        """What the loss feels of a weighted squared error: the squared gradient that goes with a weight of 1."""
        return self.gradients / self.weights

    def errors(self, order: np.ndarray) -> np.ndarray:
        """As `prefix_errors`, in the unit of the loss, in which all layers are alike."""
        chosen = torch.from_numpy(order).to(self.gram.device)
        rows = torch.cat([torch.arange(self.constant, device=chosen.device), chosen + self.constant])
        found = prefix_errors(self.gram[rows][:, rows], self.weight[:, chosen], self.tokens)
        return (self.sensitivity * found).cpu().numpy()


def prefix_errors(gram: Tensor, weight: Tensor, tokens: int) -> Tensor:
    """The least squared error (F + 1,) of a projection W (E, F) that keeps only its first f inputs, f = 0, ..., F.

    `gram` sums a a' over `tokens`; where it has one row more than W has inputs, the first belongs to a constant, which
    is always kept (the bias). The kept weights are the least-squares ones for what the dropped inputs wrote, under a
    prior worth RIDGE tokens that the teacher's own are right; the prior's part is counted in.

    With the ridged matrix G = L L' and M = W L, the best weights on the first f inputs are M_f L_ff^-1 and leave the
    error that the other columns of M hold, because L orthogonalises the inputs one after another. So one Cholesky
    factor gives every width.

    Raises:
        SprigError: activations are not finite.
    """
    constant = len(gram) - weight.size(1)
    gram = gram.clone()
    diagonal = gram.diagonal()[constant:]
    if not torch.isfinite(diagonal).all():
        raise SprigError("The teacher's activations are not finite: use precision=fp32, or look for broken weights.")
    if not diagonal.any():
        return torch.zeros(weight.size(1) + 1, dtype=gram.dtype, device=gram.device)
    diagonal += RIDGE / tokens * diagonal.mean()
    factor = torch.linalg.cholesky(gram)[constant:, constant:]
    columns = (weight @ factor).square().sum(dim=0)
    kept = columns.flip(0).cumsum(0).flip(0)
    return torch.cat([kept, torch.zeros_like(kept[:1])])


@dataclass
class _Layer:
    """One layer's sums, and the weighted squares of what it adds to the stream as a whole."""

    attention: _Part
    mlp: _Part
    written: Tensor

    def dropped(self) -> float:
        return float(self.mlp.sensitivity * self.written)


@dataclass(frozen=True)
class Passed:
    """What the backward pass has found of the layers from `number` to the last one: their errors, and the gradients (B,
    T, E) of the stream that enters layer `number`, batch by batch."""

    number: int
    errors: Errors
    gradients: list[Tensor]


def refuse(architecture: Architecture) -> None:
    """Raises SprigError where a projection does not write to the stream itself, so that no error there is its own, and
    where tokens choose among projections."""
    refuse_experts(architecture)
    if architecture.norms_after:
        raise SprigError(
            f"search.strategy=allocation needs projections that write to the stream, and {architecture.name} has norms "
            "after attention and MLP: choose another search."
        )


def flops(architecture: Architecture, blocks: int, length: int) -> int:
    """FLOPs of `measure`: forward passes with the head and then of each layer, a backward pass of activations, Gram
    matrices and Cholesky factors."""
    a, tokens = architecture, blocks * length
    queries, neurons = a.n_head * a.head_size, a.intermediate_size
    grams = 2 * a.n_layer * (queries**2 + neurons**2)
    factors = a.n_layer * (a.heads_per_group * queries**3 + neurons**3) // 3
    products = 2 * a.n_layer * a.n_embd * (a.heads_per_group * queries**2 + neurons**2)
    forward, again = flops_per_token(a, length=length), layers_flops(a, length=length)
    return tokens * (2 * forward + again + grams) + factors + products


def measure(
    teacher: GPT,
    ordering: Ordering,
    blocks: Tensor,
    precision: str,
    batch: int,
    *,
    begun: Passed | None = None,
    on_layer: Callable[[Passed], None] = lambda passed: None,
) -> Errors:
    """The errors of all cuts on calibration `blocks` (n, T + 1), `batch` blocks at a time.

    An error in the stream is weighted by how much the loss feels one there: the mean squared gradient of the
    cross-entropy over the mean of the token weights. One layer's sums exist at a time; streams wait in host memory.

    Args:
        begun: what `on_layer` received last of an interrupted measurement, to resume it with bit-identical results.
        on_layer: receives what is known after each layer; valid during the call.

    Raises:
        SprigError: activations are not finite, or as `refuse`.
    """
    a = architecture_of(teacher.config, is_tied(teacher))
    refuse(a)
    device, training = teacher.transformer.wte.weight.device, teacher.training
    teacher.eval()
    left = a.n_layer if begun is None else begun.number
    with Progress("reconstruct", a.n_layer, "layers", start=a.n_layer - left) as progress, autocast(precision, device):
        streams = _streams(teacher, blocks[:, :-1].split(batch), left, device)
        last = streams.pop()
        if begun is None:
            targets = blocks[:, 1:].split(batch)
            gradients = [_at_the_end(teacher, x, y, device) for x, y in zip(last, targets, strict=True)]
            begun = Passed(a.n_layer, Errors.none(a), gradients)
        for number in reversed(range(left)):
            layer = _back(teacher, number, streams.pop(), begun.gradients, device)
            _note(begun.errors, a, ordering, number, layer)
            on_layer(Passed(number, begun.errors, begun.gradients))
            progress.advance()
    teacher.train(training)
    return begun.errors


@torch.no_grad()
def _streams(teacher: GPT, batches: tuple[Tensor, ...], layers: int, device: torch.device) -> list[list[Tensor]]:
    """The stream before each of the first `layers` layers and after them, batch by batch, in host memory."""
    streams = [[embed(teacher, tokens.to(device)).cpu() for tokens in batches]]
    for number in range(layers):
        streams.append([through(teacher, number, x.to(device)).cpu() for x in streams[-1]])
    return streams


def _at_the_end(teacher: GPT, stream: Tensor, targets: Tensor, device: torch.device) -> Tensor:
    """The gradient of the cross-entropy, summed over tokens, with respect to the last stream (B, T, E)."""
    x = stream.to(device).requires_grad_()
    hidden = teacher.transformer.ln_f(x)
    below = hidden.detach().flatten(0, 1)
    gradients = []
    for states, tokens in zip(below.split(CHUNK_TOKENS), targets.flatten().split(CHUNK_TOKENS), strict=True):
        states = states.requires_grad_()
        logits = teacher.lm_head(states)[:, : teacher.config.vocab_size].float()
        loss = F.cross_entropy(logits, tokens.to(device), reduction="sum")
        gradients += torch.autograd.grad(loss, states)
    return torch.autograd.grad(hidden, x, torch.cat(gradients).view_as(hidden))[0].cpu()


def _back(teacher: GPT, number: int, streams: list[Tensor], gradients: list[Tensor], device: torch.device) -> _Layer:
    """Sums up one layer; `gradients`, of its outputs, become those of its inputs, in place."""
    block = teacher.transformer.h[number]
    projections, eps = [block.attn.proj, block.mlp.proj], teacher.config.norm_eps
    written = torch.zeros((), dtype=torch.float64, device=device)
    layer = _Layer(_Part(projections[0]), _Part(projections[1]), written)
    for each, x in enumerate(streams):
        x, after = x.to(device).requires_grad_(), gradients[each].to(device)
        with captured(projections) as features:
            middle, output = _halves(teacher, number, x)
        inside, before = torch.autograd.grad(output, [middle, x], after)
        gradients[each] = before.cpu()
        with torch.no_grad():
            weights = token_weights(output, eps)
            layer.mlp.add(features[1], weights, after)
            if teacher.config.parallel_residual:
                layer.attention.add(features[0], weights, after)
            else:
                layer.attention.add(features[0], token_weights(middle, eps), inside)
            layer.written += (at_least_fp32(output - x).square().sum(-1) * weights).sum(dtype=torch.float64)
    return layer


def _halves(teacher: GPT, number: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """The stream after a layer's attention, and after its MLP."""
    middle = x + attention(teacher, number, x)
    if teacher.config.parallel_residual:
        return middle, middle + mlp(teacher, number, x)
    return middle, middle + mlp(teacher, number, middle)


def _note(errors: Errors, a: Architecture, ordering: Ordering, number: int, layer: _Layer) -> None:
    errors.mlp[number] = layer.mlp.errors(ordering.neurons[number])
    errors.dropped[number] = layer.dropped()
    for heads in range(1, a.heads_per_group + 1):
        order = _head_order(a, ordering, number, heads)
        found = layer.attention.errors((order[:, None] * a.head_size + np.arange(a.head_size)).ravel())
        errors.attention[number, :, heads] = found[:: a.head_size * heads][: a.n_query_groups + 1]
    errors.attention[number, :, 0] = errors.attention[number, 0, 1:].max()


def _head_order(a: Architecture, ordering: Ordering, number: int, heads: int) -> np.ndarray:
    """All query heads (H,), such that the first g * heads are those that g groups of `heads` heads keep."""
    groups = ordering.groups[number]
    ranked = groups[:, None] * a.heads_per_group + ordering.heads[number][groups]
    return np.concatenate([ranked[:, :heads].ravel(), ranked[:, heads:].ravel()])
