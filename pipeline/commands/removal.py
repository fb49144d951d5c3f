"""`sprig rm RUN...`: removes runs, and what only they need in the store."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import Timeout

from pipeline.artifacts import RUNNING, link_atomically, locked
from pipeline.artifacts.inventory import Entry, entries, in_words, refuse_linked, remove
from pipeline.commands import Line
from pipeline.commands.folders import Known, all_runs, owned
from pipeline.commands.listing import only_of
from pipeline.errors import SprigError
from pipeline.layout import LATEST
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
        say(f"{names}: {counted(len(wanted), 'artifact')} that no other run needs, {in_words(_bytes(wanted))}")
    if not (line.yes or confirm_removal()):
        return
    with ExitStack() as stack:
        for each in runs:
            stack.enter_context(_to_itself(each))
        for outputs, (of_it, wanted) in plans.items():
            _remove(outputs, of_it, wanted)


@contextmanager
def _to_itself(run: Known) -> Iterator[None]:
    """While no process works on the run, and none can begin to.

    Raises:
        SprigError: one does.
    """
    try:
        with locked(run.folder / RUNNING, wait=False):
            yield
    except Timeout:
        raise _running(run) from None


def _running(run: Known) -> SprigError:
    return SprigError(f"{run.folder} is running: stop it first (Ctrl-C), then remove it.")


def _needed_by_these(outputs: Path, runs: list[Known]) -> list[Entry]:
    return only_of({each.name for each in runs}, entries(outputs))


def _bytes(wanted: list[Entry]) -> int:
    return sum(entry.bytes for entry in wanted)


def _remove(outputs: Path, runs: list[Known], wanted: list[Entry]) -> None:
    """The folders first: a kill in between leaves artifacts that no run needs, which `artifacts clean` finds."""
    sizes = {entry.folder: entry.bytes for entry in wanted}
    for each in runs:
        away = each.folder.with_name(f".{each.folder.name}.removed")
        shutil.rmtree(away, ignore_errors=True)  # what a killed removal of the same run left
        each.folder.rename(away)
        _relink(each.folder, outputs)
        shutil.rmtree(away)
    removed, kept = remove(outputs, sizes, days=0)
    freed = in_words(sum(map(sizes.__getitem__, removed)))
    say(f"Removed {counted(len(runs), 'run')} and {counted(len(removed), 'artifact')} ({freed}).")
    for folder, why in kept.items():
        say(f"{folder} {why}: kept.")


def _relink(removed: Path, outputs: Path) -> None:
    """Points `latest` to the newest run that is left, if the removed one was it."""
    folder, latest = removed.parent, removed.parent / LATEST
    if not latest.is_symlink() or latest.exists():
        return
    left = [run for run in all_runs(outputs) if run.folder.parent.resolve() == folder]
    if left:
        link_atomically(latest, left[-1].folder)
    else:
        latest.unlink()
