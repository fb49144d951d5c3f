"""The trainer over ranks and ZeRO stages, one process group for many checks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import (
    STEPS,
    assert_near,
    assert_same_weights,
    budget,
    metrics,
    settings,
    spiking,
    stable_phase,
    step_lines,
    student,
    train,
)

from pipeline.config import DeepSpeedConfig, Dtype
from pipeline.training import distill
from pipeline.training.engine import batching, deepspeed_settings

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_rank")
    return folder, train(folder).state_dict()


def start(folder: Path, checks: str) -> Path:
    command = [sys.executable, str(HERE / "two_ranks.py"), str(folder), checks]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_ranks")
    with pytest.raises(KeyboardInterrupt):
        train(folder / "one_two_one", lives=5)
    return start(folder, "few")


@pytest.fixture(scope="module")
def more_of_two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("more_of_two_ranks")
    with pytest.raises(KeyboardInterrupt):
        train(folder / "one_to_two", lives=9)
    stable_phase(folder / "stable3", 3, budget(4))
    return start(folder, "more")


@pytest.mark.parametrize("stage", [2, 3])
def test_ranks_and_stages_agree(stage, one_rank, two_ranks):
    assert_agree(two_ranks / f"stage{stage}", *one_rank)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1])
def test_more_stages_agree(stage, one_rank, more_of_two_ranks):
    assert_agree(more_of_two_ranks / f"stage{stage}", *one_rank)


def assert_agree(folder, of_one_rank, state):
    assert_near(metrics(folder), metrics(of_one_rank))
    weights = torch.load(folder.with_suffix(".pth"), weights_only=True)
    assert_same_weights(weights, state, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_checkpoint_moves_to_other_ranks_and_stages(one_rank, more_of_two_ranks):
    assert_near(metrics(more_of_two_ranks / "one_to_two"), metrics(one_rank[0]))
    assert [line["step"] for line in step_lines(more_of_two_ranks / "two_to_one")][-1] < STEPS
    weights = train(more_of_two_ranks / "two_to_one", stage=0).state_dict()
    assert_near(metrics(more_of_two_ranks / "two_to_one"), metrics(one_rank[0]))
    assert_same_weights(weights, one_rank[1], rtol=1e-4, atol=1e-5)


def test_one_to_two_to_one_over_three_stages(one_rank, two_ranks):
    """ZeRO 0 to step 2, ZeRO 2 on two ranks to step 4, ZeRO 3 to the end: the data order is in the losses."""
    folder = two_ranks / "one_two_one"
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["2", "4"]
    assert step_lines(folder)[-1]["step"] < STEPS
    weights = train(folder, stage=3).state_dict()
    assert_near(metrics(folder), metrics(one_rank[0]))
    assert_same_weights(weights, one_rank[1], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_stable_phase_goes_on_over_other_ranks_and_stages(more_of_two_ranks, tmp_path):
    """One rank at ZeRO 0 to step 3, then two ranks at ZeRO 2, the stable phase to step 6 and the decay to step 8."""
    train(tmp_path, config=budget(8))
    assert_near(metrics(more_of_two_ranks / "extended"), metrics(tmp_path))


def assert_communicated(folder, stage, reductions):
    """In bf16 what would be in fp32: the gradients of so many reductions, and nothing else."""
    sent = {dtype: json.loads((folder / f"{dtype}{stage}" / "sent1.json").read_text()) for dtype in Dtype}
    gradients = reductions * sum(parameter.numel() for parameter in student().parameters())
    assert sent["bf16"]["torch.bfloat16"] == gradients
    assert sent["bf16"]["torch.float32"] == sent["fp32"]["torch.float32"] - gradients
    state = load_file(folder / f"bf16{stage}" / "checkpoints" / "2" / "state.safetensors")
    weights = torch.cat([value.flatten() for name, value in state.items() if name.startswith("weight/")])
    assert (weights != weights.bfloat16()).float().mean() > 0.9, "they stay in fp32"
    lines, wanted = (metrics(folder / f"{dtype}{stage}") for dtype in ("bf16", "fp32"))
    assert lines != wanted
    assert_near(lines, wanted, relative=1e-2)


def test_gradients_of_two_steps_travel_in_bf16(two_ranks):
    assert_communicated(two_ranks, stage=1, reductions=2)


@pytest.mark.slow
def test_so_do_those_of_each_micro_batch_under_zero_2(more_of_two_ranks):
    assert_communicated(more_of_two_ranks, stage=2, reductions=4)


def test_checkpoints_from_a_thread_are_the_same_to_the_bit(two_ranks):
    for name in ("state.safetensors", "progress.json"):
        alone, thread = (two_ranks / run / "checkpoints" / "4" / name for run in ("stage2", "background"))
        assert alone.read_bytes() == thread.read_bytes()


def test_one_rank_and_fp32_communicate_nothing_in_bf16():
    """DeepSpeed would round the gradients of a single rank as well."""
    wanted = DeepSpeedConfig(1, communication=Dtype.bf16)
    for ranks, precision, there in [(2, "bf16-mixed", True), (1, "bf16-mixed", False), (2, "fp32", False)]:
        found = deepspeed_settings(settings(micro_batch=1), wanted, batching(settings(micro_batch=1), ranks), precision)
        assert ("communication_data_type" in found) == there


def test_a_gradient_that_is_not_finite_on_one_rank_is_left_out_on_both(two_ranks, tmp_path, monkeypatch):
    assert_left_out(two_ranks / "spike2", tmp_path, monkeypatch)


@pytest.mark.slow
def test_so_it_is_without_zero(more_of_two_ranks, tmp_path, monkeypatch):
    assert_left_out(more_of_two_ranks / "spike0", tmp_path, monkeypatch)


def assert_left_out(spiked, folder, monkeypatch):
    """As one rank leaves it out."""
    monkeypatch.setattr(distill, "distillation_loss", spiking("gradient", at=3))
    train(folder, config=settings(skip_nonfinite=1))
    assert_near(metrics(spiked), metrics(folder))


def test_two_ranks_refuse_what_they_cannot_divide(two_ranks):
    for rank in range(2):
        assert "2 processes do not fit together" in (two_ranks / f"refused{rank}.txt").read_text()


def test_a_rank_that_waits_for_a_dead_one_ends_with_a_sentence(two_ranks):
    said = (two_ranks / "alone.txt").read_text()
    assert said.startswith("sprig: Rank 1 has failed") and said.endswith("resumes from here.")
