"""Ranks: the same journal for any number of them, and what happens when one fails, is signalled or dies."""

import os
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest
from torch import distributed
from toy import SPACE, Landscape, configure, fitness, search, walk

from pipeline.errors import SprigError
from pipeline.search.ranks import Ranks
from pipeline.search.strategies.registry import make

pytestmark = pytest.mark.slow
LIMIT = 200  # seconds that the processes may take


class Troubled(Landscape):
    """What befalls rank 1 at its 12th task, and nobody else: "failure", "signal", "death" or nothing."""

    def __init__(self, rank: int, trouble: str):
        super().__init__(fitness)
        self.trouble, self.seen, self.signalled = trouble if rank == 1 else "", 0, None

    def run(self, subs):
        for result in super().run(subs):
            self.seen += 1
            if self.seen == 12 and self.trouble == "failure":
                raise RuntimeError("no such luck")
            if self.seen == 12 and self.trouble == "signal":
                self.signalled = "SIGUSR1"
            if self.seen == 12 and self.trouble == "death":
                os.kill(os.getpid(), signal.SIGKILL)
            yield result


def searched(path: Path, rank: int, trouble: str) -> None:
    scorer = Troubled(rank, trouble)
    ranks = Ranks(scorer, None, lambda: scorer.signalled)
    if rank != 0:
        ranks.serve()
        return
    config, lines = configure("evolution"), []

    def log(line):
        lines.append(line)
        if trouble == "full disk" and len(lines) == 23:
            raise OSError("the disk is full")

    try:
        search(config, make(config, SPACE, 0), ranks, path, log=log)
    finally:
        ranks.close()


def live(rank: int, count: int, folder: Path, troubles: list[str]) -> None:
    """One rank's life: a search for every trouble in turn, whose outcome goes into a file."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    for trouble in troubles:
        said = "done"
        try:
            searched(folder / trouble, rank, trouble)
        except (SprigError, OSError) as error:
            said = f"{type(error).__name__}: {error}"
        (folder / f"{trouble} {rank}.txt").write_text(said)


def start(count: int, folder: Path, *troubles: str) -> None:
    processes = [
        get_context("spawn").Process(target=live, args=(rank, count, folder, troubles)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(LIMIT)
            assert process.exitcode is not None, "the ranks wait for one another"
    finally:
        for process in processes:
            process.kill()


def outcomes(folder: Path, trouble: str) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob(f"{trouble} *.txt"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    walk(configure("evolution"), folder / "one process")
    start(2, folder, "nothing", "failure", "signal", "full disk", "death")
    return folder


def goes_on(folder: Path, trouble: str) -> None:
    whole, left = (folder / "one process").read_bytes(), (folder / trouble).read_bytes()
    assert whole.startswith(left) and 10 < len(left.splitlines()) < len(whole.splitlines())
    walk(configure("evolution"), folder / trouble)
    assert (folder / trouble).read_bytes() == whole


def test_the_journal_does_not_depend_on_the_number_of_ranks(folder, tmp_path):
    start(3, tmp_path, "nothing")
    for each in (folder, tmp_path):
        assert (each / "nothing").read_bytes() == (folder / "one process").read_bytes()


def test_an_evaluation_that_fails_ends_all_ranks_with_one_sentence(folder):
    said = "SprigError: A candidate could not be evaluated: RuntimeError: no such luck."
    assert outcomes(folder, "failure") == [said] * 2
    goes_on(folder, "failure")


def test_a_signal_to_one_rank_ends_all_and_what_they_finished_is_kept(folder):
    said = "Interrupted: SIGUSR1 ended the search: the same command resumes from its journal."
    assert outcomes(folder, "signal") == [said] * 2
    goes_on(folder, "signal")


def test_the_other_ranks_leave_where_the_search_fails_at_rank_0(folder):
    assert outcomes(folder, "full disk") == ["OSError: the disk is full", "done"]
    goes_on(folder, "full disk")


def test_a_rank_that_dies_ends_the_search_with_a_sentence(folder):
    (said,) = outcomes(folder, "death")
    assert "SprigError: One of the 2 evaluating processes died, so the search stops" in said
    goes_on(folder, "death")
