"""What a run's folder says of its command: the overrides that were given, and the configuration that they made."""

from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import SprigError

OVERRIDES = "overrides.yaml"
OF_EVERY_RUN = {"preset", "seed"}  # keys of its config.yaml


def recorded(file: Path) -> Any:
    """config.yaml (a dictionary) or overrides.yaml (a list) of a run folder's .hydra, YAML tags refused.

    Raises:
        SprigError: it is missing, cannot be read, or holds something else.
    """
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise unreadable(file, str(error).splitlines()[0]) from None
    if file.name == OVERRIDES:
        if not (isinstance(found, list) and all(isinstance(each, str) for each in found)):
            raise unreadable(file, "it is not a list of overrides")
    elif not (isinstance(found, dict) and found.keys() >= OF_EVERY_RUN):
        raise unreadable(file, "it is not the configuration of a run")
    return found


def unreadable(file: Path, reason: str) -> SprigError:
    return SprigError(
        f"{file} cannot be read ({reason}): copy it from another run of the same command, or give that command "
        "again with another run_name, which finds everything that is made."
    )
