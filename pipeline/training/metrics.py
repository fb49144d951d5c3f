"""metrics.jsonl: one line a step, the same bytes whether a training was interrupted or not."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from pipeline.ranks import rank

METRICS = "metrics.jsonl"


class Metrics:
    """Writes on rank 0 and does nothing on the others. What depends on the clock goes to `log` alone."""

    def __init__(self, folder: Path, keep_bytes: int, log: Callable[[dict], None]):
        """Resumes after the first `keep_bytes` bytes of the file: later steps are trained, and written, again."""
        self.log = log
        if rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            self.file = (folder / METRICS).open("ab")
            self.file.truncate(keep_bytes)

    def write(self, line: dict, **timing: float | None) -> None:
        if rank() == 0:
            self.file.write(json.dumps(line).encode() + b"\n")
            self.file.flush()
            self.log(line | timing)

    def sync(self) -> int:
        """Makes the lines durable; the file's size in bytes."""
        if rank() != 0:
            return 0
        os.fsync(self.file.fileno())
        return self.file.tell()
