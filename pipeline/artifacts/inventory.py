"""What the store holds, which runs need it, and what nobody needs any more."""

import shutil
import time
from collections.abc import Iterator
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
        return sum(path.lstat().st_size for path in _files(self.folder))

    def idle_days(self) -> float:
        """Since anything in it was written."""
        newest = max(path.lstat().st_mtime for path in [self.folder, *_files(self.folder)])
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


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def entries(outputs: Path) -> list[Entry]:
    """Everything in the store of `outputs`, by stage. An artifact is needed by the runs that link to it, and by those
    that need something which was made from it."""
    needed: dict[str, set[str]] = {}
    for run, fingerprint in _links(outputs):
        _need(outputs / STORE, fingerprint, run, needed)
    folders = sorted(folder for folder in (outputs / STORE).glob("*/*") if folder.is_dir())
    return [Entry(folder, tuple(sorted(needed.get(folder.name, ())))) for folder in folders]


def _links(outputs: Path) -> Iterator[tuple[str, str]]:
    """Run folder and the fingerprint of each artifact that it links to."""
    for configuration in outputs.glob("**/.hydra/config.yaml"):
        run = configuration.parents[1]
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
