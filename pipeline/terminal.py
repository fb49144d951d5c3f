"""Prints lines and tables. Their names and values may come from files, so no character of theirs steers the terminal,
and no bracket is markup."""

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.printable import one_line, printable


def say(*lines: str) -> None:
    for line in lines:
        print(one_line(line))


def cell(text: str) -> Text:
    """Of a table; it may have several lines, and a long word is continued on the next one."""
    return Text(printable(text), overflow="fold")


def show(header: Sequence[str], rows: Iterable[Iterable[str]], title: str | None = None) -> None:
    table = Table(*header, title=None if title is None else cell(title), show_header=any(header))
    for row in rows:
        table.add_row(*map(cell, row))
    Console().print(table)


def show_lines(*lines: str) -> None:
    """Whole, for the terminal to wrap."""
    for line in lines:
        Console().print(printable(line), markup=False, highlight=False, soft_wrap=True)


def show_commands(rows: Sequence[tuple[str, str]]) -> None:
    """Of purpose and command, on lines of their own: commands are there to be copied."""
    if rows:
        show_lines("Next:", *(f"  # {purpose}\n  {command}" for purpose, command in rows))


def confirm_removal() -> bool:
    """Asks at the terminal whether to remove what was listed, and says if nothing is removed."""
    if not sys.stdin.isatty():
        say("Nothing was removed: add --yes.")
        return False
    try:
        answer = input("Remove them? [y/N] ")
    except (EOFError, KeyboardInterrupt):
        answer = ""
        print()
    if answer.strip().lower() == "y":
        return True
    say("Nothing was removed.")
    return False
