"""Workers: the same journal for any number of them, and what happens when one dies. Each worker starts a process."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from toy import SPACE, Landscape, configure, fitness, search, walk

from pipeline.errors import SprigError
from pipeline.search.strategies.registry import make
from pipeline.search.workers import Workers

pytestmark = pytest.mark.slow


class Mortal(Landscape):
    """Dies at its third task, as often as `times` says; the file counts the deaths of all processes."""

    def __init__(self, deaths: Path, times: int, number: int):
        super().__init__(fitness)
        self.deaths, self.times, self.seen = deaths, times, 0

    def run(self, tasks):
        self.seen += 1
        died = len(self.deaths.read_text()) if self.deaths.exists() else 0
        if died < self.times and (self.seen == 3 or died):
            self.deaths.write_text("x" * (died + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(tasks)


class Failing(Landscape):
    def __init__(self, number: int):
        super().__init__(fitness)

    def run(self, tasks):
        raise RuntimeError("no such luck")


def unable(number: int) -> Landscape:
    raise SprigError("No GPU has 40 GiB free: use search.workers=1.")


def healthy(number: int) -> Landscape:
    return Landscape(fitness)


def searched(path: Path, count: int, make_scorer) -> None:
    config, workers = configure("evolution"), Workers(count, make_scorer)
    try:
        search(config, make(config, SPACE, 0), workers, path)
    finally:
        workers.close()


def test_the_journal_does_not_depend_on_the_number_of_workers(tmp_path):
    walk(configure("evolution"), tmp_path / "one")
    for count in (1, 2, 3):
        searched(tmp_path / f"{count}", count, healthy)
        assert (tmp_path / f"{count}").read_bytes() == (tmp_path / "one").read_bytes()


def test_the_candidate_of_a_worker_that_dies_is_evaluated_again(tmp_path, caplog):
    walk(configure("evolution"), tmp_path / "one")
    searched(tmp_path / "two", 2, partial(Mortal, tmp_path / "deaths", 1))
    assert (tmp_path / "two").read_bytes() == (tmp_path / "one").read_bytes()
    (said,) = [record.getMessage() for record in caplog.records if "died" in record.getMessage()]
    assert "died (exit code -9); its candidate" in said


def test_a_candidate_at_which_workers_die_again_and_again_ends_the_search(tmp_path):
    with pytest.raises(SprigError, match=r"died \(exit code -9\), the 3rd time at candidate \w+: is there memory"):
        searched(tmp_path / "journal", 1, partial(Mortal, tmp_path / "deaths", 99))


def test_an_evaluation_that_fails_is_one_sentence(tmp_path):
    with pytest.raises(SprigError, match="A candidate could not be evaluated: RuntimeError: no such luck"):
        searched(tmp_path / "journal", 1, Failing)


def test_a_worker_that_cannot_start_is_one_sentence(tmp_path, capfd):
    with pytest.raises(SprigError, match=r"^Search worker 0 could not start: No GPU has 40 GiB free: use \S+=1\.$"):
        searched(tmp_path / "journal", 1, unable)
    assert "Traceback" not in capfd.readouterr().err


def test_a_script_that_runs_as_it_is_imported_ends_in_one_sentence(tmp_path):
    """A worker imports the script first, and would wait there for the lock of the search that waits for it."""
    script, run = tmp_path / "script.py", f"pipeline.run(pipeline.compose([*{OF_A_SCRIPT}, 'outputs={tmp_path}']))"
    script.write_text(f"import pipeline\n{run}\n")
    failed = executed(script)
    assert failed.returncode == 1 and "while a worker process imports this script: put the call" in failed.stderr
    *_, said = failed.stderr.splitlines()
    assert said.startswith("pipeline.errors.SprigError: Search worker ") and said.endswith(
        "could not start (exit code 1, its error is above): where a script calls pipeline.run, it must be a file, with "
        "the call under if __name__ == '__main__':."
    )
    script.write_text(f"import pipeline\nif __name__ == '__main__':\n    {run}\n")
    assert executed(script).returncode == 0


OF_A_SCRIPT = ["experiment=smoke", "precision=fp32", "ordering=none", "search.workers=2"]
OF_A_SCRIPT += ["stages=[prepare,search]", "search.generations=0", "search.random_baseline=false"]


def executed(script: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)
