"""Training on a fake card: every loss forward and backward, checkpointing, the optimizer, and the logits cache."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from covering import grid

sys.path.append(str(Path(__file__).parent))
from test_device_models import BLOCKS, cut_of, model_of

from pipeline.config import CacheConfig, CacheKind, DistillConfig, Loss, Sharing
from pipeline.models.extraction import extract
from pipeline.models.precision import autocast
from pipeline.training import engine
from pipeline.training.batch import Batch
from pipeline.training.cache import LogitsCache
from pipeline.training.cached import decode
from pipeline.training.losses import distillation_loss

TRAINED = ["gpt_neox", "qwen3", "biased"]  # the others have no module that these lack


def settings(loss=Loss.forward_kl, **values):
    return DistillConfig(tokens=1, loss=loss, alpha=0.3, beta=0.7, chunk_tokens=20, **values)


class Blocks:
    """The blocks of `tiny`, as pipeline.data.blocks hands them out."""

    block_size, vocab_size = 8, tiny.config("qwen2").vocab_size

    def __len__(self):
        return len(BLOCKS)

    def take(self, numbers):
        return BLOCKS[torch.as_tensor(np.asarray(numbers, np.int64)) % len(BLOCKS)]


def student_of(family, sharing, device):
    sub, ordering = cut_of(family, sharing)
    return extract(model_of(family, device), sub, ordering).train()


def train(student, teacher, batch, config, precision, device):
    """One step, as engine.Engine takes it but for DeepSpeed."""
    optimizer = engine._optimizer(student, config)
    engine._make_moments(optimizer)
    with autocast(precision, device):
        loss, *parts = distillation_loss(student, teacher, batch.to(device, non_blocking=True), config)
    loss.backward()
    assert {part.device.type for part in (loss, *parts)} == {device.type}
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None and parameter.grad.device.type == device.type, name
        assert parameter.grad.dtype == parameter.dtype, name
    optimizer.step()


@pytest.mark.parametrize(("loss", "precision", "temperature"), grid(list(Loss), ["fp32", "bf16-mixed"], [1.0, 2.0]))
def test_every_loss_trains_there(cuda, loss, precision, temperature):
    teacher = model_of("qwen2", cuda, torch.bfloat16 if precision == "bf16-mixed" else torch.float32)
    student = student_of("qwen2", Sharing.uniform, cuda)
    train(student, teacher, Batch(BLOCKS), settings(loss, temperature=temperature), precision, cuda)


@pytest.mark.parametrize(("family", "sharing", "checkpointing"), grid(TRAINED, list(Sharing), [True, False]))
def test_every_family_trains_there(cuda, family, sharing, checkpointing):
    student = student_of(family, sharing, cuda)
    if checkpointing:
        engine._recompute(student)
    train(student, model_of(family, cuda), Batch(BLOCKS), settings(), "bf16-mixed", cuda)


@pytest.mark.parametrize(
    ("kind", "loss", "temperature"),
    [
        (CacheKind.sampled, Loss.forward_kl, 2.0),
        (CacheKind.topk, Loss.js, 1.0),
    ],
)
def test_a_cache_is_filled_there_and_trained_from(cuda, tmp_path, monkeypatch, kind, loss, temperature):
    precision = "fp32" if kind == CacheKind.topk else "bf16-mixed"
    config = settings(loss, temperature=temperature, cache=CacheConfig(kind=kind, slots=4))
    monkeypatch.setattr("pipeline.training.cache.PASS_TOKENS", 16)
    teacher = model_of("llama", cuda)
    cache = LogitsCache(tmp_path, "x", Blocks(), 61, config)
    cache.fill(np.arange(3), lambda: teacher, precision)
    cache.verify(np.arange(2), teacher, precision)
    record = cache._record(0)
    cached = decode(np.concatenate([record] * len(BLOCKS)), cache.temperatures, config)
    train(student_of("llama", Sharing.uniform, cuda), None, Batch(BLOCKS, cached), config, precision, cuda)


def test_a_loss_that_leaves_a_tensor_on_the_cpu_fails(cuda, monkeypatch):
    """The proof that this file would notice: a divergence whose weights were never moved."""

    def planted(log_q, log_p):
        value = (log_q * torch.ones(log_q.shape[1])).sum(1)
        return value, log_q

    monkeypatch.setattr("pipeline.training.losses.divergence_of", lambda config: planted)
    run = partial(train, student_of("llama", Sharing.uniform, cuda), model_of("llama", cuda), Batch(BLOCKS))
    with pytest.raises(RuntimeError, match="same device"):
        run(settings(), "fp32", cuda)


def test_a_batch_that_is_not_moved_fails(cuda):
    student = student_of("llama", Sharing.uniform, cuda)
    with pytest.raises(RuntimeError, match=r"same device|cuda.*cpu|cpu.*cuda"):
        distillation_loss(student, None, Batch(tiny.tokens()), settings(Loss.ce))
