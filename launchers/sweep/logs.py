"""The end of a job's log."""

import re
from pathlib import Path

LINES = 20
END = 1 << 16  # bytes that are read from the end
# What submitit and torchrun say of themselves.
NOISE = re.compile(r"^submitit (INFO|WARNING)|^W\d{4} .*torch/distributed/elastic|^\s*$")
# Where a rank has failed, and torchrun adds forty lines without information.
RANK_FAILED = re.compile(r"^E\d{4} .*torch/distributed/elastic.* failed \(exitcode: (-?)")


def last_lines(path: Path, count: int = LINES) -> list[str]:
    """Up to `count` last lines of a log, without those that say nothing."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - END))
        text = file.read().decode(errors="replace")
    lines = [line.rstrip() for line in text.splitlines() if not NOISE.match(line)]
    for place, line in enumerate(lines):
        if failed := RANK_FAILED.match(line):
            lines = lines[: place + bool(failed[1])]  # one that was killed logged nothing itself
            break
    return lines[-count:]


def last_line(path: Path) -> str:
    return "".join(last_lines(path, 1)).strip()
