"""Which arithmetic is taken, and what is refused where the processor would only emulate it."""

import os

import pytest
import tiny
import torch
from torch import nn

from pipeline.config import Precision
from pipeline.errors import SprigError
from pipeline.models import precision
from pipeline.models.precision import autocast, frozen, repeatable, resolve_precision, tf32, without_casts
from pipeline.models.student import hidden_states

CPU = torch.device("cpu")


@pytest.mark.parametrize("wanted", [Precision.bf16, Precision("bf16-mixed")])
def test_bf16_where_the_device_has_none(monkeypatch, wanted):
    monkeypatch.setattr(precision, "_has_bf16", lambda device: False)
    with pytest.raises(SprigError, match=rf"precision={wanted.value}, but this cpu has no bf16: use precision=fp32"):
        resolve_precision(wanted, CPU)
    assert resolve_precision(Precision.auto, CPU) == resolve_precision(Precision.fp32, CPU) == "fp32"


def test_bf16_where_there_is_some(monkeypatch):
    monkeypatch.setattr(precision, "_has_bf16", lambda device: True)
    assert resolve_precision(Precision.auto, CPU) == "bf16-mixed"
    assert [resolve_precision(each, CPU) for each in (Precision.fp32, Precision.bf16)] == ["fp32", "bf16"]


@pytest.mark.parametrize(
    ("here", "able", "taken"), [(False, False, "bf16-mixed"), (True, True, "bf16-mixed"), (True, False, "fp32")]
)
def test_a_gpu_that_is_only_planned_has_bf16(monkeypatch, here, able, taken):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: here)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able)
    assert resolve_precision(Precision.auto, torch.device("cuda")) == taken


@pytest.mark.parametrize("family", tiny.families())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_frozen_model_gives_the_logits_of_autocast_to_the_bit(family, dtype):
    """The reference is litgpt's own forward pass under autocast, over the weights as they are."""
    model = tiny.teacher(family).to(dtype).eval().requires_grad_(False)
    model.cos, model.sin = model.rope_cache()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    inputs = tiny.tokens(2, 12)
    with torch.no_grad(), autocast("bf16-mixed", inputs.device):
        expected = model(inputs)
        twin = frozen(model, "bf16-mixed")
        assert torch.equal(twin.lm_head(hidden_states(twin, inputs)), expected)
        assert torch.equal(model.lm_head(hidden_states(model, inputs)), expected)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    linear = {name for name, module in twin.named_modules() if isinstance(module, nn.Linear)}
    for name, weight in twin.named_parameters(remove_duplicate=False):
        cast = dtype == torch.float32 and name.rpartition(".")[0] in linear
        assert weight.dtype == (torch.bfloat16 if cast else dtype), name
        assert cast or weight is model.get_parameter(name), f"{name} is shared"


def test_a_model_in_bf16_is_cast_nowhere():
    """Autocast would convert each norm's input and output (on a GPU) and each weight."""
    model = tiny.teacher("gpt_neox").to(torch.bfloat16).eval().requires_grad_(False)
    model.cos, model.sin = model.rope_cache()
    tokens = tiny.tokens(1, 5)
    with torch.no_grad(), autocast("bf16-mixed", tokens.device):
        with without_casts(model):
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")
    with autocast("bf16-mixed", tokens.device), without_casts(tiny.teacher("gpt_neox")):
        assert torch.is_autocast_enabled("cpu"), "weights in fp32 need it"


@pytest.mark.parametrize(
    ("name", "device", "there"), [("fp32", "cuda", True), ("bf16-mixed", "cuda", False), ("fp32", "cpu", False)]
)
def test_tf32_is_for_training_in_fp32_on_a_gpu_and_ends_with_it(name, device, there):
    with pytest.raises(ValueError), tf32(name, torch.device(device)):
        assert torch.backends.cuda.matmul.allow_tf32 == there
        raise ValueError
    assert not torch.backends.cuda.matmul.allow_tf32


def test_repeatable_algorithms_are_asked_for_and_afterwards_no_longer(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with repeatable(False):
        assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(ValueError), repeatable(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled(), "attention would only warn"
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        raise ValueError
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
