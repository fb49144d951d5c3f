"""The trainer against a plain PyTorch loop, over ZeRO stages, ranks and interruptions."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import LR, SEED, STEPS, TinyBlocks, metrics, settings, student, teacher, train
from torch.nn import functional as F

from pipeline.config import DeepSpeedConfig
from pipeline.errors import SprigError
from pipeline.training.distill import steps_of
from pipeline.training.engine import batching
from pipeline.training.order import block_numbers
from pipeline.training.schedules import learning_rate

HERE = Path(__file__).parent
STEP_KEYS = {"step", "tokens", "loss", "ce", "kl", "lr", "grad_norm"}


def step_lines(folder) -> list[dict]:
    return [line for line in metrics(folder) if "loss" in line]


def assert_near(lines, wanted, relative=1e-5):
    assert [line.keys() for line in lines] == [line.keys() for line in wanted]
    for line, other in zip(lines, wanted, strict=True):
        assert line == pytest.approx(other, rel=relative)


def assert_same_weights(state, wanted, **tolerance):
    assert state.keys() == wanted.keys()
    for name, value in state.items():
        torch.testing.assert_close(value, wanted[name], **tolerance or {"rtol": 0, "atol": 0}, msg=name)


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_rank")
    return folder, train(folder).state_dict()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_ranks")
    with pytest.raises(KeyboardInterrupt):
        train(folder / "one_to_two", lives=9)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command += [str(HERE / "two_ranks.py"), str(folder)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    return folder


def reference():
    """The same training in plain PyTorch: whole batches, dense losses, torch's own AdamW and clipping."""
    config, model, kd_teacher = settings(), student(), teacher()
    decayed = [p for name, p in model.named_parameters() if "norm" not in name and "ln_f" not in name]
    others = [p for name, p in model.named_parameters() if "norm" in name or "ln_f" in name]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.95), eps=1e-8
    )
    lines = []
    for step in range(1, STEPS + 1):
        tokens = TinyBlocks.tokens[block_numbers(20, SEED, 4 * (step - 1), 4)]
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
        )
    return lines, model.state_dict()


@pytest.mark.parametrize("stage", range(4))
def test_equals_a_plain_loop(stage, one_rank, tmp_path):
    folder, weights = one_rank if stage == 0 else (tmp_path, train(tmp_path, stage=stage).state_dict())
    lines, expected = reference()
    assert max(line["grad_norm"] for line in lines) > 0.5, "clipping must take part"
    assert_near(step_lines(folder), lines)
    assert_same_weights(weights, expected, rtol=1e-4, atol=1e-5)
    assert weights["lm_head.weight"].data_ptr() == weights["transformer.wte.weight"].data_ptr()


def test_metrics_hold_steps_and_the_validation_curve(one_rank):
    lines = metrics(one_rank[0])
    assert [line["tokens"] for line in lines if "validation_nll" in line] == [0, 128, 256, 384]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))
    assert all(line.keys() == STEP_KEYS for line in lines if "loss" in line)
    assert lines[-1]["validation_nll"] < lines[0]["validation_nll"]


@pytest.mark.parametrize("stage", range(4))
def test_ranks_and_stages_agree(stage, one_rank, two_ranks):
    assert_near(metrics(two_ranks / f"stage{stage}"), metrics(one_rank[0]))
    weights = torch.load(two_ranks / f"stage{stage}.pth", weights_only=True)
    assert_same_weights(weights, one_rank[1], rtol=1e-4, atol=1e-5)


def test_a_checkpoint_moves_to_other_ranks_and_stages(one_rank, two_ranks):
    assert_near(metrics(two_ranks / "one_to_two"), metrics(one_rank[0]))
    assert [line["step"] for line in step_lines(two_ranks / "two_to_one")][-1] < STEPS
    weights = train(two_ranks / "two_to_one", stage=0).state_dict()
    assert_near(metrics(two_ranks / "two_to_one"), metrics(one_rank[0]))
    assert_same_weights(weights, one_rank[1], rtol=1e-4, atol=1e-5)


