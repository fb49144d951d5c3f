"""Students of every family learn from their teachers: the chunked loss and its gradients against autograd on whole
logits, which for Gemma 2 are soft-capped."""

import copy

import pytest
import tiny
import torch
from covering import slow
from torch.nn import functional as F

from pipeline.config import DistillConfig, Loss
from pipeline.models.extraction import extract
from pipeline.models.families import architecture_of, is_tied
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.value import SubNetwork
from pipeline.training.batch import Batch
from pipeline.training.losses import distillation_loss


@pytest.mark.proves("distillation, all losses", lambda family: family)
@pytest.mark.parametrize("family", ["llama", *tiny.LATER, *slow([each] for each in tiny.FIRST if each != "llama")])
def test_losses_and_gradients_are_autograds(family):
    _assert_autograds(_student(family), tiny.teacher(family))


@pytest.mark.parametrize(("family", "teacher"), [("qwen3", "gemma2"), ("gpt_neox", "mixtral")])
def test_a_teacher_of_another_family_teaches(family, teacher):
    _assert_autograds(_student(family), tiny.teacher(teacher))


def _student(family):
    teacher = tiny.teacher(family)
    architecture = architecture_of(teacher.config, is_tied(teacher))
    genes = tuple(tiny.gene(family, 2, 1, architecture.head_size, size) for size in (24, 16))
    sub = SubNetwork((0, 2), architecture.n_embd - 8, genes)
    return extract(teacher, sub, Ordering.identity(architecture))


def _assert_autograds(student, teacher):
    tokens = tiny.tokens()
    for loss in Loss:
        config = DistillConfig(tokens=1, loss=loss, alpha=0.5, beta=0.5, temperature=2.0, chunk_tokens=10)
        ours, reference = student, copy.deepcopy(student)
        ours.zero_grad()
        value, *_ = distillation_loss(ours, teacher, Batch(tokens), config)
        value.backward()
        wanted = _whole(reference, teacher, tokens, config)
        wanted.backward()
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6)
        for (name, parameter), expected in zip(ours.named_parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-3, atol=1e-5, msg=name)


def _whole(student, teacher, tokens, config):
    """The loss by its definition, from all logits at once."""
    q, p = (model(tokens[:, :-1])[..., : model.config.vocab_size].flatten(0, 1) for model in (student, teacher))
    ce = F.cross_entropy(q, tokens[:, 1:].flatten())
    if config.loss == Loss.ce:
        return ce
    log_q, log_p = ((logits / config.temperature).log_softmax(1) for logits in (q, p.detach()))
    mixture = (config.js_weight * log_p.exp() + (1 - config.js_weight) * log_q.exp()).log()

    def kl(log_a, log_b):
        return (log_a.exp() * (log_a - log_b)).sum(1).mean()

    distance = {
        Loss.forward_kl: lambda: kl(log_p, log_q),
        Loss.reverse_kl: lambda: kl(log_q, log_p),
        Loss.js: lambda: config.js_weight * kl(log_p, mixture) + (1 - config.js_weight) * kl(log_q, mixture),
    }[config.loss]()
    return config.alpha * ce + config.beta * config.temperature**2 * distance
