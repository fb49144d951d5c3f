"""What the store holds, which runs need it, and the removal of what none needs."""

import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from pipeline.artifacts.locks import locked
from pipeline.artifacts.manifest import STAMP, last_used, read_manifest
from pipeline.artifacts.runs import is_run
from pipeline.artifacts.store import LINKS, PARTIAL, claims, folders, sweep
from pipeline.errors import SprigError
from pipeline.layout import LATEST

STORE = "artifacts"  # the store's folder in outputs
_REMOVED = ".removed"  # begins the name of what was moved out of the store and is being deleted

log = logging.getLogger("sprig")


def in_words(size: int) -> str:
    """Bytes on a disk, for example 163.4 MB."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


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
        """Since it was made or used, or anything in it was written; to then, if the clock was set back since."""
        newest = max([last_used(self.folder), *(file.st_mtime for file in _files(self.folder))])
        return abs(time.time() - newest) / 86_400

    def useless(self, days: float) -> bool:
        """Whether no run needs it, and nothing made or used it in the last `days` days."""
        return not self.needed_by and self.idle_days() >= days


def _files(folder: Path) -> Iterator[os.stat_result]:
    """Those that stay: a training removes its old checkpoints while this looks."""
    for below, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                yield os.lstat(os.path.join(below, name))


def bytes_of_copies(run: Path) -> int:
    """Of the results that the copy of a run holds in place of links to artifacts."""
    return sum(each.st_size for each in _files(run / LINKS) if not stat.S_ISLNK(each.st_mode))


def entries(outputs: Path, runs: Iterable[Path] | None = None) -> list[Entry]:
    """Everything in the store of `outputs`, by stage. An artifact is needed by the runs that link to it, and by those
    that need something which was made from it. `runs` are the run folders if they are known.

    Raises:
        SprigError: a manifest is torn, or a link leads nowhere, so what is needed is not known.
        OSError: a folder of `outputs` cannot be read, so what its runs need is not known. One that another process
            removes meanwhile counts as removed.
    """
    store = outputs / STORE
    needed: dict[str, set[str]] = {}
    for run, place in _links(outputs, run_folders(outputs) if runs is None else runs):
        _need(store, place, run, needed)
    found = list(folders(store))
    return [Entry(each, tuple(sorted(needed.get(_place(each), ())))) for each in found]


def _place(folder: Path) -> str:
    """Stage and fingerprint."""
    return f"{folder.parent.name}/{folder.name.removesuffix(PARTIAL)}"


def _links(outputs: Path, runs: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Run folder, and stage and fingerprint of each artifact that it links to."""
    for run in runs:
        for below, names, files in os.walk(run / LINKS, onerror=_fail):
            for link in (Path(below, name) for name in (*names, *files)):
                if link.is_symlink():
                    with suppress(FileNotFoundError):
                        yield str(run.relative_to(outputs)), _place(link.readlink())


def run_folders(outputs: Path) -> Iterator[Path]:
    """Every run folder below `outputs`, which itself is none, whatever lies in it.

    Raises:
        SprigError: as `entries`.
    """
    yield from _all_below(outputs, _refuse_dangling)


def visible_runs(outputs: Path) -> list[Path]:
    """As `run_folders`, for a list that removes nothing: links that lead nowhere are skipped with a warning."""
    dangling: list[Path] = []
    found = list(_all_below(outputs, dangling.append))
    if dangling:
        links = ", ".join(map(str, dangling))
        log.warning(
            "%s: skipped, as what is linked there does not exist. Runs behind it are neither listed nor counted among "
            "those that need an artifact: mount that disk, or remove the link.",
            links,
        )
    return found


def _all_below(outputs: Path, dangling: Callable[[Path], None]) -> Iterator[Path]:
    yield from _below(outputs, {_identity(outputs), _identity(outputs / STORE)}, dangling)


def _runs(folder: Path, seen: set[tuple[int, int]], dangling: Callable[[Path], None]) -> Iterator[Path]:
    try:
        identity = _identity(folder)
    except FileNotFoundError:  # removed while this looks
        return
    if identity in seen:
        return
    seen.add(identity)
    if is_run(folder):
        yield folder
    else:
        yield from _below(folder, seen, dangling)


