"""Cleaning over and over while a run is going on, and while runs are killed: no run loses what it needs."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.artifacts.inventory import entries, remove

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
# Small enough that a run is mostly publishing and linking.
SMALL = [
    "search.population=4",
    "search.parents=2",
    "search.generations=1",
    "search.random_baseline=false",
    "distill.tokens=512",
]
SMALL += ["distill.validations=1", "evaluate.blocks=2", "evaluate.speed.repetitions=1", "evaluate.sample_tokens=2"]


class Cleaner(threading.Thread):
    """`artifacts clean --yes --days 0` in a loop, as fast as it goes."""

    def __init__(self, outputs: Path):
        super().__init__(daemon=True)
        self.outputs, self.over, self.rounds = outputs, threading.Event(), 0
        self.failed: list[BaseException] = []

    def run(self) -> None:
        while not self.over.is_set():
            try:
                if (self.outputs / "artifacts").is_dir():
                    remove(self.outputs, [entry.folder for entry in entries(self.outputs)], days=0)
                    self.rounds += 1
            except BaseException as error:
                self.failed.append(error)
                return


def start(outputs: Path, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "pipeline", "experiment=smoke", "precision=fp32", f"outputs={outputs}"]
    return subprocess.Popen(
        [*command, *SMALL, *overrides],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_cleaning_next_to_runs_that_finish_and_runs_that_are_killed(tmp_path):
    cleaner = Cleaner(tmp_path)
    cleaner.start()
    draw = random.Random(0)
    try:
        for stage in ("prepare", "distill"):
            process = start(tmp_path)
            while not any((tmp_path / "artifacts" / stage).glob("*.partial")):
                assert process.poll() is None, process.stdout.read()
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 1))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process = start(tmp_path)
        said, _ = process.communicate(timeout=400)
        assert process.returncode == 0, said[-3000:]
    finally:
        cleaner.over.set()
        cleaner.join(60)
    assert not cleaner.failed and cleaner.rounds > 20
    made = {entry.folder: entry.needed_by for entry in entries(tmp_path)}
    assert made and all(made.values())
    again = start(tmp_path)
    said, _ = again.communicate(timeout=400)
    assert again.returncode == 0 and ": cached" in said and ": starting" not in said, said[-3000:]
