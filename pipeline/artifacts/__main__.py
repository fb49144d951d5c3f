"""`python -m pipeline.artifacts list|clean|verify`: what the store holds, and which runs need it."""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from pipeline import streams, terminal
from pipeline.artifacts import check
from pipeline.artifacts.inventory import (
    STORE,
    Entry,
    delete_moved,
    entries,
    in_words,
    refuse_linked,
    remove,
    visible_runs,
)
from pipeline.artifacts.store import published
from pipeline.errors import SprigError
from pipeline.printable import one_line
from pipeline.progress import Progress, counted
from pipeline.terminal import confirm_removal, say

DAYS = 1.0
USAGE = "python -m pipeline.artifacts list|clean|verify [--outputs FOLDER] [--yes] [--days DAYS]"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.exit(one_line(f"{USAGE}: {message}."))


@streams.usable()
def main() -> None:
    parser = _Parser(prog="python -m pipeline.artifacts", description=__doc__)
    parser.add_argument("action", choices=("list", "clean", "verify"))
    parser.add_argument("--outputs", default="outputs", help="the folder of runs and store")
    parser.add_argument("--yes", action="store_true", help="clean: remove without asking")
    parser.add_argument(
        "--days", type=float, default=DAYS, help=f"clean: keep what was made or used in the last DAYS days ({DAYS:g})"
    )
    for word in sys.argv[1:]:
        if word.startswith(("outputs=", "days=")):  # as the commands of `sprig` take them
            parser.error(f"it does not take {word}; write --{word.replace('=', ' ', 1)}")
    given = parser.parse_args()
    if not given.outputs.strip():
        parser.error("--outputs has no value: give one")
    outputs = Path(os.path.expanduser(given.outputs))
    if not (outputs / STORE).is_dir():
        sys.exit(f"{outputs / STORE} does not exist: name the folder with --outputs.")
    if not given.days >= 0:
        sys.exit(f"--days {given.days} must be 0 or more.")
    try:
        if given.action == "verify":
            sys.exit(verify(published(outputs / STORE)))
        elif given.action == "list":
            show(entries(outputs, visible_runs(outputs)))
        else:
            clean(outputs, given.yes, given.days)
    except SprigError as error:
        sys.exit(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        place = one_line(str(error.filename or outputs))
        sys.exit(f"{place} cannot be read or changed ({error.strerror}): correct its permissions.")


def show(found: list[Entry]) -> None:
    """A table of all entries, the largest last."""
    rows = (
        (entry.folder.parent.name, entry.folder.name, _size([entry]), _needed_by(entry))
        for entry in sorted(found, key=lambda entry: entry.bytes)
    )
    terminal.show(("stage", "fingerprint", "size", "needed by"), rows)
    say(f"{len(found)} in all, {_size(found)}")


def verify(folders: list[Path]) -> int:
    """Reads every file and compares it with its checksum; names what is damaged; 1 if something is."""
    damaged = []
    with Progress("verify", total=len(folders), unit="artifacts") as progress:
        for folder in folders:
            try:
                check(folder, everything=True)
            except SprigError as error:
                damaged.append(str(error))
            progress.advance()
    say(*damaged, f"{counted(len(folders), 'artifact')}, {len(damaged)} damaged.")
    return min(len(damaged), 1)


def clean(outputs: Path, yes: bool, days: float) -> None:
    """Removes what no run folder needs, after a question; lists what it would remove if nobody can answer."""
    refuse_linked(outputs)
    delete_moved(outputs)
    unneeded = [entry for entry in entries(outputs) if not entry.needed_by]
    useless = [entry for entry in unneeded if entry.useless(days)]
    if young := len(unneeded) - len(useless):
        period = "day" if days == 1 else f"{days:g} days"
        print(
            f"{counted(young, 'artifact')} that no run folder needs, made or used in the last {period}: kept. "
            "--days 0 removes them, too."
        )
    if not useless:
        print("There is nothing else to remove." if young else "Every artifact is needed by a run folder.")
        return
    show(useless)
    if yes or confirm_removal():
        sizes = {entry.folder: entry.bytes for entry in useless}
        removed, kept = remove(outputs, sizes, days)
        freed = in_words(sum(sizes[folder] for folder in removed))
        print(f"Removed {len(removed)} of {len(useless)} ({freed}).")
        for folder, why in kept.items():
            say(f"{folder} {why}: kept.")


def _needed_by(entry: Entry) -> str:
    first, *others = entry.needed_by or ("no run",)
    names = f"{first} and {len(others)} more" if others else first
    return f"{names} (unfinished, {entry.idle_days():.1f} days old)" if entry.partial else names


def _size(found: list[Entry]) -> str:
    return in_words(sum(entry.bytes for entry in found))


if __name__ == "__main__":
    main()
