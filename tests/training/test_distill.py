"""The trainer against a plain PyTorch loop, and what it says and refuses."""

import numpy as np
import pytest
import torch
from covering import slow
from tiny_training import (
    LR,
    SEED,
    STEPS,
    TinyBlocks,
    assert_near,
    assert_same_weights,
    metrics,
    mixture,
    settings,
    step_lines,
    student,
    teacher,
    train,
)
from torch.nn import functional as F

from pipeline.config import CheckpointConfig
from pipeline.errors import SprigError
from pipeline.training.distill import steps_of
from pipeline.training.order import block_numbers
from pipeline.training.schedules import learning_rate

STEP_KEYS = {"step", "tokens", "loss", "ce", "kl", "grad_norm", "lr", "student_flops", "teacher_flops"}
EVERY_STEP = CheckpointConfig(tokens=64)


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_rank")
    return folder, train(folder).state_dict()


def test_a_text_of_another_vocabulary_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(TinyBlocks, "vocab_size", 49_152)
    with pytest.raises(SprigError, match="vocabulary of 49,152 tokens, and the student has 90: prepare the text with"):
        train(tmp_path)


def reference(model=None):
    """The same training in plain PyTorch: whole batches, dense losses, torch's own AdamW and clipping."""
    config, model, kd_teacher = settings(), model or student(), teacher()
    decayed = [p for name, p in model.named_parameters() if "norm" not in name and "ln_f" not in name]
    others = [p for name, p in model.named_parameters() if "norm" in name or "ln_f" in name]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.95), eps=1e-8
    )
    lines = []
    for step in range(1, STEPS + 1):
        tokens = TinyBlocks().take(block_numbers(20, SEED, 4 * (step - 1), 4))
        inputs, targets = tokens[:, :-1], tokens[:, 1:].flatten()
        logits = model(inputs)[..., :90].flatten(0, 1)
        with torch.no_grad():
            theirs = kd_teacher(inputs)[..., :90].flatten(0, 1)
        ce = F.cross_entropy(logits, targets)
        p = F.softmax(theirs / 2, dim=1)
        kl = (p * (p.log() - F.log_softmax(logits / 2, dim=1))).sum(dim=1).mean()
        loss = 0.5 * ce + 0.5 * 4 * kl
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        rate = learning_rate(64 * step, 64 * STEPS, LR, config.schedule)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        values = {"loss": loss, "ce": ce, "kl": kl, "grad_norm": norm}
        lines.append(
            {"step": step, "tokens": 64 * step, **{name: value.item() for name, value in values.items()}, "lr": rate}
            | {"student_flops": 300 * 64 * step, "teacher_flops": 200 * 64 * step}
        )
    return lines, model.state_dict()


@pytest.mark.parametrize("stage", [0, 2, *slow([[1], [3]])])
def test_equals_a_plain_loop(stage, one_rank, tmp_path):
    folder, weights = one_rank if stage == 0 else (tmp_path, train(tmp_path, stage=stage).state_dict())
    lines, expected = reference()
    assert max(line["grad_norm"] for line in lines) > 0.5, "clipping must take part"
    assert_near(step_lines(folder), lines)
    assert_same_weights(weights, expected, rtol=1e-4, atol=1e-5)
    assert weights["lm_head.weight"].data_ptr() == weights["transformer.wte.weight"].data_ptr()


@pytest.mark.parametrize("stage", [1, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (0, 2, 3))])
def test_a_mixture_equals_a_plain_loop(stage, tmp_path):
    """Tokens are routed twice, and some experts get none of a micro-batch."""
    config = settings(activation_checkpointing=True)
    weights = train(tmp_path, config=config, given=mixture(), stage=stage).state_dict()
    lines, expected = reference(mixture())
    assert_near(step_lines(tmp_path), lines)
    assert_same_weights(weights, expected, rtol=1e-4, atol=1e-5)


def test_metrics_hold_steps_and_the_validation_curve(one_rank):
    lines = metrics(one_rank[0])
    assert [line["tokens"] for line in lines if "validation_nll" in line] == [0, 128, 256, 384]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))
    assert all(line.keys() == STEP_KEYS for line in lines if "loss" in line)
    assert lines[-1]["validation_nll"] < lines[0]["validation_nll"]


def test_one_copy_trains_and_the_student_waits_on_the_cpu(tmp_path):
    seen, given = [], student()
    before = given.lm_head.weight.data_ptr()

    def validate(model):
        seen.append(model.lm_head.weight.data_ptr())
        return 1.0

    trained = train(tmp_path, given=given, validate=validate)
    assert trained is given and given.lm_head.weight.data_ptr() == before and before not in seen
    assert {parameter.device.type for parameter in given.parameters()} == {"cpu"}


def test_without_distillation_there_is_no_teacher(tmp_path):
    train(tmp_path, config=settings(alpha=1.0, beta=0.0))
    assert all(line["kl"] == 0 and line["loss"] == line["ce"] for line in step_lines(tmp_path))
    curve = [line["validation_nll"] for line in metrics(tmp_path) if "validation_nll" in line]
    assert curve[-1] < curve[0]


def test_a_loss_that_is_not_finite_stops_and_names_the_last_good_checkpoint(tmp_path):
    with pytest.raises(SprigError, match=r"not finite at step \d.*checkpoints/1\.$"):
        train(tmp_path, config=settings(checkpoint=EVERY_STEP), lr=1e25)
    for line in step_lines(tmp_path):
        assert np.isfinite(line["loss"])


@pytest.mark.parametrize(
    "after, when, advice",
    [
        (0, "before the first step", r"Look for broken weights in the student\."),
        (2, r"at step \d", r"Lower the learning rate\. The last good checkpoint is \S*checkpoints/1\."),
    ],
)
def test_a_validation_that_is_not_finite_stops_too(after, when, advice, tmp_path):
    def validate(model):
        return float("nan") if calls.append(model) or len(calls) > after else 5.0

    calls = []
    with pytest.raises(SprigError, match=rf"^These values are not finite {when}: validation loss nan\. {advice}$"):
        train(tmp_path, config=settings(checkpoint=EVERY_STEP, validations=STEPS), validate=validate)
    assert [line["validation_nll"] for line in metrics(tmp_path) if "validation_nll" in line] == [5.0] * after


def test_a_budget_below_one_batch():
    with pytest.raises(SprigError, match=r"distill.tokens=63 is below one batch of 4 blocks x 16 = 64 tokens"):
        steps_of(settings(tokens=63), 16)
    assert steps_of(settings(tokens=127), 16) == 1


def test_more_tokens_than_there_are_is_said_in_epochs(tmp_path, caplog):
    caplog.set_level("INFO", "sprig")
    train(tmp_path, until=1)
    assert "it is read" not in caplog.text
    train(tmp_path)
    assert "20 blocks of training text for 24: it is read 1.2 times." in caplog.text


def test_bf16_needs_zero(tmp_path):
    with pytest.raises(SprigError, match=r"deepspeed.zero_stage=1"):
        train(tmp_path, precision="bf16", stage=0)
