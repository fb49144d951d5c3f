"""The commands about runs that exist: `sprig runs`, `compare`, `rm` and `describe`. They start without torch.

What people write instead of them is in pipeline.command_line.bare_words.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.command_line.bare_words import EMPTY
from pipeline.config.paths import expanded
from pipeline.errors import SprigError

OUTPUTS, YES = "outputs=", "--yes"


@dataclass(frozen=True)
class Line:
    """The rest of a command's line. `outputs` is null unless it was given."""

    names: list[str] = field(default_factory=list)
    outputs: Path | None = None
    yes: bool = False


@dataclass(frozen=True)
class Command:
    """`module` has a function `run(line)`; `takes` is the usage, and `least` and `most` how many names it takes."""

    module: str
    takes: str
    says: str
    least: int = 0
    most: int | None = None


COMMANDS = {
    "runs": Command("listing", "[outputs=FOLDER]", "lists all runs", most=0),
    "compare": Command("comparison", "RUN RUN ... [outputs=FOLDER]", "reports on several runs as on a sweep", least=2),
    "rm": Command("removal", "RUN ... [--yes] [outputs=FOLDER]", "removes runs, and what only they need", least=1),
    "describe": Command("description", "RUN [outputs=FOLDER]", "explains the student of a run or folder", 1, 1),
}


def named(arguments: Sequence[str]) -> bool:
    """Whether this command line is one of them."""
    return bool(arguments) and arguments[0] in COMMANDS


def run(arguments: Sequence[str]) -> None:
    """
    Raises:
        SprigError: the command does not take these arguments, or cannot do what it is asked to.
    """
    name, *words = arguments
    command = COMMANDS[name]
    if {"-h", "--help"} & set(words):
        print(_usage(name))
        return
    line = _read(name, words)
    if not command.least <= len(line.names) <= (len(line.names) if command.most is None else command.most):
        raise SprigError(f"{_usage(name)}; a RUN is its folder, or its name as `sprig runs` shows it.")
    work: Callable[[Line], None] = importlib.import_module(f"{__name__}.{command.module}").run
    work(line)


def _usage(name: str) -> str:
    return f"sprig {name} {COMMANDS[name].takes} {COMMANDS[name].says}"


def _read(name: str, words: Sequence[str]) -> Line:
    names, outputs, yes = [], None, False
    for word in words:
        if not word.strip():
            raise SprigError(EMPTY)
        if word.strip() == OUTPUTS and OUTPUTS in COMMANDS[name].takes:
            raise SprigError(f"{OUTPUTS} has no value: give one.")
        if word.startswith(OUTPUTS) and OUTPUTS in COMMANDS[name].takes:
            outputs = expanded(word.removeprefix(OUTPUTS))
        elif word == YES and YES in COMMANDS[name].takes:
            yes = True
        elif word.startswith("-") or ("=" in word and not Path(word).exists()):
            raise SprigError(f"{_usage(name)}; it does not take {word}.")
        else:
            names.append(word)
    return Line(names, outputs, yes)
