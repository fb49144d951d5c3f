"""`sprig compare RUN RUN ...`: the report of a sweep over any finished runs."""

import os
import re
from collections.abc import Iterable
from typing import Any

from omegaconf import OmegaConf

from pipeline.artifacts import digest, write_json
from pipeline.artifacts.runs import refuse_inside
from pipeline.command_line.overrides import given_by
from pipeline.commands import Line
from pipeline.commands.folders import FINISHED, Known, chosen
from pipeline.config import is_material
from pipeline.errors import SprigError
from pipeline.recorded import OVERRIDES, recorded

FOLDER = "comparisons"  # in outputs
PRESETS = ("experiment", "size", "preset")  # shown as one axis
UNSET = "default"
TELL_APART = "run"


def run(line: Line) -> None:
    """Writes the report into `<outputs>/comparisons/<id>`, in the outputs of the first run unless others are given.

    Raises:
        SprigError: a run is not one, or is not finished; fewer than two are named; two are copies of one; or the
            outputs lie in a run.
    """
    runs = chosen(line)
    if len(runs) < 2:
        raise SprigError(f"{line.names[0]} alone cannot be compared: name two runs or more.")
    if unfinished := ", ".join(each.name for each in runs if each.status != FINISHED):
        raise SprigError(f"These are not finished: {unfinished}. Run their commands again, then compare.")
    from pipeline.report.sweep import record, report  # with matplotlib and torch

    names = _names(runs)
    axes = _axes(runs, names)
    if line.outputs:
        refuse_inside("outputs", line.outputs)
    folder = (line.outputs or runs[0].outputs) / FOLDER / digest(sorted(names))[:8]
    folder.mkdir(parents=True, exist_ok=True)
    jobs: list[record.JobRecord] = [
        {
            "id": name,
            "overrides": dict(zip(axes, values, strict=True)),
            "status": record.COMPLETED,
            "folder": os.path.relpath(each.folder, folder.resolve()),
            "seconds": None,
            "error": None,
        }
        for name, each, values in zip(names, runs, zip(*axes.values(), strict=True), strict=True)
    ]
    made: record.SweepRecord = {
        "schema": record.SWEEP_SCHEMA,
        "comparison": True,
        "name": f"Comparison of {', '.join(names)}",
        "axes": {key: list(dict.fromkeys(values)) for key, values in axes.items()},
        "command": ["sprig", "compare", *line.names],
        "jobs": jobs,
    }
    write_json(folder / record.NAME, made)
    report.report(folder, underway=False)


def _names(runs: list[Known]) -> list[str]:
    """Those of the runs, or their folders where runs of several outputs have one name."""
    names = [each.name for each in runs]
    return names if len(set(names)) == len(names) else [str(each.folder) for each in runs]


def _axes(runs: list[Known], names: list[str]) -> dict[str, list[str]]:
    """What tells the runs apart, each with its value in every run: the preset, and the values that were given to one
    of them at least. The run's name is one where these do not suffice.

    Raises:
        SprigError: nothing but their folders tells two of the runs apart.
    """
    given = [given_by(recorded(each.folder / ".hydra" / OVERRIDES)) for each in runs]
    configs: list[Any] = [OmegaConf.create(recorded(each.folder / ".hydra/config.yaml")) for each in runs]
    found = {"preset": [str(config["preset"]) for config in configs]}
    for key in _keys(given):
        if not _is_section_of_all(configs, key):
            found[key] = [_value(config, words, key) for config, words in zip(configs, given, strict=True)]
    found["seed"] = [str(config["seed"]) for config in configs]
    axes = {key: values for key, values in found.items() if len(set(values)) > 1}
    students = [str(each.reported("student", "artifact") or name) for each, name in zip(runs, names, strict=True)]
    first: dict[tuple[str, ...], str] = {}
    for name, *told in zip(names, students, *axes.values(), strict=True):
        if (same := first.setdefault(tuple(told), name)) != name:
            raise SprigError(f"{same} and {name} are one run, in two folders: leave one of them out.")
    if len(set(zip(*axes.values(), strict=True))) < len(runs):
        axes[TELL_APART] = names
    return axes


def _is_section_of_all(configs: list[Any], key: str) -> bool:
    """Whether a group sets a section, and the section is the same in all runs, however each came by it."""
    sections = [config.get(key) for config in configs]
    return OmegaConf.is_config(sections[0]) and all(each == sections[0] for each in sections)


def _keys(given: Iterable[dict[str, str]]) -> list[str]:
    every = dict.fromkeys(key for words in given for key in words)
    return [key for key in every if key not in (*PRESETS, "seed") and is_material(key) and not key.startswith("hydra")]


def _value(config: Any, words: dict[str, str], key: str) -> str:
    """From the configuration, which has the value that a run was not given; a group has no value there."""
    name = re.sub(r"[@/].*", "", key)
    value = OmegaConf.select(config, name) if name == key else None
    return words.get(key, UNSET) if value is None or OmegaConf.is_config(value) else str(value)