def _below(folder: Path, seen: set[tuple[int, int]], dangling: Callable[[Path], None]) -> Iterator[Path]:
    """The run folders in `folder` and deeper, through symbolic links too; each once. `dangling` is called with each
    link that leads nowhere, to a disk that is not mounted, say."""
    for each in _inside(folder):
        if each.name == LATEST or each.name.startswith("."):
            continue
        if each.is_symlink() and not Path(each.path).exists():
            dangling(Path(each.path))
        elif each.is_dir():
            yield from _runs(folder / each.name, seen, dangling)


def _inside(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name; nothing if it was removed while this looks."""
    with suppress(FileNotFoundError):
        return sorted(os.scandir(folder), key=lambda each: each.name)
    return []


def _refuse_dangling(link: Path) -> None:
    with suppress(FileNotFoundError):  # the link itself was removed while this looks
        raise SprigError(
            f"{link} is a link to {link.readlink()}, which does not exist, so Sprig cannot tell what its runs need: "
            "mount that disk, or remove the link."
        )


def _identity(folder: Path) -> tuple[int, int]:
    return folder.stat().st_dev, folder.stat().st_ino


def _fail(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # a run removed while this looks
        raise error


def _need(store: Path, place: str, run: str, needed: dict[str, set[str]]) -> None:
    if run in needed.setdefault(place, set()):
        return
    needed[place].add(run)
    try:
        inputs = read_manifest(store / place)["inputs"]
    except (FileNotFoundError, NotADirectoryError):  # not made yet, or removed while this looks
        return
    for fingerprint in inputs.values():
        for below in store.glob(f"*/{fingerprint}"):
            _need(store, _place(below), run, needed)


def refuse_linked(outputs: Path) -> None:
    """Raises SprigError where the store of `outputs` lies elsewhere: which runs there need it cannot be seen."""
    if (store := outputs / STORE).is_symlink():
        place = store.resolve()
        raise SprigError(
            f"{store} is a link to {place}, so runs in {place.parent} may need what it holds: link {outputs} from "
            f"there, so that the runs of both are seen, and clean {place.parent}."
        )


def remove(outputs: Path, wanted: Iterable[Path], days: float) -> tuple[list[Path], dict[Path, str]]:
    """Removes those of the folders that are still useless: a run may have claimed one since they were listed.

    Returns:
        What was removed, and why each of the others was kept.

    Raises:
        SprigError, OSError: as `entries` and `refuse_linked`; nothing was removed.
    """
    refuse_linked(outputs)
    with claims(outputs / STORE):
        removed, kept = move_out(outputs, wanted, days)
    delete_moved(outputs)
    return removed, kept


def move_out(outputs: Path, wanted: Iterable[Path], days: float) -> tuple[list[Path], dict[Path, str]]:
    """As `remove`, for a caller that holds the lock of all claims; it calls `delete_moved` after releasing it."""
    store, removed, kept = outputs / STORE, [], {}
    now = {entry.folder: entry for entry in entries(outputs)}
    for folder in wanted:
        if folder not in now:
            continue  # another process removed or published it
        if not now[folder].useless(days):
            kept[folder] = f"{now[folder].needed_by[0]} needs it now" if now[folder].needed_by else "was just used"
        elif _move_out(store, folder):
            removed.append(folder)
        else:
            kept[folder] = "is being made"
    return removed, kept


def delete_moved(outputs: Path) -> None:
    """Deletes what was moved out, also by a process that was killed before it could, and what else kills left."""
    sweep(outputs / STORE)
    for each in (outputs / STORE).glob(f"{_REMOVED}*"):
        shutil.rmtree(each, ignore_errors=True)


def _move_out(store: Path, folder: Path) -> bool:
    """Takes a folder out of the store in one rename; False if a process is making it."""
    try:
        with locked(folder.with_name(folder.name.removesuffix(PARTIAL)), wait=False):
            folder.rename(store / f"{_REMOVED}-{time.time_ns()}-{folder.parent.name}-{folder.name}")
    except Timeout:
        return False
    folder.with_name(folder.name + STAMP).unlink(missing_ok=True)
    return True
