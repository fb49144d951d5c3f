"""`python -m pipeline.artifacts list|clean|verify`: what the store holds, and who needs it."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.artifacts import verify
from pipeline.artifacts.inventory import STORE, Entry, entries, published
from pipeline.errors import SprigError
from pipeline.progress import Progress

DAYS = 7  # a partial folder that old is taken for abandoned


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.artifacts", description=__doc__)
    parser.add_argument("action", choices=("list", "clean", "verify"))
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="the folder of runs and store")
    parser.add_argument("--yes", action="store_true", help="clean: remove without asking")
    parser.add_argument("--days", type=float, default=DAYS, help="clean: after which a partial folder is abandoned")
    given = parser.parse_args()
    if not (given.outputs / STORE).is_dir():
        sys.exit(f"{given.outputs / STORE} is not there: name the folder with --outputs.")
    if given.action == "verify":
        sys.exit(check(published(given.outputs)))
    try:
        found = entries(given.outputs)
    except SprigError as error:
        sys.exit(str(error))
    if given.action == "list":
        show(found)
    else:
        clean(found, given.yes, given.days)


def show(found: list[Entry]) -> None:
    """A table of all entries, the largest last."""
    table = Table("stage", "fingerprint", "size", "needed by")
    for entry in sorted(found, key=lambda entry: entry.bytes):
        table.add_row(entry.folder.parent.name, entry.folder.name, _size([entry]), _who(entry))
    Console().print(table)
    print(f"{len(found)} in all, {_size(found)}")


def check(folders: list[Path]) -> int:
    """Compares every file with its checksum and names what is damaged; 1 where something is."""
    damaged = []
    with Progress("verify", total=len(folders), unit="artifacts") as progress:
        for folder in folders:
            try:
                verify(folder)
            except SprigError as error:
                damaged.append(str(error))
            progress.advance()
    print("\n".join([*damaged, f"{len(folders)} artifacts, {len(damaged)} of them damaged."]))
    return min(len(damaged), 1)


def clean(found: list[Entry], yes: bool, days: float) -> None:
    """Removes what no run folder needs, after a question; says what it would remove where nobody can answer."""
    useless = [e for e in found if (e.idle_days() > days if e.partial else not e.needed_by)]
    if not useless:
        print("Every artifact is needed by a run folder, and nothing was abandoned.")
        return
    show(useless)
    if not yes:
        if not sys.stdin.isatty():
            print("Nothing was removed: add --yes.")
            return
        yes = input("Remove them? [y/N] ").strip().lower() == "y"
    if yes:
        freed = _size(useless)
        kept = [entry for entry in useless if not entry.remove()]
        print(f"Removed {len(useless) - len(kept)} of {len(useless)} ({freed}).")
        for entry in kept:
            print(f"{entry.folder} is being made: kept.")


def _who(entry: Entry) -> str:
    if entry.partial:
        return f"unfinished, {entry.idle_days():.1f} days old"
    first, *others = entry.needed_by or ("nobody",)
    return f"{first} and {len(others)} more" if others else first


def _size(found: list[Entry]) -> str:
    return f"{sum(entry.bytes for entry in found) / 1e6:,.1f} MB"


if __name__ == "__main__":
    main()
