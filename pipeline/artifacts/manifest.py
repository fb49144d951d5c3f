"""What an artifact says of itself, and whether its folder and files agree with it."""

import json
import logging
import os
import re
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import Timeout

from pipeline.artifacts.files import digest, file_sha256, write_json
from pipeline.artifacts.locks import locked
from pipeline.artifacts.records import Records
from pipeline.errors import SprigError
from pipeline.ranks import rank

LIBRARIES = ("sprig-lm", "torch", "litgpt", "deepspeed", "datasets", "tokenizers", "numpy")
MANIFEST, CHECKPOINTS, STAMP = "manifest.json", "checkpoints", ".verified"
# A file whose times are younger than this when it is read could still change within one tick of the clock.
_SETTLED_NS = 2 * 10**9
_FINGERPRINT = re.compile("[0-9a-f]{16}")

log = logging.getLogger("sprig")


@dataclass(frozen=True)
class Recipe:
    """All that determines an artifact: stage, its version (raised by hand when its meaning changes), the stage's own
    resolved configuration, and the fingerprints of its inputs by name."""

    stage: str
    version: int
    config: dict
    inputs: dict[str, str] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        return digest({"stage": self.stage, "version": self.version, "config": self.config, "inputs": self.inputs})


def write_manifest(folder: Path, recipe: Recipe, started: float, grows: dict[str, int]) -> dict[str, list]:
    """Names the artifact and every file in `folder`, durably; returns their stamps (see `check`).

    Args:
        started: when the work began, in seconds since the epoch.
        grows: folders that gain records after the artifact is published, with the bytes of one record.
    """
    files: dict[str, dict[str, int | str]] = {}
    stamps: dict[str, list] = {}
    for name, path in contents(folder).items():
        if _top(name) in grows:
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
        now, found = time.time_ns(), path.stat()
        sha256 = file_sha256(path)
        files[name] = {"bytes": found.st_size, "sha256": sha256}
        stamps |= _stamp(name, found, sha256, now)
    manifest = {
        "stage": recipe.stage,
        "version": recipe.version,
        "fingerprint": recipe.fingerprint,
        "config": recipe.config,
        "inputs": recipe.inputs,
        "libraries": _versions(),
        "started": started,
        "seconds": time.time() - started,
        "files": files,
        "grows": grows,
    }
    write_json(folder / MANIFEST, manifest)
    return stamps


@cache
def _versions() -> dict[str, str]:
    versions = {}
    for library in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    return versions


