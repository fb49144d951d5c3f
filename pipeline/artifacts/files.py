"""Files that a reader never sees half written, and hashes of values and files."""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

_TEMPORARY = re.compile(r"\..+\.\d+")  # as `replacing` and link_atomically name them
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


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once it is written: a reader sees the old content or the new, never a part.

    Raises:
        OSError: with the name of `path`; what was written is removed, as it would keep a full disk full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_atomically(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def copy_atomically(source: Path, path: Path) -> None:
    with source.open("rb") as content, replacing(path) as file:
        shutil.copyfileobj(content, file)


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def json_lines(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The objects of a file that grows line by line, and where each ends in bytes: up to the first line that a kill cut
    short or that is damaged. Nothing where there is no file."""
    found: list[dict[str, Any]] = []
    ends: list[int] = []
    end = 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        end += len(line)
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(value, dict) or not line.endswith(b"\n"):
            break
        found.append(value)
        ends.append(end)
    return found, ends


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
    """Removes what processes killed inside `replacing` or link_atomically left directly in `folder`.

    `younger_too`: nobody else writes there now, so whatever is there was left.
    """
    for path in folder.glob(".*"):
        with suppress(OSError):  # one that is being written vanishes meanwhile, and another user's may not be removed
            old = younger_too or time.time() - path.lstat().st_mtime > _LEFT
            if old and _TEMPORARY.fullmatch(path.name) and (path.is_symlink() or path.is_file()):
                path.unlink()
