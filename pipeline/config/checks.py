"""Range checks of the schema: one sentence that names the key and its value."""

import re
from typing import Any

from pipeline.errors import SprigError

LATEST = "latest"  # the link to the newest run folder
# Folders of outputs that hold no runs of that name.
RESERVED = (LATEST, "artifacts", "sweeps", "slurm")


def require(condition: bool, message: str) -> None:
    if not condition:
        raise SprigError(message)


def positive(section: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value is None or value > 0, f"{section}.{name}={value} must be above 0.")


def fraction(section: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(0 <= value <= 1, f"{section}.{name}={value} must lie in 0..1.")


def folder_name(key: str, name: str) -> None:
    """A name that becomes one folder directly in another: no path, nothing that a shell or file system reads as more,
    and none that Sprig uses itself."""
    require(
        re.fullmatch(r"\w[\w.+=@-]*", name) is not None and len(name.encode()) <= 100 and not name.endswith("."),
        f"{key}={name!r} names a folder: use at most 100 letters, digits and the signs . _ - + = @, beginning with a "
        "letter or digit.",
    )
    require(
        name.lower() not in RESERVED,
        f"{key}={name} is a folder of Sprig's own ({', '.join(RESERVED)}): choose another name.",
    )
