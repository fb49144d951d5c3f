"""Reads JSON and YAML that somebody else may have written: what would take all memory or time is refused first."""

import json
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

import yaml

LARGEST_JSON, LARGEST_YAML = 2**26, 2**18  # bytes: large vocabularies are 10 MB, and YAML is slow to read
DEPTH = 64


def read_json(file: Path) -> Any:
    """
    Raises:
        OSError: it is out of reach.
        ValueError: it is not JSON, too large, or nested too deeply. To be put after the file's name.
    """
    text = _text(file, LARGEST_JSON)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({error})") from None
    return _shallow(content)


def read_yaml(file: Path) -> Any:
    """YAML without tags of Python's, and without aliases, a few of which can stand for any number of values.

    Raises:
        OSError: it is out of reach.
        ValueError: as `read_json`.
    """
    text = _text(file, LARGEST_YAML)
    try:
        content = yaml.load(text, _Plain)
    except Exception as error:  # PyYAML lets any kind of error out
        raise ValueError(f"is not YAML ({str(error).splitlines()[0]})") from None
    return _shallow(content)


class _Plain(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"it has the alias *{self.peek_event().anchor}, write its value out")
        return super().compose_node(parent, index)


def _text(file: Path, largest: int) -> str:
    if (size := file.stat().st_size) > largest:
        raise ValueError(f"has {size:,} bytes, more than the {largest:,} of any such file")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 ({error})") from None


def _shallow(content: Any) -> Any:
    """Python writes nested values by recursion, which ends in a traceback at a depth that no model's files have."""
    level = [content]
    for _ in range(DEPTH):
        lists = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [each for members in lists for each in members if isinstance(each, dict | list)]
    if level:
        raise ValueError(f"is nested more than {DEPTH} deep")
    return content


def misfit(value: Any, kind: Any, place: str = "it") -> str | None:
    """Where a JSON value is not of its kind, such as "it.student.tokens"; None if it is. Kinds are the annotations of
    TypedDicts, whose unknown keys are left alone."""
    inside = get_args(kind)
    match get_origin(kind):
        case origin if origin in (Union, UnionType):
            return None if any(misfit(value, each) is None for each in inside) else place
        case origin if origin in (dict, list):
            if type(value) is not origin:
                return place
            items = value.items() if isinstance(value, dict) else enumerate(value)
            return _first(misfit(each, inside[-1], f"{place}.{key}") for key, each in items)
    if is_typeddict(kind):
        if not isinstance(value, dict):
            return place
        if missing := sorted(kind.__required_keys__ - value.keys()):
            return f"{place}.{missing[0]}"
        kinds = get_type_hints(kind)
        return _first(misfit(value[key], each, f"{place}.{key}") for key, each in kinds.items() if key in value)
    if kind in (int, float):
        fits = type(value) in (int, float) and abs(value) < 1e300
    else:
        fits = kind is Any or type(value) is (type(None) if kind is None else kind)
    return None if fits else place


def _first(places: Iterable[str | None]) -> str | None:
    return next((place for place in places if place is not None), None)
