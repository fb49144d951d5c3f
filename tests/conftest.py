"""What tests of whole runs share. Fixtures import what they need: the controller of xdist runs none."""

import functools
import gc
import pickle
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest


def pytest_configure() -> None:
    """Shells let background jobs ignore interrupts, and what a test starts would inherit that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests may take longer than pyproject.toml allows. The files that take longest go first: no worker is left
    with one of them alone."""
    items.sort(key=lambda item: item.path.name not in ("test_quickstart.py", "test_ranks.py"))
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(3600))


def pytest_collection_finish() -> None:
    """What is imported and collected stays: garbage collections need not walk through it again and again."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """No test cuts the power: what was written survives a killed process without waiting for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def embedded_teachers_known() -> Iterator[None]:
    """The files of an embedded teacher are read and hashed once: for a GGUF file that is most of a plan's time."""
    from pipeline.artifacts import digest
    from pipeline.config import to_plain
    from pipeline.models import sources

    def remembering(find):
        known = {}

        def found(teacher):
            if teacher.package is None:
                return find(teacher)
            key = digest(to_plain(teacher))
            return known.get(key) or known.setdefault(key, find(teacher))

        # Its name is part of a fact's.
        return functools.wraps(find)(found)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("describe", "identify", "identify_tokenizer"):
            patch.setattr(sources, name, remembering(getattr(sources, name)))
        yield


@pytest.fixture(scope="session")
def smoke_outputs(tmp_path_factory) -> Path:
    """The outputs folder of one finished smoke run, made once; tests that change it must work on a copy."""
    from runs import smoke

    import pipeline

    outputs = tmp_path_factory.mktemp("smoke") / "outputs"
    pipeline.run(smoke(outputs))
    return outputs


class InProcess:
    """Stands for submitit: runs a sweep's job at once, in this process."""

    def __init__(self, folder: Path):
        self.folder, self.ran = folder, []

    def submit_array(self, tasks: list) -> list:
        return [self._run(each) for each in tasks]

    def _run(self, each) -> SimpleNamespace:
        from launchers.sweep import task

        self.ran.append(each.overrides)
        said = task._alone([*each.overrides, "hydra.mode=RUN"])
        result = self.folder / f"{len(self.ran)}.pkl"
        result.write_bytes(pickle.dumps(("success", said)))
        paths = SimpleNamespace(folder=self.folder, stdout=self.folder / "none", result_pickle=result)
        nobody = str(10**9 + len(self.ran))  # no process has this id: a sweep that is ended ends its jobs' processes
        return SimpleNamespace(done=lambda: True, paths=paths, job_id=nobody)


@pytest.fixture
def in_process(monkeypatch, tmp_path) -> InProcess:
    """Sweeps of this test have no processes of their own: a whole one costs seconds, not the imports of each job."""
    from launchers.sweep import clusters

    executor = InProcess(tmp_path)

    @contextmanager
    def local(settings, record, jobs):
        yield clusters.Place(executor, [{}], alive=tmp_path / "alive.lock")

    monkeypatch.setattr(clusters, "local", local)
    return executor
