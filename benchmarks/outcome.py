"""What a run left in its outputs, to compare with an undisturbed one."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.artifacts import MANIFEST, PARTIAL, is_held

TIMES = {"seconds", "started", "created", "outputs", "to", "run"}  # keys of JSON files that may differ from run to run
TIMED = {"speed.json", "seconds.txt"}  # files of measured times


def content(outputs: Path) -> dict[str, str]:
    """A checksum of each file that a finished run leaves, by its path, times left out."""
    found = {}
    for place in ("artifacts", "student", "smoke"):
        for file in sorted((outputs / place).rglob("*")):
            path = file.relative_to(outputs)
            if file.is_file() and file.name not in TIMED | {MANIFEST} and wanted(path):
                found[str(path)] = hashlib.sha256(timeless(file)).hexdigest()
    return found


def wanted(path: Path) -> bool:
    """Reports and logs have times in their text, and locks and stamps are not part of a result."""
    if path.parts[0] == "smoke":
        return path.name in ("summary.json", "metrics.jsonl")
    if "report" in path.parts or path.name.startswith("."):
        return False
    return path.suffix not in (".lock", ".verified", ".md")


def timeless(file: Path) -> bytes:
    if file.suffix != ".json":
        return file.read_bytes()

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(each) for key, each in value.items() if key not in TIMES | {"efficiency"}}
        return [without(each) for each in value] if isinstance(value, list) else value

    return json.dumps(without(json.loads(file.read_text()))).encode()


def compare(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    return [name for name in sorted(found | wanted) if found.get(name) != wanted.get(name)]


def leftovers(outputs: Path) -> list[Path]:
    """Half-made artifacts, temporary files, and locks that somebody still holds."""
    partial = [each for each in outputs.glob("artifacts/*/*") if each.name.endswith(PARTIAL)]
    temporary = [each for each in outputs.rglob("*") if each.name.endswith(".tmp") or each.name.startswith("tmp")]
    held = [each for each in outputs.glob("artifacts/*/*") if each.is_dir() and is_held(each)]
    return [*partial, *temporary, *held]
