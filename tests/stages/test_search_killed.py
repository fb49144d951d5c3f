"""A search that is killed, or shared out among ranks, comes to the same journal and the same winner."""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import smoke

import pipeline
from launchers.torchrun import command

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LIMIT = 240  # seconds that one process may take
SEARCH = ["search.generations=80", "search.random_baseline=false", "stages=[prepare,order,search]"]
KILLS, TORN = 20, (3, 11, 17)  # of the kills, those that leave half a line


def search(outputs: Path, *overrides: str) -> None:
    pipeline.run(smoke(outputs, *SEARCH, *overrides))


@pytest.fixture(scope="module")
def processes():
    """Where processes come from that need not import torch again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        patch.setenv("OMP_NUM_THREADS", "1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["pipeline.runner"])
        yield context


def wait_for_more(outputs: Path, written: int, is_alive) -> None:
    """Until the journal of the search that runs there has more than so many bytes."""
    deadline = time.monotonic() + LIMIT
    while not any(path.stat().st_size > written for path in outputs.glob("artifacts/search/*.partial/j*")):
        assert is_alive(), "the search ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def finish(processes, outputs: Path, *overrides: str) -> None:
    process = processes.Process(target=search, args=(outputs, *overrides))
    process.start()
    process.join(LIMIT)
    process.kill()
    assert process.exitcode == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory, processes) -> Path:
    outputs = tmp_path_factory.mktemp("whole")
    finish(processes, outputs)
    return outputs


@pytest.fixture
def prepared(whole, tmp_path) -> Path:
    """The outputs of a run whose search is still to come."""
    for stage in ("prepare", "order"):
        shutil.copytree(whole / "artifacts" / stage, tmp_path / "artifacts" / stage)
    return tmp_path


def results(outputs: Path) -> list[bytes]:
    (folder,) = (outputs / "artifacts/search").glob("*/")
    return [(folder / name).read_bytes() for name in ("journal.jsonl", "subnetwork.json")]


def test_twenty_kills_at_random_moments_change_no_byte(prepared, whole, processes):
    draw, written = random.Random(0), 0
    for kill in range(KILLS):
        process = processes.Process(target=search, args=(prepared,))
        process.start()
        try:
            wait_for_more(prepared, written, process.is_alive)
            time.sleep(draw.uniform(0, 0.1))
        finally:
            process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        (journal,) = prepared.glob("artifacts/search/*.partial/journal.jsonl")
        if kill in TORN:  # a write of one line is seldom cut by the kill itself
            *_, last = journal.read_bytes().splitlines(keepends=True)
            os.truncate(journal, journal.stat().st_size - draw.randrange(1, len(last)))
        written = journal.stat().st_size
    finish(processes, prepared)
    assert results(prepared) == results(whole)
    (said,) = (path.read_text() for path in prepared.glob("smoke/*/run.log") if not path.parent.is_symlink())
    assert said.count("was cut short by a kill or is damaged") == len(TORN)


def stopped(outputs: Path, written: int, stop) -> str:
    """What two ranks say that `stop(their launcher)` ends once the journal has more than so many bytes."""
    overrides = ["experiment=smoke", "precision=fp32", f"outputs={outputs}", *SEARCH]
    launcher = subprocess.Popen(
        command(2, overrides),
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for_more(outputs, written, lambda: launcher.poll() is None)
        stop(launcher)
        said, _ = launcher.communicate(timeout=LIMIT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
    assert launcher.returncode != 0
    return said


def kill_rank_1(launcher: subprocess.Popen) -> None:
    for process in map(int, Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()):
        if b"\0RANK=1\0" in Path(f"/proc/{process}/environ").read_bytes():
            os.kill(process, signal.SIGKILL)


def test_two_ranks_that_are_stopped_leave_a_journal_to_go_on_from(prepared, whole, processes):
    said = stopped(prepared, 1000, lambda launcher: launcher.send_signal(signal.SIGTERM))
    assert "SIGTERM ended the search: the same command resumes from its journal" in said, said
    (journal,) = prepared.glob("artifacts/search/*.partial/journal.jsonl")
    said = stopped(prepared, journal.stat().st_size, kill_rank_1)
    assert "One of the 2 evaluating processes died" in said, said
    assert results(whole)[0].startswith(journal.read_bytes())
    finish(processes, prepared)
    assert results(prepared) == results(whole)


def test_two_ranks_come_to_the_same_journal_and_winner(prepared, whole):
    overrides = ["experiment=smoke", "precision=fp32", f"outputs={prepared}", *SEARCH]
    subprocess.run(
        command(2, overrides), cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, timeout=LIMIT
    )
    assert results(prepared) == results(whole)


def test_two_ranks_allocate_as_one_process_does(prepared, processes, tmp_path_factory):
    alone = tmp_path_factory.mktemp("alone")
    for stage in ("prepare", "order"):
        shutil.copytree(prepared / "artifacts" / stage, alone / "artifacts" / stage)
    allocation = [*SEARCH[:-1], "search=allocation", "space.hold=[n_embd,head_size]"]
    allocation.append("stages=[prepare,order,reconstruct,search]")
    finish(processes, alone, *allocation)
    overrides = ["experiment=smoke", "precision=fp32", f"outputs={prepared}", *allocation]
    subprocess.run(
        command(2, overrides), cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, timeout=LIMIT
    )
    assert results(prepared) == results(alone)
