"""Keywords of the Python API as sections of the configuration, checked as on the command line."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config import keys
from pipeline.config.checks import LARGEST_SEED, whole
from pipeline.config.typed import to_typed
from pipeline.config.unread import unread_in
from pipeline.errors import SprigError

Section = TypeVar("Section")

log = logging.getLogger("sprig")

# Keys of the configuration that only a run reads, or one value of a key.
OF_RUNS = {
    "search": ("strategy=given", "path", "rerank", "random_baseline"),
    "space": ("vocabulary", "type"),
    "distill": ("init", "from_run", "control", "cache", "checkpoint"),
}


@dataclass
class _Seed:
    seed: int = whole(0, low=0, high=LARGEST_SEED)


def settings(kind: type[Section], section: str, given: Mapping[str, Any]) -> Section:
    """Keywords as a section of the configuration, checked as on the command line; numpy's values are numbers and lists.
    A warning names those that others leave without effect.

    Raises:
        SprigError: a key is unknown or has no effect outside a run, or a value has the wrong type or is out of range.
    """
    prefix = f"{section}." if section else ""
    named = {*given, *(f"{key}={value}" for key, value in given.items() if isinstance(value, str))}
    if unused := [key for key in OF_RUNS.get(section, ()) if key in named]:
        raise SprigError(
            f"{prefix}{unused[0]} has no effect on models in memory: leave it out, or set it in a run, pipeline.run."
        )
    _check_names(prefix, given)
    try:
        composed = OmegaConf.create(_plain(dict(given)))
    except OmegaConfBaseException as error:
        raise SprigError(
            f"{prefix}{error.full_key}: {str(error).splitlines()[0]}: give a number, a text, or a list of these; a "
            "class or function by its import path."
        ) from None
    typed = to_typed(kind, composed, prefix)
    for sentence in unread_in(typed, _words(prefix, given)):
        log.warning(sentence)
    return typed


def _check_names(prefix: str, given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if (key := keys.find(f"{prefix}{name}")) is None:
            raise SprigError(keys.unknown(f"{prefix}{name}"))
        if key.is_section and isinstance(value, Mapping):
            _check_names(f"{prefix}{name}.", value)
        elif key.is_section and not is_dataclass(value):
            raise SprigError(keys.section(key, str(value), teachers=False))


def _words(prefix: str, given: Mapping[str, Any]) -> Iterator[str]:
    for name, value in given.items():
        if isinstance(value, Mapping):
            yield from _words(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}={value}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.tolist() if hasattr(value, "tolist") else value


def seed(given: Any) -> int:
    """Raises SprigError as `settings`."""
    return settings(_Seed, "", {"seed": given}).seed
