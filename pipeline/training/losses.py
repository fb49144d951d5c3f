"""The distillation loss, a chunk of tokens at a time, so that no (tokens x vocabulary) logits ever exist whole.

loss = alpha * CE + beta * T^2 * KL(teacher || student), the forward KL at temperature T (Hinton et al. 2015). A chunk's
logits are dropped after its forward pass and computed again in the backward pass.
"""

import torch
from litgpt import GPT
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pipeline.config import DistillConfig
from pipeline.errors import SprigError
from pipeline.models.student import hidden_states


def check_vocabularies(student: GPT, teacher: GPT) -> None:
    """Raises SprigError where the two do not predict the same vocabulary."""
    ours, theirs = student.config.vocab_size, teacher.config.vocab_size
    if ours != theirs:
        raise SprigError(
            f"The student predicts {ours:,} tokens but the distillation teacher {theirs:,}: "
            "set kd_teacher to a model of the same tokenizer."
        )


def distillation_loss(
    student: GPT, teacher: GPT | None, tokens: Tensor, config: DistillConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Scalars (loss, CE, KL), means over the targets in nats; CE and KL carry no gradient, and KL has no T^2 factor.

    Args:
        tokens: (B, T+1) blocks; position t predicts token t+1.
        teacher: not run, and may be None, where config.beta is 0; KL is 0 then.
    """
    inputs, targets = tokens[:, :-1], tokens[:, 1:].flatten()
    teacher_head, teacher_hidden = None, None
    if config.beta > 0:
        with torch.no_grad():
            teacher_head, teacher_hidden = teacher.lm_head, hidden_states(teacher, inputs).flatten(0, 1)
    hidden = hidden_states(student, inputs).flatten(0, 1)
    return chunked_loss(
        student.lm_head, hidden, targets, student.config.vocab_size, config, teacher_head, teacher_hidden
    )


def chunked_loss(
    head: nn.Module,
    hidden: Tensor,
    targets: Tensor,
    vocab_size: int,
    config: DistillConfig,
    teacher_head: nn.Module | None = None,
    teacher_hidden: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`distillation_loss` from the final hidden states: hidden (N, E), targets (N,), teacher_hidden (N, E_teacher).

    Rows of the heads beyond `vocab_size` are padding and stay out of every softmax, which is taken in fp32.
    """
    temperature = config.temperature

    def chunk(hidden: Tensor, targets: Tensor, teacher_hidden: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        logits = head(hidden)[:, :vocab_size].float()
        tempered = F.log_softmax(logits / temperature, dim=-1)
        log_p = tempered if temperature == 1 else F.log_softmax(logits, dim=-1)
        ce = F.nll_loss(log_p if config.alpha > 0 else log_p.detach(), targets, reduction="sum")
        if teacher_hidden is None:
            return config.alpha * ce, ce.detach(), torch.zeros_like(ce)
        with torch.no_grad():
            theirs = F.log_softmax(teacher_head(teacher_hidden)[:, :vocab_size].float() / temperature, dim=-1)
        kl = F.kl_div(tempered, theirs, log_target=True, reduction="sum")
        return config.alpha * ce + config.beta * temperature**2 * kl, ce.detach(), kl.detach()

    sums = torch.zeros(3, device=hidden.device).unbind()
    for start in range(0, len(targets), config.chunk_tokens):
        part = slice(start, start + config.chunk_tokens)
        arguments = hidden[part], targets[part], None if teacher_hidden is None else teacher_hidden[part]
        # Reentrant checkpointing dies under ZeRO 2 and 3 ("already been reduced"). Nothing here draws random numbers.
        parts = checkpoint(chunk, *arguments, use_reentrant=False, preserve_rng_state=False)
        sums = tuple(total + value for total, value in zip(sums, parts, strict=True))
    loss, ce, kl = (total / len(targets) for total in sums)
    return loss, ce, kl
