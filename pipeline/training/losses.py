"""The distillation loss in chunks of tokens, so that the logits (tokens x vocabulary) never exist all at once.

loss = alpha * CE + beta * T^2 * D(teacher, student), where D is the divergence named by distill.loss, at temperature T
(pipeline.training.divergences has the formulas of KL, reverse KL and JS). The factor T^2 compensates for softer
distributions, which shrink the gradient of D by 1/T^2 (Hinton et al. 2015, section 2.1). distill.loss=ce is CE alone,
and ignores alpha and beta.

The gradients of the hidden states and the head are computed together with the loss, while a chunk's logits exist. So no
logits are kept for the backward pass, and none are computed twice.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from litgpt import GPT
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.config import DistillConfig
from pipeline.errors import SprigError
from pipeline.models.head import CappedHead
from pipeline.models.student import hidden_states
from pipeline.training.batch import Batch
from pipeline.training.divergences import Divergence, divergence_of, log_probabilities


class Comparison(Protocol):
    """What is known of the teacher at the n tokens of a chunk."""

    def against(self, log_q: Tensor) -> tuple[Tensor, Tensor]:
        """The student's log-probabilities (n, V) at the temperature, used up, to a divergence's value (n,) and its
        gradient (n, V) with respect to the student's logits divided by the temperature."""


class Reference(Protocol):
    """What is known of the teacher at all tokens."""

    def part(self, part: slice) -> Comparison: ...


def check_vocabularies(student: GPT, teacher: GPT) -> None:
    """Raises SprigError if the two do not predict the same vocabulary."""
    ours, theirs = student.config.vocab_size, teacher.config.vocab_size
    if ours != theirs:
        raise SprigError(
            f"The student predicts {ours:,} tokens but the distillation teacher {theirs:,}: "
            "set kd_teacher to a model with the same tokenizer."
        )


