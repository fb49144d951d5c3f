"""The store: every stage's result lies in `<root>/<stage>/<fingerprint>` with a manifest, published in one rename.

A folder without a manifest does not exist. What is being made lies in `<fingerprint>.partial`, which outlives a kill: a
stage finds its own journal or checkpoints there and goes on from them. Checkpoints are no part of what is published,
and go only after it is, so that no kill costs a finished training.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.errors import SprigError
from pipeline.ranks import rank

LIBRARIES = ("sprig-lm", "torch", "litgpt", "deepspeed", "datasets", "tokenizers", "numpy")
MANIFEST, CHECKPOINTS, PARTIAL = "manifest.json", "checkpoints", ".partial"

log = logging.getLogger("sprig")


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


class Store:
    """The artifacts under one root folder."""

    def __init__(self, root: Path):
        self.root = root
        self._verified: set[Path] = set()

    def path(self, recipe: Recipe) -> Path:
        """Where the artifact lies or will lie."""
        return self.root / recipe.stage / recipe.fingerprint

    def find(self, recipe: Recipe) -> Path | None:
        """The published artifact, its files checked against the manifest once per process; None where there is none.

        Raises:
            SprigError: a file was changed, cut or removed after publishing.
        """
        folder = self.path(recipe)
        if folder in self._verified:
            return folder
        if not (folder / MANIFEST).exists():
            return None
        verify(folder)
        self._verified.add(folder)
        return folder

    def recipes(self, stage: str) -> list[Recipe]:
        """Of all published artifacts of a stage.

        Raises:
            SprigError: a manifest is torn.
        """
        manifests = map(read_manifest, (path.parent for path in sorted((self.root / stage).glob(f"*/{MANIFEST}"))))
        return [Recipe(each["stage"], each["version"], each["config"], each["inputs"]) for each in manifests]

    def begun(self, recipe: Recipe) -> Path | None:
        """The folder in which an artifact is being made, or was when its process ended; None where there is none."""
        partial = self._partial(self.path(recipe))
        return partial if partial.exists() else None

    def obtain(
        self,
        recipe: Recipe,
        make: Callable[[Path], None],
        agree: Callable[[bool], bool] | None = None,
    ) -> Path:
        """The artifact, made by `make(folder)` if it is not there yet; jobs that want the same one wait on one lock.

        Under several ranks, rank 0 makes it while the others wait for the publication; with `agree`, which hands rank
        0's word to every rank, all of them call `make` together.
        """
        folder = self.path(recipe)
        if rank() != 0:
            if agree is not None and agree(False):
                make(self._partial(folder))
            while not (folder / MANIFEST).exists():
                time.sleep(0.2)
            return self.find(recipe)
        if self.find(recipe):
            if agree is not None:
                agree(False)
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            needed = self.find(recipe) is None
            if agree is not None:
                agree(needed)
            if needed:
                partial = self._partial(folder)
                partial.mkdir(exist_ok=True)
                started = time.time()
                make(partial)
                _publish(partial, folder, recipe, started)
                self._verified.add(folder)
        return folder

    @staticmethod
    def _partial(folder: Path) -> Path:
        return folder.with_name(f"{folder.name}{PARTIAL}")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time; the others wait, and say so."""
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("Another run is making %s; waiting for it.", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _versions() -> dict[str, str]:
    versions = {}
    for library in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    return versions


def _publish(partial: Path, folder: Path, recipe: Recipe, started: float) -> None:
    for left in partial.rglob(".*"):  # by a kill in the middle of write_atomically
        left.unlink()
    files = {}
    for path in sorted(path for path in partial.rglob("*") if path.is_file()):
        if path.name == MANIFEST or path.is_relative_to(partial / CHECKPOINTS):
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[str(path.relative_to(partial))] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
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
    }
    write_json(partial / MANIFEST, manifest)
    sync_folder(partial)
    if folder.exists():  # without a manifest it does not exist
        shutil.rmtree(folder)
    partial.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _damaged(folder: Path, what: str) -> SprigError:
    return SprigError(
        f"Artifact {folder} was changed after it was published: {what}. It is not used; remove that folder and run the "
        "same command again to make it anew."
    )


def read_manifest(folder: Path) -> dict:
    """
    Raises:
        SprigError: it is torn.
    """
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(folder, f"{MANIFEST} cannot be read ({error})") from None


def verify(folder: Path) -> None:
    """Checks every file of a published artifact against its manifest.

    Raises:
        SprigError: names the file, what it should be and what it is.
    """
    manifest = read_manifest(folder)
    try:
        files = {name: (wanted["bytes"], wanted["sha256"]) for name, wanted in manifest["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, f"{MANIFEST} cannot be read ({error})") from None
    for name, (size, sha256) in files.items():
        path = folder / name
        if not path.exists():
            raise _damaged(folder, f"{name} is missing")
        if (found := path.stat().st_size) != size:
            raise _damaged(folder, f"{name} has {found:,} bytes, not {size:,}")
        if (found := file_sha256(path)) != sha256:
            raise _damaged(folder, f"{name} has sha256 {found[:12]}, not {sha256[:12]}")
