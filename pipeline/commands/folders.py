"""Run folders as they lie on the disk: finding them, and what each says about itself."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import RUNNING, is_held
from pipeline.artifacts.inventory import STORE, visible_runs
from pipeline.artifacts.runs import OUTPUTS, SAVED, is_run, run_folder, summary
from pipeline.commands import Line
from pipeline.errors import SprigError
from pipeline.layout import COMPLETED, LOG
from pipeline.outside import misfit

FINISHED, UNDERWAY, FAILED, STOPPED = "finished", "running", "failed", "stopped"


@dataclass(frozen=True)
class Known:
    """A run's folder in `outputs`, its summary.json, empty before the first report or where it is damaged, and when
    it was started, in seconds since the epoch."""

    folder: Path
    outputs: Path
    summary: dict[str, Any]
    started: float

    @property
    def name(self) -> str:
        return self.folder.relative_to(self.outputs).as_posix()

    @property
    def held(self) -> bool:
        """Whether a process works on it."""
        return is_held(self.folder / RUNNING)

    @property
    def status(self) -> str:
        if self.reported("status") == COMPLETED:
            return FINISHED
        if self.held:
            return UNDERWAY
        return FAILED if self._failed else STOPPED

    @property
    def _failed(self) -> bool:
        """Whether the last process that worked on it ended with an error; one that was killed says nothing."""
        try:
            *_, last = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        except (OSError, ValueError):  # no log, or an empty one
            return False
        return last.split(" ")[2:3] == ["ERROR"]

    @property
    def random_weights(self) -> bool:
        return self.reported("teacher", "random_weights") is True

    def reported(self, *keys: str) -> Any:
        """A value of the summary; None where it has none."""
        found: Any = self.summary
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def number(self, *keys: str) -> float | None:
        """As `reported`; None where the value is no number."""
        found = self.reported(*keys)
        return found if misfit(found, float) is None else None


def all_runs(outputs: Path) -> list[Known]:
    """The runs of a folder, the oldest first.

    Raises:
        SprigError: the folder has no store, so it is not one of outputs.
    """
    if not (outputs / STORE).is_dir():
        raise SprigError(
            f"{outputs} has no runs, as it has no folder {STORE}: name where they are, outputs=FOLDER, or start one, "
            "sprig experiment=quickstart."
        )
    return _oldest_first(_known(folder, outputs) for folder in visible_runs(outputs))


def siblings(folder: Path) -> list[Known]:
    """The runs directly in a folder such as outputs/smoke, the oldest first."""
    return _oldest_first(_known(each, folder.parent) for each in folder.glob("[!.]*") if is_run(each))


def _oldest_first(runs: Iterable[Known | None]) -> list[Known]:
    """Without those that were removed while this looks."""
    return sorted(filter(None, runs), key=lambda run: (run.started, run.name))


def chosen(line: Line) -> list[Known]:
    """The runs that a command names, each once.

    Raises:
        SprigError: a name is not that of a run.
    """
    runs: dict[Path, Known] = {}
    for name in line.names:
        folder = run_folder(name, line.outputs or OUTPUTS).resolve()
        if (run := _known(folder, folder.parents[1])) is None:
            raise SprigError(f"{name} was removed by another process just now: leave it out.")
        runs[folder] = run
    return list(runs.values())


def owned(line: Line) -> list[Known]:
    """As `chosen`, for what changes them.

    Raises:
        SprigError: as `chosen`, or a name is that of a run elsewhere, or in no folder of outputs.
    """
    for name in line.names:
        named = run_folder(name, line.outputs or OUTPUTS)
        folder, outputs = named.resolve(), (line.outputs or named.absolute().parents[1]).resolve()
        if not folder.is_relative_to(outputs):
            raise SprigError(
                f"{named} is the run {folder}, outside {outputs}: name it where it lies, "
                f"{folder.relative_to(folder.parents[1])} outputs={folder.parents[1]}."
            )
        if not (place := folder.parents[1] / STORE).is_dir():
            raise SprigError(
                f"{folder} does not lie in a folder of outputs, as {place} is not there: remove this copy yourself."
            )
    return chosen(line)


def _known(folder: Path, outputs: Path) -> Known | None:
    """None if it was removed while this looks."""
    try:
        started = (folder / SAVED).stat().st_mtime
    except FileNotFoundError:
        return None
    return Known(folder, outputs, summary(folder), started)
