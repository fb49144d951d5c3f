"""A sweep's own file, which the launcher keeps, and whether the sweep is running."""

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import NotRequired, TypedDict

from filelock import FileLock, Timeout

from pipeline import outside
from pipeline.artifacts import write_json
from pipeline.config.paths import expanded
from pipeline.errors import SprigError
from pipeline.layout import COMPLETED, SWEEPS
from pipeline.report.schema import RUNNING

NAME, SWEEP_SCHEMA = "sweep.json", 1
LOCK = ".lock"  # in a sweep's folder, held by the process that runs it
INTERRUPTED, MISSING = "interrupted", "missing"  # a job that has begun and not ended; one that has not begun


class JobRecord(TypedDict):
    """A job in sweep.json."""

    id: str
    overrides: dict[str, str]
    same: NotRequired[list[dict[str, str]]]  # further combinations of the axes' values that are this very run
    status: str
    folder: str  # relative to the sweep's
    seconds: float | None
    error: str | None
    log: NotRequired[str | None]
    submitted: NotRequired[str | None]


class SweepRecord(TypedDict):
    """sweep.json. A comparison of chosen runs has the cells of its jobs alone, not every combination of values."""

    comparison: NotRequired[bool]
    schema: int
    name: str
    axes: dict[str, list[str]]
    command: list[str]
    jobs: list[JobRecord]


def is_underway(folder: Path) -> bool:
    """Whether a process runs the sweep of this folder."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def sweep_folder(name: str, outputs: Path) -> Path:
    """A sweep by its folder, or by its name in `outputs`.

    Raises:
        SprigError: there is no such sweep.
    """
    places = list(dict.fromkeys((expanded(name), outputs / SWEEPS / name, outputs / name)))
    for folder in places:
        if (folder / NAME).exists():
            return folder
    raise SprigError(
        f"sweep={name} is not a sweep's folder: give that, or its name in {outputs / SWEEPS}; there is no {NAME} in "
        f"{' or '.join(str(each.absolute()) for each in places)}."
    )


def read_record(folder: Path) -> SweepRecord:
    """A sweep's own file, which the launcher keeps.

    Raises:
        SprigError: it is damaged, or of another schema.
    """
    path = folder / NAME
    try:
        found: SweepRecord = outside.read_json(path)
        schema = found["schema"]
        if schema == SWEEP_SCHEMA:
            _check(found)
    except ValueError as error:
        raise SprigError(f"{path} {error}: {remade(folder)}") from None
    except (LookupError, TypeError, AttributeError) as error:
        raise SprigError(f"{path} cannot be read ({type(error).__name__}: {error}): {remade(folder)}") from None
    if schema != SWEEP_SCHEMA:
        raise SprigError(f"{path} is of schema {schema}, this is Sprig's {SWEEP_SCHEMA}: {remade(folder)}")
    return found


def forget(folder: Path, runs: Collection[Path]) -> None:
    """Takes the jobs of these run folders out of a sweep's record, unless that is damaged or a process runs the
    sweep, which would write them again."""
    with suppress(SprigError, Timeout), FileLock(folder / LOCK, timeout=0):
        found = read_record(folder)
        left = [job for job in found["jobs"] if (folder / job["folder"]).resolve() not in runs]
        if len(left) < len(found["jobs"]):
            write_json(folder / NAME, {**found, "jobs": left})


def _check(found: SweepRecord) -> None:
    """Raises LookupError, TypeError or AttributeError where a part is missing or another kind of value."""
    for values in found["axes"].values():
        "".join(values)
    "".join([found["name"], *found["command"]])
    for job in found["jobs"]:
        "".join([job["id"], job["status"], job["folder"], *job["overrides"].values()])


def remade(folder: Path) -> str:
    return f"move {folder} away and give the sweep's command again; finished results are reused."


def state(job: JobRecord, underway: bool) -> str:
    """A job that was completed, but has no report any more, is missing. One that has begun stands as interrupted in
    the record, so that after a kill the record tells the truth."""
    if job["status"] == INTERRUPTED and underway:
        return RUNNING
    return MISSING if job["status"] == COMPLETED else job["status"]
