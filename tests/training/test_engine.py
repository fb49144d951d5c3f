"""What the engine does to memory, speed and spikes, at every ZeRO stage, and that it changes no result."""

import re
from contextlib import nullcontext

import pytest
import torch
from covering import slow
from tiny_training import (
    assert_near,
    assert_same_weights,
    metrics,
    settings,
    spiking,
    step_lines,
    student,
    train,
)
from torch import nn

from pipeline.config import DeepSpeedConfig
from pipeline.errors import SprigError
from pipeline.models.precision import tf32
from pipeline.training import distill, engine
from pipeline.training.engine import Engine, batching, check_compile

STAGES = [0, pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder).state_dict()


@pytest.mark.parametrize("stage", [2, *slow([[0], [1], [3]])])
def test_activation_checkpointing_changes_no_bit_and_keeps_less(stage, whole, tmp_path):
    def saved(name, **changes):
        """Bytes that all steps' forward passes kept for their backward passes; the weights."""
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value.nbytes) or value, lambda v: v):
            weights = train(tmp_path / name, config=settings(**changes), stage=stage).state_dict()
        return sum(kept), weights

    plain, expected = saved("plain")
    less, weights = saved("checkpointed", activation_checkpointing=True)
    assert_same_weights(weights, expected)
    assert metrics(tmp_path / "checkpointed") == metrics(tmp_path / "plain")
    assert less < 0.5 * plain


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("of, said", [("loss", "loss nan"), ("gradient", "grad_norm (nan|inf)")])
def test_a_spike_is_left_out_if_the_configuration_says_so(stage, of, said, tmp_path, monkeypatch, caplog):
    config = settings(skip_nonfinite=1)
    before = train(tmp_path / "before", config=config, until=2, stage=stage).state_dict()
    monkeypatch.setattr(distill, "distillation_loss", spiking(of, at=3))
    after = train(tmp_path / "after", config=config, until=3, stage=stage).state_dict()
    assert_same_weights(after, before)
    assert re.search(rf"Step 3 is skipped \(1 so far\), as these are not finite: ([a-z]+ nan, )*{said}", caplog.text)
    assert metrics(tmp_path / "after")[-1] == {"step": 3, "tokens": 192, "skipped": 1}
    resumed = train(tmp_path / "after", config=config, stage=stage).state_dict()
    monkeypatch.setattr(distill, "distillation_loss", spiking(of, at=3))
    uninterrupted = train(tmp_path / "through", config=config, stage=stage).state_dict()
    assert_same_weights(resumed, uninterrupted)
    assert [line["step"] for line in step_lines(tmp_path / "through")] == [1, 2, 4, 5, 6]


@pytest.mark.parametrize("stage", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_bf16_of_deepspeed_leaves_a_spike_out_too(stage, tmp_path, monkeypatch):
    config = settings(skip_nonfinite=1)
    before = train(tmp_path / "before", config=config, until=2, stage=stage, precision="bf16").state_dict()
    monkeypatch.setattr(distill, "distillation_loss", spiking("gradient", at=3))
    after = train(tmp_path / "after", config=config, until=3, stage=stage, precision="bf16").state_dict()
    assert_same_weights(after, before)
    assert metrics(tmp_path / "after")[-1] == {"step": 3, "tokens": 192, "skipped": 1}


def test_a_gradient_that_is_not_finite_stops_the_training_unless_it_may_be_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(distill, "distillation_loss", spiking("gradient", at=2))
    with pytest.raises(SprigError, match=r"These values are not finite at step 2: grad_norm nan"):
        train(tmp_path)


def test_more_spikes_than_allowed_stop_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(
        distill, "distillation_loss", lambda model, *_: (next(model.parameters()).sum() * float("nan"),) * 3
    )
    with pytest.raises(SprigError, match=r"These values are not finite at step 3: loss nan"):
        train(tmp_path, config=settings(skip_nonfinite=2))


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_blocks_train_alike(stage, recompute, whole, tmp_path):
    train(tmp_path, config=settings(compile=True, activation_checkpointing=recompute), stage=stage)
    assert_near(metrics(tmp_path), metrics(whole[0]), relative=1e-4)


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SprigError, match=r"needs a C.. compiler on a CPU, and no-such-compiler is not there"):
        check_compile(settings(compile=True), torch.device("cpu"))
    check_compile(settings(), torch.device("cpu"))


@pytest.mark.parametrize(
    ("triton", "compilers", "said"),
    [
        (False, ["gcc"], "needs Triton on a GPU, and it is not there: pip install triton, or set"),
        (True, [], "needs a C compiler on a GPU, and gcc or clang is not there: install one, or set"),
        (True, ["clang"], None),
    ],
)
def test_a_gpu_needs_triton_and_what_it_compiles_with(monkeypatch, triton, compilers, said):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(engine, "find_spec", lambda name: name if triton else None)
    monkeypatch.setattr(engine.shutil, "which", lambda name: name if name in compilers else None)
    check_compile(settings(compile=True), torch.device("cuda"))  # it is only planned for
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SprigError, match=said) if said else nullcontext():
        check_compile(settings(compile=True), torch.device("cuda"))


def test_settings_of_zero_reach_deepspeed(tmp_path):
    deepspeed = DeepSpeedConfig(zero_stage=1, zero_optimization={"reduce_bucket_size": 12345})
    train(tmp_path)  # starts the process group
    engine = Engine(student(), settings(), deepspeed, batching(settings(), 1), "fp32", torch.device("cpu"))
    assert engine.module.zero_reduce_bucket_size() == 12345
    assert engine.module.zero_optimization_stage() == 1
    engine.close()


def test_what_zero3_replaces_lasts_as_long_as_a_step(tmp_path, monkeypatch):
    """DeepSpeed's linear would change the logits of all models with biases in bf16 for the rest of the process."""
    of_torch, seen, honest = nn.functional.linear, {}, distill.distillation_loss

    def watched(name):
        seen.setdefault(name, set()).add(nn.functional.linear is of_torch)

    monkeypatch.setattr(distill, "distillation_loss", lambda *arguments: watched("step") or honest(*arguments))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stage=3, lives=3, validate=lambda model: watched("validation") or 1.0)
    watched("afterwards")
    assert seen == {"validation": {True}, "step": {False}, "afterwards": {True}}


def test_steps_take_the_arithmetic_of_training_and_validation_does_not(tmp_path, monkeypatch):
    """As on a GPU, forward and backward pass; on this CPU, torch's switch has no effect."""
    monkeypatch.setattr(engine, "tf32", lambda precision, device: tf32(precision, torch.device("cuda")))
    seen, honest = {}, distill.distillation_loss

    def watched(name):
        seen.setdefault(name, set()).add(torch.backends.cuda.matmul.allow_tf32)

    def loss(*arguments):
        watched("forward")
        value, *parts = honest(*arguments)
        value.register_hook(lambda gradient: watched("backward"))
        return value, *parts

    monkeypatch.setattr(distill, "distillation_loss", loss)
    train(tmp_path, validate=lambda model: watched("validation") or 1.0, until=1)
    assert seen == {"validation": {False}, "forward": {True}, "backward": {True}}
