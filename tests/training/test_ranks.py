"""The trainer over ranks and ZeRO stages, one process group for many checks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
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
    train,
)

from pipeline.training import distill

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
