"""What a run's folder says of its command: the overrides that were given, and the configuration that they made."""

from pathlib import Path
from typing import Any

from pipeline import outside
from pipeline.errors import SprigError

OVERRIDES = "overrides.yaml"
OF_EVERY_RUN = {"preset", "seed"}  # keys of its config.yaml


def recorded(file: Path) -> Any:
    """config.yaml (a dictionary) or overrides.yaml (a list) of a run folder's .hydra, YAML tags refused.

    Raises:
        SprigError: it is missing, cannot be read, or holds something else.
    """
    try:
        found = outside.read_yaml(file)
    except ValueError as error:
        raise unreadable(file, f"it {error}") from None
    except OSError as error:
        raise unreadable(file, str(error)) from None
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