def contents(folder: Path) -> dict[str, Path]:
    """The files of an artifact by name: without manifest, checkpoints, and hidden files, which are nobody's result."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() or path.is_symlink())
    named = {path.relative_to(folder): path for path in paths}
    return {
        name.as_posix(): path
        for name, path in named.items()
        if name != Path(MANIFEST) and name.parts[0] != CHECKPOINTS and not any(p.startswith(".") for p in name.parts)
    }


def read_manifest(folder: Path) -> dict:
    """
    Raises:
        SprigError: it is torn, lacks a part, or was edited: its fingerprint is not that of what it names.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        recipe = _recipe(manifest)
        _files(manifest), _grows(manifest)
        named = manifest["fingerprint"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(folder, f"{MANIFEST} cannot be read ({type(error).__name__}: {error})") from None
    if recipe.fingerprint != named:
        raise damaged(folder, f"{MANIFEST} names fingerprint {named}, but describes {recipe.fingerprint}")
    return manifest


def recipe_of(folder: Path) -> Recipe:
    """Raises SprigError as `read_manifest`."""
    return _recipe(read_manifest(folder))


def _recipe(manifest: dict) -> Recipe:
    return Recipe(manifest["stage"], manifest["version"], manifest["config"], dict(manifest["inputs"].items()))


def _files(manifest: dict) -> dict[str, tuple[int, str]]:
    return {name: (int(wanted["bytes"]), str(wanted["sha256"])) for name, wanted in manifest["files"].items()}


def _grows(manifest: dict) -> dict[str, int]:
    return {name: int(size) for name, size in manifest.get("grows", {}).items()}


def check(folder: Path, everything: bool = False) -> None:
    """Compares a published artifact with its manifest: stage, fingerprint, names, sizes and checksums.

    Rank 0 reads a file only if it changed since it was last read, going by the stamp next to the folder (size, times
    and inode of every file whose checksum was right); the other ranks compare names and sizes alone, since rank 0 reads
    the same artifacts. `everything` reads all files, and each record of those that grow.

    Raises:
        SprigError: names what differs: what it should be and what it is.
    """
    manifest = read_manifest(folder)
    place = f"{folder.parent.name}/{folder.name}"
    own = f"{manifest['stage']}/{manifest['fingerprint']}"
    if own != place and _FINGERPRINT.fullmatch(folder.name):  # in the copy of a run, it has the name of its role
        raise damaged(folder, f"{MANIFEST} is that of {own}")
    found, files, grows = contents(folder), _files(manifest), _grows(manifest)
    for name in found.keys() - files.keys():
        if _top(name) not in grows:
            raise damaged(folder, f"{name} is not in its {MANIFEST}")
    trusted = {} if everything else _read_stamp(folder)
    stamps: dict[str, list] = {}
    for name, (size, sha256) in files.items():
        if name not in found or not found[name].exists():
            raise damaged(folder, f"{name} is missing")
        now, stat = time.time_ns(), found[name].stat()
        if stat.st_size != size:
            raise damaged(folder, f"{name} has {stat.st_size:,} bytes, not {size:,}")
        stamp = _stamp(name, stat, sha256, now)
        if everything or (rank() == 0 and (not stamp or trusted.get(name) != stamp[name])):
            actual = file_sha256(found[name])
            if actual != sha256:
                raise damaged(folder, f"{name} has sha256 {actual[:12]}, not {sha256[:12]}")
        stamps |= stamp
    if everything:
        for name, size in grows.items():
            _check_records(folder, name, size, manifest["fingerprint"])
    if rank() == 0:
        write_stamp(folder, stamps, trusted)


def _top(name: str) -> str:
    """The folder, directly in the artifact, of one of its files."""
    return name.partition("/")[0]


def _check_records(folder: Path, name: str, size: int, key: str) -> None:
    if not (folder / name).exists():
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder, wait=False))
        except Timeout:
            log.warning("%s is being filled: its records are not checked.", folder)
            return
        except OSError:  # not writable, so nothing is filled there
            pass
        records = stack.enter_context(Records(folder / name, size, key))
        bad, there = records.damaged()
    if bad:
        raise SprigError(
            f"Artifact {folder} has {len(bad):,} damaged records among the {there:,} of {name}, record {bad[0]} first: "
            "a run with distill.cache.mode=fill that needs them computes them again."
        )


def _stamp(name: str, stat: os.stat_result, sha256: str, now: int) -> dict[str, list]:
    """What tells later that the file is still the one whose checksum was right; nothing for one just written."""
    if max(stat.st_mtime_ns, stat.st_ctime_ns) > now - _SETTLED_NS:
        return {}
    return {name: [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, sha256]}


def _stamp_file(folder: Path) -> Path:
    return folder.with_name(folder.name + STAMP)


def _read_stamp(folder: Path) -> dict[str, list]:
    try:
        found = json.loads(_stamp_file(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_stamp(folder: Path, stamps: dict[str, list], before: dict[str, list] | None = None) -> None:
    """Notes what was read, and by the file's own time that the artifact was used now. A store that is not writable has
    no stamps: there, every process reads the files once."""
    file = _stamp_file(folder)
    with suppress(OSError):
        if before == stamps and file.exists():
            os.utime(file)
        else:
            write_json(file, stamps)


def last_used(folder: Path) -> float:
    """When an artifact was last made or found, in seconds since the epoch."""
    times = []
    for path in (folder, folder / MANIFEST, _stamp_file(folder)):
        with suppress(OSError):
            times.append(path.lstat().st_mtime)
    return max(times, default=0.0)


def damaged(folder: Path, what: Any) -> SprigError:
    return SprigError(
        f"Artifact {folder} was changed after it was published: {what}. It is not used; remove that folder and run the "
        "same command again to recreate it."
    )
