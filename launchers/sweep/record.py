"""sweep.json: what was asked for and what became of every job, over all starts of the sweep."""

import os
from pathlib import Path
from typing import Any

from launchers.sweep.jobs import Job, Overrides, named
from pipeline.artifacts import write_json
from pipeline.config import is_material
from pipeline.layout import COMPLETED
from pipeline.report.sweep.record import MISSING, NAME, SWEEP_SCHEMA, read_record

FAILED = "failed"


class Record:
    """The sweep's file. A job that has begun stands as interrupted until its end is known, so that after a kill the
    file tells the truth."""

    def __init__(self, folder: Path, name: str, command: list[str], declared: dict[str, list[str]], jobs: list[Job]):
        """Takes the jobs into what earlier starts of the same sweep left; theirs stay.

        Raises:
            SprigError: the file is of another schema.
        """
        earlier = read_record(folder) if (folder / NAME).exists() else None
        if earlier and all(job.completed() for job in jobs):
            command = earlier["command"]  # by which they were made
        self.folder, self.name, self.command, self.declared = folder, name, command, declared
        known_jobs: list[Any] = [*earlier["jobs"]] if earlier else []
        self.jobs: dict[str, dict[str, Any]] = {each["id"]: each for each in known_jobs}
        for job in jobs:
            known = self.jobs.setdefault(job.id, {"id": job.id, "overrides": {}, "status": MISSING})
            known["overrides"] = _material(job.overrides)
            known["same"] = [_material(overrides) for overrides in job.same]
            known["folder"] = os.path.relpath(job.folder, folder)
            for key in ("seconds", "error", "log", "submitted"):
                known.setdefault(key, None)
            if job.completed():
                known |= {"status": COMPLETED, "error": None}
            elif known["status"] == COMPLETED:  # its artifacts were removed since
                known["status"] = MISSING

    def set(self, job: Job, status: str, **fields: Any) -> None:
        self.jobs[job.id] |= {"status": status, **fields}
        self.save()

    def save(self) -> None:
        write_json(
            self.folder / NAME,
            {
                "schema": SWEEP_SCHEMA,
                "name": self.name,
                "axes": self.axes(),
                "command": self.command,
                "jobs": list(self.jobs.values()),
            },
        )

    def axes(self) -> dict[str, list[str]]:
        """Every key that was declared as one, or that is not the same in all jobs."""
        overrides = [each for job in self.jobs.values() for each in (job["overrides"], *job.get("same", ()))]
        axes = {key: list(dict.fromkeys(values)) for key, values in self.declared.items()}
        for key in dict.fromkeys(key for each in overrides for key in each):
            values = dict.fromkeys(each.get(key) for each in overrides)
            if key in axes or len(values) > 1:
                axes[key] = [value for value in values if value is not None]
        return axes


def _material(overrides: tuple[str, ...]) -> Overrides:
    """What can tell two jobs apart: with another micro-batch, for example, the same sweep resumes."""
    given = named(overrides).items()
    return {key: value for key, value in given if is_material(key) and not key.startswith("hydra")}
