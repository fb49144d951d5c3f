"""What the store holds, which runs need it, and what nobody needs any more."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.artifacts import MANIFEST, PARTIAL, read_manifest

STORE = "artifacts"  # the store's folder in outputs, and the folder of links in a run's


@dataclass(frozen=True)
class Entry:
    """A folder of the store: an artifact, or what is being made or was left by a kill."""

    folder: Path
    needed_by: tuple[str, ...]  # run folders, relative to outputs

    @property
    def partial(self) -> bool:
        return self.folder.suffix == PARTIAL

    @property
    def bytes(self) -> int:
        return sum(file.st_size for file in _files(self.folder))

    def idle_days(self) -> float:
        """Since anything in it was written."""
        newest = max(file.st_mtime for file in [self.folder.lstat(), *_files(self.folder)])
        return (time.time() - newest) / 86_400

    def remove(self) -> bool:
        """False where a process is making it."""
        lock = FileLock(self.folder.with_suffix(".lock"))
        try:
            with lock.acquire(timeout=0):
                (self.folder / MANIFEST).unlink(missing_ok=True)  # half removed, it does not exist
                shutil.rmtree(self.folder)
        except Timeout:
            return False
        return True


def _files(folder: Path) -> Iterator[os.stat_result]:
    """Those that stay: a training removes its old checkpoints while this looks."""
    for below, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                yield os.lstat(os.path.join(below, name))


def published(outputs: Path) -> list[Path]:
    """The folders of all artifacts, damaged ones too."""
    found = sorted(manifest.parent for manifest in (outputs / STORE).glob(f"*/*/{MANIFEST}"))
    return [folder for folder in found if folder.suffix != PARTIAL]


def entries(outputs: Path) -> list[Entry]:
    """Everything in the store of `outputs`, by stage. An artifact is needed by the runs that link to it, and by those
    that need something which was made from it.

    Raises:
        SprigError: a manifest is torn, so what it was made from is not known.
    """
    needed: dict[str, set[str]] = {}
    for run, fingerprint in _links(outputs):
        _need(outputs / STORE, fingerprint, run, needed)
    folders = sorted(folder for folder in (outputs / STORE).glob("*/*") if folder.is_dir())
    return [Entry(folder, tuple(sorted(needed.get(folder.name, ())))) for folder in folders]


def _links(outputs: Path) -> Iterator[tuple[str, str]]:
    """Run folder and the fingerprint of each artifact that it links to."""
    for below, folders, _ in os.walk(outputs):
        run = Path(below)
        folders[:] = [name for name in folders if run / name != outputs / STORE]
        if not (run / ".hydra/config.yaml").exists():
            continue
        for link in (run / STORE).glob("*"):
            if link.is_symlink():
                yield str(run.relative_to(outputs)), link.readlink().name


def _need(store: Path, fingerprint: str, run: str, needed: dict[str, set[str]]) -> None:
    if run in needed.setdefault(fingerprint, set()):
        return
    needed[fingerprint].add(run)
    for manifest in store.glob(f"*/{fingerprint}/{MANIFEST}"):
        for below in read_manifest(manifest.parent)["inputs"].values():
            _need(store, below, run, needed)
