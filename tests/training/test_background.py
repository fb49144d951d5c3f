"""Checkpoints that a thread writes next to the training, as on a GPU."""

import errno
import os
import signal
import threading

import pytest
from tiny_training import metrics, settings, step_lines, train

from pipeline.config import CheckpointConfig
from pipeline.errors import Interrupted, NotFinite
from pipeline.preemption import preemptible
from pipeline.training import checkpoints, distill

EVERY_TWO = CheckpointConfig(tokens=128, keep=9)


@pytest.fixture(autouse=True)
def background(monkeypatch):
    monkeypatch.setattr(checkpoints, "in_background", lambda device: True)


@pytest.fixture
def held(monkeypatch):
    """An event that the writing of step 2's checkpoint waits for."""
    event, save = threading.Event(), checkpoints.save_file

    def wait(state, path):
        if "checkpoints/2." in str(path):
            assert event.wait(60)
        save(state, path)

    monkeypatch.setattr(checkpoints, "save_file", wait)
    return event


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.glob("checkpoints/*/*"))}


def test_steps_go_on_meanwhile_and_change_nothing_of_it(tmp_path, monkeypatch, held):
    seen = []

    def log(line):
        if line["step"] == 4 and "loss" in line:  # whose checkpoint waits for that of step 2
            seen.extend(path.name for path in (tmp_path / "thread" / "checkpoints").iterdir())
            held.set()

    config = settings(checkpoint=EVERY_TWO)
    train(tmp_path / "thread", config=config, log=log)
    assert seen == ["2.partial"]
    monkeypatch.setattr(checkpoints, "in_background", lambda device: False)
    train(tmp_path / "alone", config=config)
    assert contents(tmp_path / "thread") == contents(tmp_path / "alone")
    assert {name.split("/")[1] for name in contents(tmp_path / "thread")} == {"2", "4", "6"}
    assert metrics(tmp_path / "thread") == metrics(tmp_path / "alone")


def test_a_full_disk_ends_the_training_at_the_next_step(tmp_path, monkeypatch):
    failed, save = threading.Event(), checkpoints.save_file

    def fills(state, path):
        if "checkpoints/2." in str(path):
            save(state, path)
            return
        path.write_bytes(b"half")
        failed.set()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def log(line):
        if line["step"] == 3 and "loss" in line:
            assert failed.wait(60)

    monkeypatch.setattr(checkpoints, "save_file", fills)
    config = settings(checkpoint=CheckpointConfig(tokens=10**9, minutes=1e-9))  # one a step
    with pytest.raises(OSError, match="No space left") as raised:
        train(tmp_path, config=config, log=log)
    assert raised.value.errno == errno.ENOSPC and ".partial" in raised.value.filename
    assert step_lines(tmp_path)[-1]["step"] < 4
    assert not list(tmp_path.glob("checkpoints/*.partial")), "it would keep the disk full"


def test_a_signal_leaves_the_checkpoint_of_its_step(tmp_path, held):
    def log(line):
        if line["step"] == 3 and "loss" in line:
            os.kill(os.getpid(), signal.SIGTERM)
            held.set()

    with pytest.raises(Interrupted, match="after step 3 of 6"), preemptible():
        train(tmp_path, config=settings(checkpoint=EVERY_TWO), log=log)
    assert checkpoints.latest(tmp_path).name == "3"


def test_what_ends_the_training_names_the_checkpoint_that_was_being_written(tmp_path, monkeypatch, held):
    def nan(model, *_):
        held.set()
        return (next(model.parameters()).sum() * float("nan"),) * 3

    def log(line):
        if line["step"] == 2 and "loss" in line:
            monkeypatch.setattr(distill, "distillation_loss", nan)

    with pytest.raises(NotFinite, match=r"The last good checkpoint is .*/checkpoints/2"):
        train(tmp_path, config=settings(checkpoint=EVERY_TWO), log=log)
