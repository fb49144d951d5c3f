"""Whole runs in processes of their own: killed at any point, or spread over ranks, they come to the same result."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LIMIT = 240  # seconds that one process may take


def command(outputs: Path, *overrides: str) -> list[str]:
    return ["-m", "pipeline", "experiment=smoke", "precision=fp32", f"outputs={outputs}", *overrides]


def finish(outputs: Path, *overrides: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    arguments = [sys.executable, *launcher, *command(outputs, *overrides)[2 if launcher else 0 :]]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )


def kill_when(condition: Callable[[], bool], outputs: Path, *overrides: str) -> None:
    """Starts the run in a session of its own and kills it, workers and all, as soon as the condition holds."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *command(outputs, *overrides)],
        cwd=ROOT,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + LIMIT
    try:
        while not condition():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def lines(outputs: Path, pattern: str) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in outputs.glob(f"artifacts/{pattern}"))


def results(outputs: Path) -> dict[str, bytes]:
    """What must not depend on how a run came to its end: winner, journal, weights, losses."""
    run = outputs / "smoke" / "latest" / "artifacts"
    names = ("search/subnetwork.json", "search/journal.jsonl", "distilled_student/metrics.jsonl")
    contents = {name: (run / name).read_bytes() for name in names}
    for role in ("student", "control"):
        weights = torch.load(run / f"distilled_{role}/lit_model.pth", weights_only=True)
        contents |= {f"{role} {name}": tensor.numpy().tobytes() for name, tensor in weights.items()}
    return contents


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    outputs = tmp_path_factory.mktemp("whole")
    done = finish(outputs)
    assert done.returncode == 0, done.stderr
    return outputs


def test_killed_inside_search_and_distillation(whole, tmp_path):
    kill_when(lambda: lines(tmp_path, "search/*.partial/journal.jsonl") >= 9, tmp_path)
    kill_when(lambda: lines(tmp_path, "distill/*.partial/metrics.jsonl") >= 15, tmp_path)
    done = finish(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Training resumes after step" in done.stdout
    assert results(tmp_path) == results(whole)


def test_killed_inside_the_study(whole, tmp_path):
    """In its measures and in a training, which goes on from its checkpoint: the same bytes as uninterrupted."""
    asked = ["study.random=3", "study.searched=2", "study.tokens=2048", "study.short=[512]", "study.resamples=50"]
    asked += ["stages=[study]", "distill.checkpoint.minutes=1e-4"]
    killed, never = tmp_path / "killed", tmp_path / "never"
    for outputs in (killed, never):
        shutil.copytree(whole, outputs, symlinks=True)
    assert finish(never, *asked).returncode == 0
    kill_when(lambda: lines(killed, "study/*.partial/kl.jsonl") >= 3, killed, *asked)
    kill_when(
        lambda: (
            lines(killed, "study/*.partial/reached.jsonl") >= 3
            and lines(killed, "study/*.partial/training/*/*/metrics.jsonl") >= 8
        ),
        killed,
        *asked,
    )
    done = finish(killed, *asked)
    assert done.returncode == 0, done.stderr
    assert "Training resumes after step" in done.stdout
    published = [next(outputs.glob("artifacts/study/*/manifest.json")).parent for outputs in (killed, never)]
    files, expected = ({path.name: path.read_bytes() for path in each.iterdir()} for each in published)
    assert files.pop("manifest.json") != expected.pop("manifest.json")  # times
    assert files == expected and len(files) == 7


def test_two_ranks_find_the_same_winner_and_nearly_the_same_student(whole, tmp_path):
    done = finish(tmp_path, "deepspeed=zero2", launcher=("-m", "launchers.torchrun", "2"))
    assert done.returncode == 0, done.stderr
    run, other = (outputs / "smoke/latest/artifacts" for outputs in (whole, tmp_path))
    for name in ("search/journal.jsonl", "search/subnetwork.json"):
        assert (run / name).read_bytes() == (other / name).read_bytes()
    ours, theirs = (torch.load(each / "distilled_student/lit_model.pth", weights_only=True) for each in (run, other))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=2e-5, rtol=0)
    # The same artifacts, so that one process finds what two have made.
    assert ": starting" not in finish(tmp_path).stdout
