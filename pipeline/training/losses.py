"""The distillation loss, a chunk of tokens at a time, so that no (tokens x vocabulary) logits ever exist whole.

loss = alpha * CE + beta * T^2 * D(teacher, student), D the divergence of distill.loss at temperature T. T^2 makes up
for the 1/T^2 by which softer distributions shrink the gradient of every D (Hinton et al. 2015, section 2.1).
distill.loss=ce is CE alone, whatever alpha and beta are.

The gradients of hidden states and head are computed with the loss, while a chunk's logits are there: nothing is kept
for the backward pass, and nothing is computed twice.
"""

from collections.abc import Callable
from typing import Any

import torch
from litgpt import GPT
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.config import DistillConfig
from pipeline.errors import SprigError
from pipeline.models.student import hidden_states
from pipeline.training.batch import Batch
from pipeline.training.divergences import divergence_of, log_probabilities

# (which tokens, the student's log-probabilities (n, V) at the temperature, used up) to a divergence's value (n,) and
# its gradient (n, V) with respect to the student's logits divided by the temperature.
Reference = Callable[[slice, Tensor], tuple[Tensor, Tensor]]


def check_vocabularies(student: GPT, teacher: GPT) -> None:
    """Raises SprigError where the two do not predict the same vocabulary."""
    ours, theirs = student.config.vocab_size, teacher.config.vocab_size
    if ours != theirs:
        raise SprigError(
            f"The student predicts {ours:,} tokens but the distillation teacher {theirs:,}: "
            "set kd_teacher to a model of the same tokenizer."
        )


def distillation_loss(
    student: GPT, teacher: GPT | None, batch: Batch, config: DistillConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Scalars (loss, CE, D), means over the targets in nats; CE and D carry no gradient, and D has no T^2 factor.

    Args:
        teacher: not run, and may be None, where the batch brings what a cache keeps of it, or where config.distils is
            false; D is 0 then.
    """
    inputs, targets = batch.tokens[:, :-1], batch.tokens[:, 1:].flatten()
    reference: Reference | None = batch.cached
    if reference is None and config.distils:
        reference = teacher_reference(teacher, inputs, config)
    hidden = hidden_states(student, inputs).flatten(0, 1)
    return chunked_loss(student.lm_head, hidden, targets, student.config.vocab_size, config, reference)


@torch.no_grad()
def teacher_reference(teacher: GPT, inputs: Tensor, config: DistillConfig) -> Reference:
    """The divergence from a teacher that reads along, inputs (B, T)."""
    return head_reference(
        teacher.lm_head, hidden_states(teacher, inputs).flatten(0, 1), teacher.config.vocab_size, config
    )


def head_reference(head: nn.Module, hidden: Tensor, vocab_size: int, config: DistillConfig) -> Reference:
    """The divergence from a teacher's final hidden states (N, E) under its head."""
    divergence = divergence_of(config)

    def reference(part: slice, log_q: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(hidden[part])[:, :vocab_size].float()
        return divergence(log_q, log_probabilities(logits, config.temperature))

    return reference


def chunked_loss(
    head: nn.Linear,
    hidden: Tensor,
    targets: Tensor,
    vocab_size: int,
    config: DistillConfig,
    reference: Reference | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`distillation_loss` from the final hidden states (N, E) and targets (N,); without a reference it is CE alone.

    Rows of the head beyond `vocab_size` are padding and stay out of every softmax, which is taken in fp32.
    """

    def forward(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _HeadLoss.apply(hidden, head.weight, head.bias, targets, vocab_size, config, reference)

    # Inside the head's own call, because that is where ZeRO-3 has gathered its weights.
    head.forward = forward  # type: ignore[method-assign, assignment]  # for this call, and of another kind
    try:
        return head(hidden)
    finally:
        del head.forward


class _HeadLoss(torch.autograd.Function):
    """(loss, CE, D) of hidden states under a linear head; its arguments are those of `chunked_loss`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        vocab_size: int,
        config: DistillConfig,
        reference: Reference | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        rows = weight[:vocab_size].to(dtype)
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight, dtype=torch.float32)  # a sum over chunks: bf16 would lose the last ones
        d_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        sums = torch.zeros(2, dtype=torch.float64, device=hidden.device)
        for start in range(0, len(targets), config.chunk_tokens):
            part = slice(start, start + config.chunk_tokens)
            states = hidden[part].to(dtype)
            logits = states @ rows.T
            if bias is not None:
                logits += bias[:vocab_size].to(dtype)
            values, gradient = _chunk(logits.float(), targets[part], part, config, reference)
            sums += values
            if d_bias is not None:
                d_bias[:vocab_size] += gradient.sum(0)
            gradient = gradient.to(dtype)
            d_hidden[part] = gradient @ rows
            if dtype == torch.float32:
                d_weight[:vocab_size].addmm_(gradient.T, states)
            else:
                d_weight[:vocab_size] += gradient.T @ states
            del logits, gradient  # before the next chunk's are made
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
        del ctx.gradients  # scaled in place, so they serve once
        d_bias = None if d_bias is None else d_bias.mul_(scale).to(ctx.dtypes[1])
        return d_hidden.mul_(scale), d_weight.mul_(scale).to(ctx.dtypes[1]), d_bias, None, None, None, None


def _chunk(
    logits: Tensor, targets: Tensor, part: slice, config: DistillConfig, reference: Reference | None
) -> tuple[Tensor, Tensor]:
    """The sums of CE and D over a chunk (2,), and the loss' gradient with respect to its logits, which are used up."""
    normaliser = logits.logsumexp(1, keepdim=True)
    ce = (normaliser - logits.gather(1, targets[:, None])).sum()
    ce_gradient = None
    if config.ce_weight > 0:
        ce_gradient = logits.sub(normaliser).exp_() if reference else logits.sub_(normaliser).exp_()
        ce_gradient.scatter_add_(1, targets[:, None], ce_gradient.new_full((len(targets), 1), -1))
        _scale(ce_gradient, config.ce_weight)
    if reference is None:
        assert ce_gradient is not None  # a loss has CE, a reference, or both
        return torch.stack([ce, torch.zeros_like(ce)]), ce_gradient
    log_q = logits.sub_(normaliser) if config.temperature == 1 else log_probabilities(logits, config.temperature)
    values, gradient = reference(part, log_q)
    _scale(gradient, config.beta * config.temperature)  # T^2 of the loss, 1/T of the softmax
    if ce_gradient is not None:
        gradient.add_(ce_gradient)
    return torch.stack([ce, values.sum()]), gradient


def _scale(logits: Tensor, factor: float) -> None:
    """In place; by 1 it would be a pass over the largest tensor of a training that changes nothing."""
    if factor != 1:
        logits.mul_(factor)
