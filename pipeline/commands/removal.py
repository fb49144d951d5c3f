"""`sprig rm RUN...`: removes runs, what only they need in the store, and their jobs in the records of sweeps."""

import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from filelock import Timeout

from pipeline.artifacts import RUNNING, link_atomically, locked
from pipeline.artifacts.inventory import (
    STORE,
    Entry,
    bytes_of_copies,
    delete_moved,
    entries,
    in_words,
    move_out,
    refuse_linked,
)
from pipeline.artifacts.runs import is_run
from pipeline.artifacts.store import claims
from pipeline.commands import Line
from pipeline.commands.folders import Known, owned, siblings
from pipeline.commands.listing import only_of
from pipeline.errors import SprigError, reason
from pipeline.layout import LATEST, SWEEPS
from pipeline.progress import counted
from pipeline.terminal import confirm_removal, say


def run(line: Line) -> None:
    """Removes the named runs after a question; if nobody can answer, only --yes removes.

    Raises:
        SprigError: a run is not one, it or its store lies elsewhere, or a process works on it; nothing was removed.
    """
    runs = owned(line)
    by_outputs: dict[Path, list[Known]] = {}
    for each in runs:
        if each.held:
            raise _running(each)
        by_outputs.setdefault(each.outputs, []).append(each)
    for outputs in by_outputs:
        refuse_linked(outputs)
    plans = {outputs: (of_it, _needed_by_these(outputs, of_it)) for outputs, of_it in by_outputs.items()}
    for of_it, wanted in plans.values():
        names = ", ".join(f"{each.name} ({each.status})" for each in of_it)
        size = in_words(_bytes(wanted) + _copied(of_it))
        say(f"{names}: {counted(len(wanted), 'artifact')} that no other run needs, {size}")
    if not (line.yes or confirm_removal()):
        return
    with ExitStack() as stack:
        held = [each for each in runs if _hold(each, stack)]
        for outputs, (_, wanted) in plans.items():
            _remove(outputs, [each for each in held if each.outputs == outputs], wanted)


def _hold(run: Known, stack: ExitStack) -> bool:
    """Keeps other processes from the run, also from beginning to work on it; False if one of them removed it.

    Raises:
        SprigError: a process works on it.
    """
    place = run.folder / RUNNING
    try:
        stack.enter_context(locked(place, wait=False))
    except FileNotFoundError:
        return False
    except Timeout:
        if is_run(run.folder):
            raise _running(run) from None
        return False
    if not is_run(run.folder):
        with suppress(OSError):  # the lock made the folder again
            Path(f"{place}.lock").unlink()
            run.folder.rmdir()
        return False
    return True


def _running(run: Known) -> SprigError:
    return SprigError(f"{run.folder} is running: stop it first (Ctrl-C), then remove it.")


def _needed_by_these(outputs: Path, runs: list[Known]) -> list[Entry]:
    return only_of({each.name for each in runs}, entries(outputs))


def _bytes(wanted: list[Entry]) -> int:
    return sum(entry.bytes for entry in wanted)


def _copied(runs: list[Known]) -> int:
    return sum(bytes_of_copies(each.folder) for each in runs)


def _remove(outputs: Path, runs: list[Known], planned: list[Entry]) -> None:
    """First out of the sweeps: a kill leaves runs that the same command removes. Then the folders: a kill in between
    leaves artifacts that no run needs, which `artifacts clean` finds. All that under the lock of claims: of two
    removals at once, the later one takes what both their runs needed."""
    _forget(outputs, {each.folder for each in runs})
    with claims(outputs / STORE):
        wanted = {entry.folder: entry for entry in (*planned, *_needed_by_these(outputs, runs))}
        sizes, copied = {folder: entry.bytes for folder, entry in wanted.items()}, _copied(runs)
        away = [_put_away(each.folder) for each in runs]
        for folder in {each.folder.parent for each in runs}:
            _relink(folder)
        removed, kept = move_out(outputs, wanted, days=0)
    delete_moved(outputs)
    for each in away:
        shutil.rmtree(each)
        with suppress(OSError):  # other runs are in it, or one is starting, which makes it again
            each.parent.rmdir()
    freed = in_words(sum(map(sizes.__getitem__, removed)) + copied)
    say(f"Removed {counted(len(runs), 'run')} and {counted(len(removed), 'artifact')} ({freed}).")
    for folder, why in kept.items():
        say(f"{folder} {why}: kept.")


def _forget(outputs: Path, runs: set[Path]) -> None:
    for file in outputs.glob(f"{SWEEPS}/*/sweep.json"):
        from pipeline.report.sweep import record  # with torch

        try:
            record.forget(file.parent, runs)
        except OSError as error:
            say(f"{file} cannot be written ({reason(error)}): its report will call these runs missing.")


def _put_away(folder: Path) -> Path:
    away = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(away, ignore_errors=True)  # what a killed removal of the same run left
    return folder.rename(away)


def _relink(folder: Path) -> None:
    """Points `latest` to the newest run that is left, if a removed one was it."""
    latest = folder / LATEST
    if not latest.is_symlink() or latest.exists():
        return
    if left := siblings(folder):
        link_atomically(latest, left[-1].folder)
    else:
        latest.unlink()
