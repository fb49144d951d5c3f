"""A user's paths become absolute when a run is created, so that the run can be opened again from anywhere."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.choices import DataSource, Source
from pipeline.errors import SprigError
from pipeline.layout import LATEST

if TYPE_CHECKING:
    from pipeline.config.inputs import DataConfig, TeacherConfig
    from pipeline.config.run import Config

BYTES = "bytes"  # the tokenizer that needs no file


def expanded(path: str | Path) -> Path:
    """With the home folder for a leading ~, which no shell expands behind a `=`.

    Raises:
        SprigError: no such user, or no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise SprigError(f"{path} begins with ~, but that home folder is not known: give the whole path.") from None


def absolute(path: str) -> str:
    """As `expanded`; links stay links."""
    return str(expanded(path).absolute())


def wrong_with(path: Path) -> str:
    """What to say of a path that is neither a file nor a folder."""
    kinds = {"a named pipe": path.is_fifo(), "a socket": path.is_socket()}
    kinds["a device"] = path.is_char_device() or path.is_block_device()
    if found := [kind for kind, holds in kinds.items() if holds]:
        return f"is {found[0]}, not a file or a folder"
    return f"is a link to {path.readlink()}, which does not exist" if path.is_symlink() else "does not exist"


def make_absolute(config: "Config") -> None:
    """Every path of a configuration, in place: a hub's names and paths inside a package stay as they are."""
    config.outputs = absolute(config.outputs)
    for holder, key in (
        (config, "run"),
        (config.export, "to"),
        (config.search, "path"),
        (config.distill.cache, "path"),
    ):
        if getattr(holder, key) is not None:
            setattr(holder, key, absolute(getattr(holder, key)))
    if config.distill.from_run is not None:
        config.distill.from_run = _run(config.distill.from_run, config.outputs)
    for teacher in filter(None, (config.teacher, config.kd_teacher)):
        _teacher(teacher)
    _data(config.data)


def _run(named: str, outputs: str) -> str:
    """The folder of the run to train further, which may be given by its name in the folder of runs.

    Raises:
        SprigError: it is given as `latest`, which the further training itself may become.
    """
    by_name = Path(outputs) / named
    folder = by_name if by_name.exists() and not expanded(named).exists() else Path(absolute(named))
    if folder.name == LATEST and folder.is_symlink():
        own = Path(named).parent / folder.resolve().name
        raise SprigError(
            f"distill.from_run={named} means another run as soon as a newer one is there: name the run itself, "
            f"distill.from_run={own}."
        )
    return str(folder)


def _teacher(teacher: "TeacherConfig") -> None:
    if (
        teacher.path is not None
        and teacher.package is None
        and teacher.source != Source.random
        and not _is_hub_name(teacher.source, teacher.path)
    ):
        teacher.path = absolute(teacher.path)
    if teacher.tokenizer not in (None, BYTES) and teacher.package is None:
        teacher.tokenizer = absolute(teacher.tokenizer)


def _is_hub_name(source: Source, path: str) -> bool:
    """Whether the path is a name of the hub: owner/name, and nothing of that name is here."""
    named = source == Source.hf and re.fullmatch(r"\w[\w.-]*/[\w.-]+", path)
    return bool(named) and not Path(path).exists()


def _data(data: "DataConfig") -> None:
    if data.source == DataSource.hub or data.package is not None:
        return
    if isinstance(data.path, str):
        data.path = absolute(data.path)
    elif isinstance(data.path, list):
        data.path = [absolute(each) if isinstance(each, str) else each for each in data.path]
