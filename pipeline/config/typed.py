"""From a composed configuration to checked, typed objects: the one place that holds values against the schema."""

from dataclasses import Field, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pipeline.config import checks
from pipeline.config.values import read_as_written
from pipeline.errors import SprigError

Section = TypeVar("Section")

_schemas: dict[type, DictConfig] = {}


def to_typed(kind: type[Section], composed: DictConfig, prefix: str = "") -> Section:
    """`composed` as an object of the schema's dataclass `kind`, whose keys are called `prefix` and their name.

    Raises:
        SprigError: a value is missing (`???`), of a wrong type, unknown, or out of range.
    """
    try:
        with read_as_written():
            is_typed = OmegaConf.get_type(composed) is kind  # by Hydra, which composes over the schema
            typed = composed if is_typed else OmegaConf.merge(_schema(kind), composed)
            assert isinstance(typed, DictConfig)
            _check(kind, typed, prefix)
            made = OmegaConf.to_object(typed)
            assert isinstance(made, kind)  # so OmegaConf documents it for a structured configuration
            return made
    except MissingMandatoryValue as error:
        raise SprigError(
            f"{prefix}{error.full_key} has no value (???): set it on the command line or in a preset."
        ) from None
    except OmegaConfBaseException as error:
        if (own := _own_error(error)) is not None:
            raise own from None
        place = f"{prefix}{error.full_key}: " if error.full_key else ""
        reason = str(error).splitlines()[0].rstrip(".")
        if "is not a ListConfig" in reason and error.full_key:
            reason = f"{OmegaConf.select(composed, error.full_key)} must be a list, such as [a,b]"
        raise SprigError(f"{place}{reason}.") from None


def _schema(kind: type) -> DictConfig:
    """The defaults of a dataclass, made once; a merge copies them."""
    if kind not in _schemas:
        _schemas[kind] = OmegaConf.structured(kind)
    return _schemas[kind]


def _own_error(error: BaseException | None) -> SprigError | None:
    """The error of a value that is derived from others, which OmegaConf wraps in its own."""
    while error is not None and not isinstance(error, SprigError):
        error = error.__cause__ or error.__context__
    return error


def section_type(kind: type, each: Field) -> type | None:
    """The dataclass of a field that is a section of keys."""
    hint = without_none(hints(kind)[each.name])
    return hint if isinstance(hint, type) and is_dataclass(hint) else None


def without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, UnionType):
        return next(part for part in get_args(hint) if part is not type(None))
    return hint


@cache
def hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _check(kind: type, node: DictConfig, prefix: str) -> None:
    known = {each.name: each for each in fields(kind)}
    for unknown in [str(key) for key in node if key not in known]:
        raise SprigError(
            f"There is no configuration key {prefix}{unknown}: `sprig --cfg job distill.tokens=0` prints all."
        )
    for name, each in known.items():
        is_listed = get_origin(without_none(hints(kind)[name])) is list
        if OmegaConf.is_missing(node, name):
            continue
        if is_listed and OmegaConf.is_interpolation(node, name):
            _read_list(node, name, prefix)  # OmegaConf checks what single values refer to, but not lists
        if node[name] is None:
            continue
        if (inner := section_type(kind, each)) is not None:
            _check(inner, node[name], f"{prefix}{name}.")
        else:
            value = node[name]
            plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            if is_listed and any(isinstance(each, list | dict) for each in plain or ()):
                raise SprigError(f"{prefix}{name}={plain} must be a flat list, such as [a,b].")
            checks.check(f"{prefix}{name}", plain, each.metadata)


def _read_list(node: DictConfig, name: str, prefix: str) -> None:
    """Put what the list `name` refers to in its place, so that its elements are of the key's own type."""
    value = node[name]
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    if value is not None and not isinstance(value, list):
        written = OmegaConf.to_container(node, resolve=False)
        assert isinstance(written, dict)
        raise SprigError(f"{prefix}{name}={written[name]} refers to no list: write one, such as [a,b].")
    node[name] = value
