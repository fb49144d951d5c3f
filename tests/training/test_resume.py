"""A training that was cut goes on from its newest whole checkpoint to the same bits."""

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time

import pytest
import torch
from safetensors import SafetensorError
from tiny_training import (
    SLOW_STEPS,
    STEPS,
    assert_same_weights,
    interrupt,
    metrics,
    settings,
    step_lines,
    train,
    train_slowly,
)

from pipeline.config import CheckpointConfig
from pipeline.errors import Interrupted, SprigError
from pipeline.preemption import preemptible
from pipeline.training import checkpoints


def kept(folder) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def assert_same_end(folder, weights, whole):
    assert_same_weights(weights, whole[1])
    assert (folder / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_rank")
    return folder, train(folder).state_dict()


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
    assert_same_end(tmp_path, weights, one_rank)


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 0x40
    file.write_bytes(content)


def test_a_checkpoint_with_a_changed_byte_is_passed_over(one_rank, tmp_path, caplog):
    interrupt(tmp_path)
    flip(tmp_path / "checkpoints" / "4" / "state.safetensors", -1)
    weights = train(tmp_path).state_dict()
    assert "checkpoints/4 cannot be read (state.safetensors was changed)" in caplog.text
    assert_same_end(tmp_path, weights, one_rank)


def test_a_checkpoint_of_another_step_than_it_says_is_passed_over(one_rank, tmp_path, caplog):
    interrupt(tmp_path)
    file = tmp_path / "checkpoints" / "4" / "progress.json"
    file.write_text(file.read_text().replace('"step": 4', '"step": 5'))
    weights = train(tmp_path).state_dict()
    assert "checkpoints/4 cannot be read (progress.json was changed)" in caplog.text
    assert_same_end(tmp_path, weights, one_rank)


@pytest.mark.parametrize(
    "damage, older", [("empty", True), ("half", True), ("half", False), ("one byte", False), ("gone", False)]
)
def test_damaged_metrics_are_not_resumed_from(damage, older, one_rank, tmp_path, caplog):
    """Older versions of Sprig wrote no checksums: they tell only that there is too little."""
    interrupt(tmp_path)
    for file in tmp_path.glob("checkpoints/*/progress.json") if older else ():
        known = json.loads(file.read_text())
        del known["sha256"]
        file.write_text(json.dumps(known))
    file = tmp_path / "metrics.jsonl"
    if damage == "one byte":
        flip(file, 10)
    elif damage == "gone":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size // 2 if damage == "half" else 0)
    weights = train(tmp_path).state_dict()
    assert "checkpoints/4 cannot be read (" in caplog.text
    assert_same_end(tmp_path, weights, one_rank)


def test_a_torn_checkpoint_takes_no_place_of_a_good_one(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "tensors", lambda engine: [("weight", "w", torch.zeros(1))])
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    for step in (2, 3):
        with checkpoints.Writer(tmp_path, 1, torch.device("cpu")) as writer:
            writer.save(None, checkpoints.Position(step), at_once=True)
        assert checkpoints.latest(tmp_path).name == str(step)
    assert kept(tmp_path) == ["3", "4"]


def test_the_newest_are_kept_and_the_last_step_is_among_them(one_rank, tmp_path):
    assert kept(one_rank[0]) == ["4", "6"]
    train(tmp_path, config=settings(checkpoint=CheckpointConfig(tokens=250, keep=1)))
    assert kept(tmp_path) == ["6"]


def test_minutes_ask_for_checkpoints_too(tmp_path):
    train(tmp_path, config=settings(checkpoint=CheckpointConfig(tokens=10**9, minutes=1e-9, keep=9)))
    assert kept(tmp_path) == ["1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_training_after_a_checkpoint(number, one_rank, tmp_path):
    def log(line):
        if line["step"] == 3 and "loss" in line:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=rf"\({number.name}\) ended the training after step 3 of 6"), preemptible():
        train(tmp_path, log=log)
    assert kept(tmp_path) == ["2", "3"]
    assert_same_end(tmp_path, train(tmp_path).state_dict(), one_rank)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    interrupt(tmp_path)
    with pytest.raises(SprigError, match=r"checkpoints/4 is of run tiny, not of other: remove .*/checkpoints"):
        train(tmp_path, run="other")


def test_a_full_disk_leaves_the_checkpoint_before(one_rank, tmp_path, monkeypatch):
    def fills(state, path):
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def log(line):
        if line["step"] == 3:
            monkeypatch.setattr(checkpoints, "save_file", fills)

    with pytest.raises(OSError) as raised:
        train(tmp_path, log=log)
    assert raised.value.errno == errno.ENOSPC and "checkpoints/4.partial" in raised.value.filename
    assert kept(tmp_path) == ["2"]
    monkeypatch.undo()
    assert_same_end(tmp_path, train(tmp_path).state_dict(), one_rank)


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


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_no_bit(tmp_path, monkeypatch):
    """Each kill comes at a random moment between the start of training and its end, checkpoints' writing included.
    Every other process writes them from a thread."""
    config, draw = settings(tokens=64 * SLOW_STEPS), random.Random(0)
    lines = tmp_path / "cut" / "metrics.jsonl"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # for the server of processes
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tiny_training", "deepspeed"])  # else each of them imports for many seconds
    for number in range(10):
        before = lines.stat().st_mtime_ns if lines.exists() else 0
        arguments = tmp_path / "cut", config, bool(number % 2)
        process = processes.Process(target=train_slowly, args=arguments, daemon=True)
        process.start()
        try:
            while not (lines.exists() and lines.stat().st_mtime_ns > before):
                assert process.is_alive(), "the training ended before it could be killed"
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.5))
        finally:
            process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert 0 < step_lines(tmp_path / "cut")[-1]["step"] < SLOW_STEPS
    weights = train(tmp_path / "cut", config=config).state_dict()
    whole = tmp_path / "whole", train(tmp_path / "whole", config=config).state_dict()
    assert_same_end(tmp_path / "cut", weights, whole)
