"""The commands that make a run again, for both forms of its report."""

import re
import shlex
from pathlib import Path

from pipeline.command_line.composition import OF_ONE_COMMAND
from pipeline.recorded import recorded


def commands(folder: Path) -> list[str]:
    """Of a run's folder: what makes the run elsewhere, and what reopens it here."""
    overrides = recorded(folder / ".hydra/overrides.yaml")
    return from_overrides(overrides, folder)


def from_overrides(overrides: list[str], folder: Path) -> list[str]:
    """The command that began a run may have been for a part of it; these make all of it."""
    whole = [each for each in overrides if re.split("[.=]", each)[0] not in OF_ONE_COMMAND]
    given = [whole] if whole else []  # a run from Python has none
    return [shlex.join(["sprig", *each]) for each in (*given, [f"run={folder}"])]