def test_two_ranks_refuse_what_they_cannot_divide(two_ranks):
    for rank in range(2):
        assert "2 processes do not fit" in (two_ranks / f"refused{rank}.txt").read_text()


def interrupt(folder, **options):
    with pytest.raises(KeyboardInterrupt):
        train(folder, lives=2 * 4 + 1, **options)  # two micro-batches a step: in the middle of the fifth
    assert [line["step"] for line in step_lines(folder)][-1] == 4


@pytest.mark.parametrize("stage", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_an_interrupted_run_ends_the_same_to_the_bit(stage, one_rank, tmp_path):
    interrupt(tmp_path / "cut", stage=stage)
    weights = train(tmp_path / "cut", stage=stage).state_dict()
    if stage:
        whole, expected = tmp_path / "whole", train(tmp_path / "whole", stage=stage).state_dict()
    else:
        whole, expected = one_rank
    assert_same_weights(weights, expected)
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_what_was_trained_before_is_told_first(tmp_path):
    interrupt(tmp_path)
    lines = []
    train(tmp_path, log=lines.append)
    assert lines[0] == {"step": 4, "tokens": 256, "resumed": True}
    assert [line["step"] for line in lines[1:] if "loss" in line] == [5, 6]
    assert not any("resumed" in line for line in metrics(tmp_path))


def test_one_copy_trains_and_the_student_waits_on_the_cpu(tmp_path):
    seen, given = [], student()
    before = given.lm_head.weight.data_ptr()

    def validate(model):
        seen.append(model.lm_head.weight.data_ptr())
        return 1.0

    trained = train(tmp_path, given=given, validate=validate)
    assert trained is given and given.lm_head.weight.data_ptr() == before and before not in seen
    assert {parameter.device.type for parameter in given.parameters()} == {"cpu"}


def test_a_finished_training_is_not_done_again(one_rank, tmp_path):
    shutil.copytree(one_rank[0], tmp_path / "again")
    lines = []
    weights = train(tmp_path / "again", lives=0, log=lines.append).state_dict()
    assert lines == [{"step": STEPS, "tokens": 64 * STEPS, "resumed": True}]
    assert_same_weights(weights, one_rank[1])
    assert metrics(tmp_path / "again") == metrics(one_rank[0])


@pytest.mark.parametrize("file, keep", [("state.safetensors", 0.5), ("progress.json", 0.5), ("progress.json", None)])
def test_a_torn_checkpoint_is_passed_over(file, keep, one_rank, tmp_path, caplog):
    interrupt(tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "4"]
    torn = tmp_path / "checkpoints" / "4" / file
    if keep is None:
        torn.unlink()
    else:
        torn.write_bytes(torn.read_bytes()[: int(torn.stat().st_size * keep)])
    weights = train(tmp_path).state_dict()
    assert "checkpoints/4 cannot be read" in caplog.text
    assert_same_weights(weights, one_rank[1])
    assert (tmp_path / "metrics.jsonl").read_bytes() == (one_rank[0] / "metrics.jsonl").read_bytes()


def test_the_newest_two_checkpoints_are_kept(one_rank):
    assert sorted(path.name for path in (one_rank[0] / "checkpoints").iterdir()) == ["4", "6"]


@pytest.mark.parametrize(
    "precision, stage",
    [
        ("bf16-mixed", 0),
        ("bf16", 1),
        pytest.param("bf16-mixed", 3, marks=pytest.mark.slow),
        pytest.param("bf16", 3, marks=pytest.mark.slow),
    ],
)
def test_bf16_stays_near_fp32_and_resumes(precision, stage, one_rank, tmp_path):
    interrupt(tmp_path / "cut", precision=precision, stage=stage)
    weights = train(tmp_path / "cut", precision=precision, stage=stage).state_dict()
    expected = train(tmp_path / "whole", precision=precision, stage=stage).state_dict()
    assert_same_weights(weights, expected)
    assert {value.dtype for value in weights.values()} == {torch.float32}
    for line, wanted in zip(step_lines(tmp_path / "whole"), step_lines(one_rank[0]), strict=True):
        assert line["loss"] == pytest.approx(wanted["loss"], rel=0.02)
        assert line["loss"] != wanted["loss"]


def test_without_distillation_there_is_no_teacher(tmp_path):
    train(tmp_path, config=settings(alpha=1.0, beta=0.0))
    assert all(line["kl"] == 0 and line["loss"] == line["ce"] for line in step_lines(tmp_path))
    curve = [line["validation_nll"] for line in metrics(tmp_path) if "validation_nll" in line]
    assert curve[-1] < curve[0]


def test_a_loss_that_is_not_finite_stops_and_names_the_last_good_checkpoint(tmp_path):
    with pytest.raises(SprigError, match=r"At step \d.*checkpoints/1\.$"):
        train(tmp_path, config=settings(checkpoints=STEPS), lr=1e25)
    for line in step_lines(tmp_path):
        assert np.isfinite(line["loss"])


@pytest.mark.parametrize("after, last", [(0, "the start, none was written yet"), (2, r"\S*checkpoints/1")])
def test_a_validation_that_is_not_finite_stops_too(after, last, tmp_path):
    def validate(model):
        return float("nan") if calls.append(model) or len(calls) > after else 5.0

    calls = []
    with pytest.raises(SprigError, match=rf"At step \d these are not finite: validation loss nan\..* is {last}\.$"):
        train(tmp_path, config=settings(checkpoints=STEPS, validations=STEPS), validate=validate)
    assert [line["validation_nll"] for line in metrics(tmp_path) if "validation_nll" in line] == [5.0] * after


def test_a_budget_below_one_batch():
    with pytest.raises(SprigError, match=r"distill.tokens=63 is below one batch of 4 blocks x 16 = 64 tokens"):
        steps_of(settings(tokens=63), 16)
    assert steps_of(settings(tokens=127), 16) == 1


@pytest.mark.parametrize(
    "batch, micro, ranks, message",
    [
        (8, 3, 1, r"global_batch=8, distill.micro_batch=3 and 1 processes .* multiple of 3 x 1 = 3; .* is 6"),
        (8, 8, 2, r"would take 16 blocks. Please lower distill.micro_batch to at most 4"),
        (2, 1, 3, r"would take 3 blocks. Please use fewer processes"),
    ],
)
def test_batches_that_do_not_divide(batch, micro, ranks, message):
    with pytest.raises(SprigError, match=message):
        batching(settings(global_batch=batch, micro_batch=micro), ranks)


@pytest.mark.parametrize("ranks, micro", [(1, 12), (2, 3), (3, 2), (4, 1)])
def test_every_layout_sees_the_same_global_batch(ranks, micro):
    numbers = np.arange(100, 112)
    layout = batching(settings(global_batch=12, micro_batch=micro), ranks)
    shares = [layout.share(numbers, rank) for rank in range(ranks)]
    assert all(len(part) == micro for share in shares for part in share)
    assert sorted(np.concatenate([part for share in shares for part in share])) == list(numbers)


def test_bf16_needs_zero(tmp_path):
    with pytest.raises(SprigError, match=r"deepspeed.zero_stage=1"):
        train(tmp_path, precision="bf16", stage=0)


def test_settings_of_zero_reach_deepspeed(tmp_path):
    from pipeline.training.engine import Engine

    deepspeed = DeepSpeedConfig(1, {"reduce_bucket_size": 12345})
    train(tmp_path)  # starts the process group
    engine = Engine(student(), settings(), deepspeed, batching(settings(), 1), "fp32", torch.device("cpu"))
    assert engine.module.zero_reduce_bucket_size() == 12345
    assert engine.module.zero_optimization_stage() == 1
    engine.close()


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_bits(one_rank, tmp_path):
    program = """
import sys, time
from pathlib import Path
from tiny_training import train
train(Path(sys.argv[1]), log=lambda line: time.sleep(600 if line["step"] == 3 else 0))
"""
    lines = tmp_path / "metrics.jsonl"
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=HERE)
    while process.poll() is None and not (lines.exists() and '"step": 3' in lines.read_text()):
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]
    weights = train(tmp_path).state_dict()
    assert_same_weights(weights, one_rank[1])
    assert lines.read_bytes() == (one_rank[0] / "metrics.jsonl").read_bytes()
