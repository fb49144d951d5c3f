"""The keys of the schema by their full names, and the nearest ones to a name that is not among them."""

import difflib
from collections.abc import Iterator
from dataclasses import Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, get_origin

from pipeline.config.launching import LauncherConfig
from pipeline.config.run import Config
from pipeline.config.typed import hints, without_none

LAUNCHER = "hydra.launcher"
LISTED = 12  # a section of at most this many keys is listed in full
BUDGET = "budget"  # a word for distill.tokens, see pipeline.config.derived
ELSEWHERE = {  # what other tools call it
    "batch_size": "distill.global_batch",
    "dataset": "data.path",
    "context": "data.block_size",
    "dry_run": "plan",
    "epochs": BUDGET,
    "gpus": "deepspeed.world_size",
    "hours": BUDGET,
    "learning_rate": "distill.lr",
    "max_length": "data.block_size",
    "max_steps": BUDGET,
    "model": "teacher.path",
    "name": "run_name",
    "num_gpus": "deepspeed.world_size",
    "output": "outputs",
    "output_dir": "outputs",
    "params": "bin.center",
    "parameters": "bin.center",
    "resume": "run",
    "seq_len": "data.block_size",
    "steps": BUDGET,
    "tasks": "evaluate.tasks",
    "text": "data.path",
    "tokens": "distill.tokens",
    "wandb": "tracker.kind",
}


@dataclass(frozen=True)
class Key:
    """One key: `hint` is its type without None."""

    name: str
    hint: Any
    field: Field

    @property
    def is_section(self) -> bool:
        return is_dataclass(self.hint)

    @property
    def is_text(self) -> bool:
        return self.hint is str

    @property
    def is_list(self) -> bool:
        return get_origin(self.hint) is list

    @property
    def is_open(self) -> bool:
        """Whether keys of any name may be set below it."""
        return get_origin(self.hint) is dict or self.hint is Any

    @property
    def is_path(self) -> bool:
        return bool(self.field.metadata.get("path"))

    @property
    def is_kind(self) -> bool:
        """Whether its value is one of a few names."""
        return isinstance(self.hint, type) and issubclass(self.hint, Enum)

    @property
    def choices(self) -> list[str]:
        """The values of a key that takes one of a few."""
        if self.is_kind:
            return [each.name for each in self.hint]
        return ["true", "false"] if self.hint is bool else []


@cache
def keys() -> dict[str, Key]:
    """Every key of a run and of the sweep launcher, sections included."""
    every = [*_walk(Config, ""), *_walk(LauncherConfig, f"{LAUNCHER}.")]
    return {key.name: key for key in every}


def find(name: str) -> Key | None:
    """The key of this name, or the one that takes any name below it."""
    if name in keys():
        return keys()[name]
    parents = (name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1))
    return next((keys()[parent] for parent in parents if parent in keys() and keys()[parent].is_open), None)


def unknown(name: str) -> str:
    """The sentence for a name that is not a key, with the nearest one or the keys of its section."""
    if near := nearest(name):
        hint = f"did you mean {near}?"
    elif (section := name.rpartition(".")[0]) in keys() and keys()[section].is_section:
        inside = [key for key in keys() if key.rpartition(".")[0] == section]
        printed = f"`sprig --cfg job --package {section} distill.tokens=0` prints the keys of its section."
        hint = f"its section has {', '.join(inside)}." if len(inside) <= LISTED else printed
    else:
        hint = "`sprig --cfg job distill.tokens=0` prints all keys."
    return f"There is no configuration key {name}: {hint}"


def nearest(name: str) -> str | None:
    """The key that was probably meant: of the same last name, else similar in the section, else similar anywhere."""
    section, _, last = name.rpartition(".")
    if (meant := ELSEWHERE.get(last)) and ("." not in meant or meant.startswith(section)):
        return meant
    settable = [key.name for key in keys().values() if not key.is_section]
    below = [key for key in settable if key.startswith(f"{section}.")] if section else settable
    same = [key for pool in (below, settable) for key in pool if key.rpartition(".")[2] == last]
    if same:
        return max(same, key=lambda key: difflib.SequenceMatcher(a=name, b=key).ratio())
    lasts = {key.rpartition(".")[2]: key for key in reversed(below)}
    similar = difflib.get_close_matches(last, lasts, n=1, cutoff=0.7 if section else 0.8)
    if similar:
        return lasts[similar[0]]
    whole = difflib.get_close_matches(name, settable, n=1, cutoff=0.75)
    if whole:
        return whole[0]
    contained = [key for each, key in lasts.items() if section and len(each) > 3 and (each in last or last in each)]
    return contained[0] if contained else None


def _walk(kind: type, prefix: str) -> Iterator[Key]:
    for each in fields(kind):
        key = Key(f"{prefix}{each.name}", without_none(hints(kind)[each.name]), each)
        yield key
        if key.is_section:
            yield from _walk(key.hint, f"{key.name}.")


def section(key: Key, value: str, teachers: bool) -> str:
    """What to write instead of a value for a section. `teachers`: whether there are teachers to choose from."""
    if key.name == "kd_teacher" and teachers:
        return f"kd_teacher is chosen as a teacher is: teacher@kd_teacher={value or 'CHOICE'}."
    inside = [each.name for each in keys().values() if each.name.startswith(f"{key.name}.")]
    return (
        f"{key.name}={value} sets no value, as {key.name} is a section: set its keys, such as {', '.join(inside[:6])}."
    )
