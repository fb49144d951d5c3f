"""The end of a job's log."""

import re
from pathlib import Path

LINES = 20
END = 1 << 16  # bytes that are read from the end
# What submitit says of itself.
NOISE = re.compile(r"^submitit (INFO|WARNING)|^\s*$")


def last_lines(path: Path, count: int = LINES) -> list[str]:
    """Up to `count` last lines of a log, without those that say nothing."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - END))
        text = file.read().decode(errors="replace")
    return [line.rstrip() for line in text.splitlines() if not NOISE.match(line)][-count:]


def last_line(path: Path) -> str:
    return "".join(last_lines(path, 1)).strip()
