"""The store: every stage's result lies in `<root>/<stage>/<fingerprint>` with a manifest, published in one rename.

A folder without a manifest does not exist. What is being made lies in `<fingerprint>.partial`, which outlives a kill: a
stage finds its own journal or checkpoints there and resumes from them. Checkpoints are not published, and are removed
only after everything else is, so that no kill costs a finished training.

A run links to every artifact that it will need before it makes or finds it (`Store.claim`). `artifacts clean` takes
the same lock, looks at the links of all runs, and moves out of the store what none needs. So whatever a run finds
after its claim stays.
"""

import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from pipeline.artifacts.files import link_atomically, sweep_temporaries, sync_folder
from pipeline.artifacts.locks import locked
from pipeline.artifacts.manifest import (
    CHECKPOINTS,
    MANIFEST,
    Recipe,
    check,
    read_manifest,
    recipe_of,
    write_manifest,
    write_stamp,
)
from pipeline.config import STAGES
from pipeline.errors import SprigError
from pipeline.ranks import rank

PARTIAL = ".partial"
LINKS = "artifacts"  # a run's folder of links
RUNNING = ".running"  # in a run's folder, marked by every process that works on it
_CLAIMS = "claims"  # the lock of all claims
_STAGES = {*STAGES, "cache", "stable"}  # that make artifacts
_NAME = re.compile(rf"[0-9a-f]{{16}}({re.escape(PARTIAL)})?")

log = logging.getLogger("sprig")


class Store:
    """The artifacts under one root folder; those that the copy of a `run` holds itself are found there."""

    def __init__(self, root: Path, run: Path | None = None):
        self.root, self._run = root, run
        self.copies = copies(run) if run else {}
        self._checked: set[Path] = set()
        self._unreadable: set[Path] = set()

    def path(self, recipe: Recipe) -> Path:
        """Where the artifact lies or will lie."""
        return self.root / recipe.stage / recipe.fingerprint

    def find(self, recipe: Recipe) -> Path | None:
        """The published artifact, compared with its manifest once per process; None if there is none.

        Raises:
            SprigError: it is another artifact, or a file was changed, cut, added or removed after publishing.
        """
        folder = self.copies.get(recipe.fingerprint) or self.path(recipe)
        if not (folder / MANIFEST).exists():
            self._checked.discard(folder)
            return None
        if folder not in self._checked:
            check(folder)
            self._checked.add(folder)
        return folder

    def recipes(self, stage: str) -> list[Recipe]:
        """Of all published artifacts of a stage. One whose manifest is torn or was edited is left out, with a warning:
        what no step needs stops none."""
        found = []
        for folder in published(self.root):
            if folder.parent.name != stage or folder in self._unreadable:
                continue
            try:
                found.append(recipe_of(folder))
            except SprigError as error:
                self._unreadable.add(folder)
                log.warning("%s", error)
        return found

    def begun(self, recipe: Recipe) -> Path | None:
        """The folder in which an artifact is being made, or was when its process ended; None if there is none."""
        partial = self._partial(self.path(recipe))
        return partial if partial.exists() else None

    def claim(self, run: Path, artifacts: dict[str, Path]) -> None:
        """Links `<run>/artifacts/<role>` to each folder, which need not be there yet. Cleaning then keeps it, and what
        it was made from. Links that a killed process left half made are removed."""
        self.root.mkdir(parents=True, exist_ok=True)
        sweep(self.root)
        with claims(self.root):
            for role, folder in artifacts.items():
                link_atomically(run / LINKS / role, folder)
            for folder in {(run / LINKS / role).parent for role in artifacts}:
                sweep_temporaries(folder, younger_too=True)

    def obtain(
        self,
        recipe: Recipe,
        make: Callable[[Path], None],
        agree: Callable[[bool], bool] | None = None,
        grows: dict[str, int] | None = None,
    ) -> Path:
        """The artifact, made by `make(folder)` if it is not there yet; jobs that want the same one wait on one lock.

        Under several ranks, rank 0 makes it while the others wait for the publication; with `agree`, which hands rank
        0's decision to every rank, all of them call `make` together. `grows` names the folders that gain records later,
        with the bytes of one record (see pipeline.artifacts.records).

        Raises:
            SprigError: it is not there, and the run is a copy.
        """
        folder = self.path(recipe)
        if rank() != 0:
            if agree is not None and agree(False):
                make(self._partial(folder))
            while (found := self.find(recipe)) is None:
                time.sleep(0.2)
            return found
        if found := self.find(recipe):
            if agree is not None:
                agree(False)
            return found
        if self.copies:
            raise SprigError(
                f"{self._run} is a copy of a run, which has no result of stage {recipe.stage} for this command, and "
                "nothing new is computed in a copy: give the command for the original run."
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder) as check_lock:
            needed = self.find(recipe) is None
            if agree is not None:
                agree(needed)
            if needed:
                partial = self._partial(folder)
                partial.mkdir(exist_ok=True)
                started = time.time()
                make(partial)
                check_lock()
                _publish(partial, folder, recipe, started, grows or {})
                self._checked.add(folder)
        return folder

    @staticmethod
    def _partial(folder: Path) -> Path:
        return folder.with_name(f"{folder.name}{PARTIAL}")


def claims(root: Path) -> AbstractContextManager[Callable[[], None]]:
    """The lock under which runs claim artifacts, and cleaning looks for what nobody claims."""
    return locked(root / _CLAIMS)


def copies(run: Path) -> dict[str, Path]:
    """The artifacts that the copy of a run has in place of the links to them, by fingerprint."""
    found = [file.parent for file in (run / LINKS).rglob(MANIFEST) if not file.parent.is_symlink()]
    return {read_manifest(folder)["fingerprint"]: folder for folder in found}


def sweep(root: Path) -> None:
    """Removes what processes killed while they noted the use of an artifact left in a store."""
    for stage in root.glob("[!.]*"):
        sweep_temporaries(stage)


def is_artifact(folder: Path) -> bool:
    """Whether it lies where an artifact does, or one that is being made."""
    return folder.parent.name in _STAGES and _NAME.fullmatch(folder.name) is not None


def is_store(folder: Path) -> bool:
    """Whether it has the name of a store, and an artifact."""
    return folder.name == LINKS and any(folders(folder))


def folders(root: Path) -> Iterator[Path]:
    """Every folder of the store: artifacts, those being made, and what is left of either. What else lies there, and
    what is only linked from there, is not the store's."""
    for stage in sorted(each for each in root.glob("[!.]*") if not each.is_symlink()):
        yield from sorted(
            each for each in stage.glob("[!.]*") if is_artifact(each) and each.is_dir() and not each.is_symlink()
        )


def published(root: Path) -> list[Path]:
    """The folders of all artifacts, damaged ones too."""
    return [each for each in folders(root) if each.suffix != PARTIAL and (each / MANIFEST).exists()]


def _publish(partial: Path, folder: Path, recipe: Recipe, started: float, grows: dict[str, int]) -> None:
    for left in partial.rglob(".*"):  # by a kill in the middle of write_atomically
        left.unlink()
    stamps = write_manifest(partial, recipe, started, grows)
    sync_folder(partial)
    if folder.exists():  # without a manifest it does not exist
        shutil.rmtree(folder)
    partial.rename(folder)
    sync_folder(folder.parent)
    write_stamp(folder, stamps)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
