"""The table of jobs: live on a terminal, a line for each change elsewhere."""

import logging
import time
from collections import Counter

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from launchers.sweep.jobs import Job
from launchers.sweep.logs import last_line
from launchers.sweep.record import FAILED, Record
from pipeline.layout import COMPLETED, near
from pipeline.printable import printable
from pipeline.progress import clock, counted
from pipeline.report.sweep.record import MISSING
from pipeline.terminal import cell

RUNNING, FOUND = "running", "found"
STYLES = {COMPLETED: "green", FOUND: "green", FAILED: "red", RUNNING: "yellow"}

log = logging.getLogger("sprig")


class Board:
    """Shows what the jobs of one start are doing."""

    def __init__(self, jobs: list[Job], record: Record, axes: dict[str, list[str]]):
        self.jobs, self.record = jobs, record
        self.names = {job.id: job.label(axes) for job in jobs}
        self.states = {job.id: FOUND if job.completed() else MISSING for job in jobs}
        self.began: dict[str, float] = {}
        console = Console(stderr=True)
        # No refreshing thread: submitting forks.
        self.live = (
            Live(get_renderable=self._table, console=console, auto_refresh=False) if console.is_terminal else None
        )

    def __enter__(self) -> "Board":
        self._say(f"{near(self.record.folder)}: {counted(len(self.jobs), 'job')}, {self._counts()}")
        if self.live:
            self.live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def started(self, job: Job) -> None:
        self.states[job.id], self.began[job.id] = RUNNING, time.monotonic()
        self._say(f"{job.id} {self.names[job.id]} started; its log is {self.record.jobs[job.id]['log']}")

    def ended(self, job: Job, state: str) -> float:
        """Seconds that the job took."""
        self.states[job.id] = state
        seconds = time.monotonic() - self.began.pop(job.id)
        self._say(f"{job.id} {self.names[job.id]} {state} after {clock(seconds)}; {self._counts()}")
        return seconds

    def refresh(self) -> None:
        if self.live:
            self.live.refresh()

    def _say(self, line: str) -> None:
        if self.live is None:
            log.info("%s", line)

    def _counts(self) -> str:
        words = {FOUND: "done before", MISSING: "to do"}
        return ", ".join(f"{count} {words.get(state, state)}" for state, count in Counter(self.states.values()).items())

    def _table(self) -> Table:
        table = Table("job", "overrides", "status", "time", "last line of its log", title=cell(str(self.record.folder)))
        # What tells jobs apart is whole; the lines of their logs are cut short.
        table.columns[1].min_width = min(
            60, max(len(pair) for name in self.names.values() for pair in [*name.split(), ""])
        )
        for job in self.jobs:
            state, known = self.states[job.id], self.record.jobs[job.id]
            seconds = time.monotonic() - self.began[job.id] if job.id in self.began else known["seconds"]
            shown = last_line(self.record.folder / known["log"]) if state == RUNNING and known["log"] else ""
            if state == FAILED:
                shown = (known["error"] or "").splitlines()[-1]
            table.add_row(
                job.id,
                cell(self.names[job.id].replace(" ", "\n")),
                Text(state, STYLES.get(state, "dim")),
                "" if seconds is None else clock(seconds),
                Text(printable(shown), overflow="ellipsis", no_wrap=True),
            )
        return table
