"""The schema as a page: every key with its type, its default, and the comment next to it in the source."""

import ast
import inspect
import io
import tokenize
import types
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING as MANDATORY

from pipeline.config.run import Config

HEAD = """# Configuration

Every key, with its type, the schema's default and its meaning. The default `???` means that you must set the key. The
files in `conf/` set other defaults: `sprig --cfg job distill.tokens=0` prints the configuration of a command. Set a key
by its full name, such as `search.mutation.gene_rate=0.3`. An unknown key, a wrong type or a value out of range is
refused before anything runs. A key that "changes no result" changes at most its rounding, and is in no fingerprint.

This page is generated from the schema and its comments. To update it, run `python -m pipeline.config`.
"""


def page() -> str:
    """docs/config.md: the keys of a run, then a section for every group."""
    own = [each for each in fields(Config) if _group(Config, each) is None]
    named: dict[type, str] = {}  # kd_teacher is one more teacher
    for each in fields(Config):
        if group := _group(Config, each):
            named[group] = f"{named[group]}, {each.name}" if group in named else each.name
    sections: list[tuple[str, type, list[str]]] = [("A run", Config, _rows(Config, "", own))]
    sections += [(name, group, _rows(group, f"{name.split(',')[0]}.", fields(group))) for group, name in named.items()]
    parts = [HEAD]
    for title, group, rows in sections:
        document = _document(group)
        table = ["| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows]
        parts.append("\n\n".join(part for part in (f"## {title}", document, "\n".join(table)) if part) + "\n")
    return "\n".join(parts)


def _rows(group: type, prefix: str, chosen: Iterable[Field]) -> list[str]:
    comments = _comments(group)
    rows: list[str] = []
    shown: dict[type, str] = {}
    for each in chosen:
        inner, meaning = _group(group, each), comments.get(each.name, "")
        if inner is not None:
            meaning = _meaning(each, meaning or " ".join(_document(inner).split()))
            if inner in shown:
                rows.append(_row(f"{prefix}{each.name}", f"as `{shown[inner]}`", "", meaning))
                continue
            shown[inner] = f"{prefix}{each.name}"
            rows += [_row(f"{prefix}{each.name}", "", "", meaning)] if meaning else []
            rows += _rows(inner, f"{prefix}{each.name}.", fields(inner))
        else:
            kind = _kind(get_type_hints(group)[each.name])
            default = f"`{_default(each)}`"
            rows.append(_row(f"{prefix}{each.name}", kind, default, _meaning(each, meaning)))
    return rows


def _meaning(each: Field, comment: str) -> str:
    """The comment, with which strategies read the key, or that no result depends on it."""
    strategies = each.metadata.get("strategies", ())
    notes = [f"Read by {', '.join(strategies)}."] if strategies else []
    notes += ["Changes no result."] if each.metadata.get("immaterial") else []
    if comment and notes:
        comment = f"{comment.rstrip('.')}."
    return " ".join([comment, *notes]).strip()


def _row(*cells: str) -> str:
    key, *others = (cell.replace("|", "\\|") for cell in cells)
    return f"| `{key}` | " + " | ".join(others) + " |"


def _group(group: type, each: Field) -> type | None:
    """The dataclass of a field that is a group of keys."""
    hint = get_type_hints(group)[each.name]
    return next((kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)), None)


def _document(group: type) -> str:
    """Its docstring, if it has one of its own: dataclasses write their signature."""
    text = group.__doc__ or ""
    return "" if text.startswith(f"{group.__name__}(") else inspect.cleandoc(text)


def _kind(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_kind(part) for part in get_args(hint))
    if hint is type(None):
        return "null"
    if get_origin(hint) in (list, dict):
        return f"{get_origin(hint).__name__} of {_kind(get_args(hint)[-1])}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(f"`{each.name}`" for each in hint)
    return {Any: "any"}.get(hint) or hint.__name__


def _default(each: Field) -> str:
    value = each.default if each.default_factory is MISSING else each.default_factory()
    if value == MANDATORY or value is MISSING:
        return "???"
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    return _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, Enum):
        return value.name
    return (
        {None: "null", True: "true", False: "false"}[value]
        if value is None or value is True or value is False
        else str(value)
    )


def _comments(group: type) -> dict[str, str]:
    """What stands behind a field, or on the lines above it."""
    source = inspect.getsource(group)
    remarks = {
        token.start[0]: (token.string.lstrip("# "), token.line.lstrip().startswith("#"))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    (parsed,) = ast.parse(source).body
    assert isinstance(parsed, ast.ClassDef)
    for node in parsed.body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        line, above = node.lineno - 1, list[str]()
        while line in remarks and remarks[line][1]:
            above.insert(0, remarks[line][0])
            line -= 1
        behind = [remarks[last][0]] if (last := node.end_lineno) in remarks else []
        found[node.target.id] = " ".join(above + behind)
    return found