def distillation_loss(
    student: GPT, teacher: GPT | None, batch: Batch, config: DistillConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Scalars (loss, CE, D): means over the targets, in nats. CE and D carry no gradient, and D lacks the factor T^2.

    Args:
        teacher: not used, and may be None, if the batch has cached logits or config.distils is false. In the latter
            case D is 0.
    """
    inputs, targets = batch.tokens[:, :-1], batch.tokens[:, 1:].flatten()
    reference: Reference | None = batch.cached
    if reference is None and config.distils:
        reference = teacher_reference(teacher, inputs, config)
    hidden = hidden_states(student, inputs).flatten(0, 1)
    return chunked_loss(student.lm_head, hidden, targets, student.config.vocab_size, config, reference)


@torch.no_grad()
def teacher_reference(teacher: GPT, inputs: Tensor, config: DistillConfig) -> Reference:
    """The divergence from a teacher that runs on the same inputs (B, T)."""
    return head_reference(
        teacher.lm_head, hidden_states(teacher, inputs).flatten(0, 1), teacher.config.vocab_size, config
    )


def head_reference(head: nn.Module, hidden: Tensor, vocab_size: int, config: DistillConfig) -> Reference:
    """The divergence from a teacher's final hidden states (N, E) under its head."""
    return _Head(head, hidden, vocab_size, config.temperature, divergence_of(config))


@dataclass(frozen=True)
class _Head:
    head: nn.Module
    hidden: Tensor
    vocab_size: int
    temperature: float
    divergence: Divergence

    def part(self, part: slice) -> "_Logits":
        return _Logits(self.head(self.hidden[part])[:, : self.vocab_size], self.temperature, self.divergence)


@dataclass(frozen=True)
class _Logits:
    logits: Tensor
    temperature: float
    divergence: Divergence

    def against(self, log_q: Tensor) -> tuple[Tensor, Tensor]:
        return self.divergence(log_q, log_probabilities(self.logits.float(), self.temperature))


def chunked_loss(
    head: nn.Linear,
    hidden: Tensor,
    targets: Tensor,
    vocab_size: int,
    config: DistillConfig,
    reference: Reference | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`distillation_loss` from the student's final hidden states (N, E) and targets (N,); CE alone without a reference.

    Rows of the head beyond `vocab_size` are padding and are excluded from every softmax. Softmaxes run in fp32.
    """

    def forward(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cap = head.cap if isinstance(head, CappedHead) else None
        return _HeadLoss.apply(hidden, head.weight, head.bias, cap, targets, vocab_size, config, reference)

    # The loss is computed inside the head's own call, because ZeRO-3 gathers the head's weights only there.
    head.forward = forward  # type: ignore[method-assign, assignment]  # for this call, with another signature
    try:
        return head(hidden)
    finally:
        del head.forward


class _HeadLoss(torch.autograd.Function):
    """(loss, CE, D) from hidden states and a linear head whose logits have a soft `cap`, or None. The other arguments
    are those of `chunked_loss`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        cap: float | None,
        targets: Tensor,
        vocab_size: int,
        config: DistillConfig,
        reference: Reference | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        rows = weight[:vocab_size].to(dtype)
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight, dtype=torch.float32)  # a sum over chunks, too long for bf16
        d_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        sums = torch.zeros(2, dtype=torch.float64, device=hidden.device)
        chunk = _compiled_chunk() if config.compile else _chunk
        for start in range(0, len(targets), config.chunk_tokens):
            part = slice(start, start + config.chunk_tokens)
            states = hidden[part].to(dtype)
            logits = states @ rows.T
            if bias is not None:
                logits += bias[:vocab_size].to(dtype)
            comparison = None if reference is None else reference.part(part)
            values, gradient, column_sums = chunk(logits, targets[part], config, comparison, cap, d_bias is not None)
            sums += values
            if d_bias is not None:
                d_bias[:vocab_size] += column_sums
            d_hidden[part] = gradient @ rows
            if dtype == torch.float32:
                d_weight[:vocab_size].addmm_(gradient.T, states)
            else:
                d_weight[:vocab_size] += gradient.T @ states
            del logits, comparison, gradient  # before the next chunk's are made
        ctx.gradients, ctx.tokens = (d_hidden, d_weight, d_bias), len(targets)
        ctx.dtypes = hidden.dtype, weight.dtype
        ce, divergence = (sums / len(targets)).float().unbind()
        loss = config.ce_weight * ce
        if reference is not None:
            loss = loss + config.beta * config.temperature**2 * divergence
        ctx.mark_non_differentiable(ce, divergence)
        return loss, ce, divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        scale = d_loss / ctx.tokens
        d_hidden, d_weight, d_bias = ctx.gradients
        del ctx.gradients  # they are scaled in place, so they can be used only once
        d_bias = None if d_bias is None else d_bias.mul_(scale).to(ctx.dtypes[1])
        return d_hidden.mul_(scale), d_weight.mul_(scale).to(ctx.dtypes[1]), d_bias, *[None] * 5


@cache
def _compiled_chunk() -> Any:
    """`_chunk` in a few kernels: by itself each of its operators reads and writes the largest tensor of a training."""
    return torch.compile(_chunk, dynamic=False)


def _chunk(
    logits: Tensor,
    targets: Tensor,
    config: DistillConfig,
    comparison: Comparison | None,
    cap: float | None,
    biased: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The sums of CE and D over a chunk (2,); the loss's gradient with respect to its logits, which are used up, in
    their dtype; the sum of that over the tokens (V,), if `biased`, and else nothing (0,)."""
    if cap is None:
        values, gradient = _loss_and_gradient(logits.float(), targets, config, comparison)
    else:
        shares = logits.float().div_(cap).tanh_()
        values, gradient = _loss_and_gradient(shares * cap, targets, config, comparison)
        gradient.mul_(shares.square_().neg_().add_(1))  # tanh' = 1 - tanh^2
    return values, gradient.to(logits.dtype), gradient.sum(0) if biased else gradient.new_empty(0)


def _loss_and_gradient(
    logits: Tensor, targets: Tensor, config: DistillConfig, comparison: Comparison | None
) -> tuple[Tensor, Tensor]:
    """The sums of CE and D over a chunk (2,), and the loss's gradient with respect to its logits (overwritten)."""
    normaliser = logits.logsumexp(1, keepdim=True)
    ce = (normaliser - logits.gather(1, targets[:, None])).sum()
    ce_gradient = None
    if config.ce_weight > 0:
        ce_gradient = logits.sub(normaliser).exp_() if comparison else logits.sub_(normaliser).exp_()
        ce_gradient.scatter_add_(1, targets[:, None], ce_gradient.new_full((len(targets), 1), -1))
        _scale(ce_gradient, config.ce_weight)
    if comparison is None:
        assert ce_gradient is not None  # a loss has CE, a reference, or both
        return torch.stack([ce, torch.zeros_like(ce)]), ce_gradient
    log_q = logits.sub_(normaliser) if config.temperature == 1 else log_probabilities(logits, config.temperature)
    values, gradient = comparison.against(log_q)
    _scale(gradient, config.beta * config.temperature)  # T^2 of the loss, 1/T of the softmax
    if ce_gradient is not None:
        gradient.add_(ce_gradient)
    return torch.stack([ce, values.sum()]), gradient


def _scale(gradient: Tensor, factor: float) -> None:
    """Scales in place. Skips a factor of 1, which would cost a pass over the largest tensor of a training."""
    if factor != 1:
        gradient.mul_(factor)
