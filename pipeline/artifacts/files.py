"""Files that a reader never sees half written, and hashes of values and files."""

import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

_TEMPORARY = re.compile(r"\..+\.\d+")  # as write_atomically and link_atomically name them
_LEFT = 60.0  # seconds after which a temporary file is taken for the leftover of a killed process


def digest(value: Any) -> str:
    """A hash of a JSON-ready value: 16 hexadecimal digits, the same in every process."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file in one step: a reader sees the old text or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def link_atomically(link: Path, target: Path) -> None:
    """Points a symbolic link at `target`, relative to where the link really lies, in one step."""
    link.parent.mkdir(parents=True, exist_ok=True)
    relative = os.path.relpath(target.absolute(), link.parent.resolve())
    if link.is_symlink() and os.readlink(link) == relative:
        return
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)  # of a killed process with the same id
    temporary.symlink_to(relative)
    temporary.replace(link)


def sweep_temporaries(folder: Path, younger_too: bool = False) -> None:
    """Removes what processes killed inside write_atomically or link_atomically left directly in `folder`.

    `younger_too`: nobody else writes there now, so whatever is there was left.
    """
    for path in folder.glob(".*"):
        old = younger_too or time.time() - path.lstat().st_mtime > _LEFT
        if old and _TEMPORARY.fullmatch(path.name) and (path.is_symlink() or path.is_file()):
            path.unlink(missing_ok=True)
