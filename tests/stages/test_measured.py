"""plan=measure times real training steps on this device."""

import re
from itertools import count

import pytest
from runs import smoke

import pipeline
from pipeline.errors import SprigError
from pipeline.plan import costs, measured
from pipeline.stages.budget import token_flops
from pipeline.stages.context import Context
from pipeline.training.losses import distillation_loss


@pytest.fixture
def batches(monkeypatch):
    """The batches of the timed training, on a clock that moves one second each time it is read: a step takes two."""
    seen, clock = [], count()

    def loss(model, teacher, batch, config):
        seen.append((teacher is not None, tuple(batch.tokens.shape)))
        return distillation_loss(model, teacher, batch, config)

    monkeypatch.setattr(measured, "SECONDS", 0)
    monkeypatch.setattr(measured, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(measured, "distillation_loss", loss)
    return seen


def test_the_time_of_a_plan_follows_the_measured_speed(tmp_path, capsys, batches):
    config = smoke(tmp_path, "plan=measure")
    pipeline.run(config)
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    # A global batch of 4 blocks of 32 tokens in two micro-batches; one step to warm up and a timed one of two seconds.
    assert batches == [(True, (2, 33))] * 4
    assert "at the measured 64 tokens/s of training per process, communication not counted; for 8 hours" in said
    budget = re.search(r"for 8 hours of training: (budget=\S+)", said)[1]
    assert smoke(tmp_path, budget).distill.tokens == 8 * 3600 * 64
    context = Context(config, log=lambda _: None)
    typical = costs.typical(context)
    each = token_flops(context, typical.middle, context.config.distill)
    hours = sum(costs.flops(context, typical).values()) / (64 * (each.student + each.teacher)) / 3600
    minutes = float(said.partition("time about ")[2].split()[0])
    assert minutes - 1 <= hours * 60 <= minutes


def test_a_cached_training_is_timed_without_its_teacher(tmp_path, batches):
    context = Context(smoke(tmp_path, "plan=measure", "distill.cache.kind=topk"), log=lambda _: None)
    assert measured.tokens_per_second(context, costs.typical(context).middle) == 64
    assert not any(teacher for teacher, _ in batches)


@pytest.mark.parametrize(
    "overrides, sentence",
    [
        (["plan=fast"], "plan=fast must be true, false or measure."),
        (["plan=measure", "device=cuda"], "plan=measure times the device, and this machine has no GPU: use plan=true"),
    ],
)
def test_what_cannot_be_measured(tmp_path, overrides, sentence):
    with pytest.raises(SprigError, match=sentence):
        pipeline.run(smoke(tmp_path, *overrides))


def test_one_of_several_processes_is_not_measured(tmp_path, monkeypatch):
    context = Context(smoke(tmp_path, "plan=measure"), log=lambda _: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SprigError, match="times one process, and this is one of 2: start it without torchrun"):
        measured.tokens_per_second(context, costs.typical(context).middle)
