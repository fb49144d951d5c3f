"""What the jobs of a sweep ran with on every axis, also where their command does not name it.

The axes of a sweep may change from one command to the next. A job of an earlier command then has no value on a new
axis, but its run's folder tells which one it ran with; without that folder, the job's overrides do.
"""

from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.command_line.composition import Session, composed, session, without_hydra
from pipeline.command_line.overrides import given_by
from pipeline.config import Config, keys, to_objects, to_plain
from pipeline.errors import SprigError
from pipeline.recorded import OVERRIDES, recorded
from pipeline.report.sweep.record import JobRecord, SweepRecord

ABSENT = object()


def settled(folder: Path, found: SweepRecord) -> SweepRecord:
    """The record with the value of every job on every axis, as far as it is known, and one label per value: of 1 and
    1.0, the first."""
    if found.get("comparison"):  # made from the runs' configurations
        return found
    with session([]) as opened:
        labels = _Labels(opened)
        axes = {axis: [labels.of(axis, value) for value in values] for axis, values in found["axes"].items()}
        jobs = [_settled(folder, job, list(axes), labels) for job in found["jobs"]]
    for job in jobs:
        for axis in axes:
            axes[axis] += [each[axis] for each in (job["overrides"], *job.get("same", ())) if axis in each]
    once = {axis: list(dict.fromkeys(values)) for axis, values in axes.items()}
    return {**found, "axes": once, "jobs": jobs}


class _Labels:
    """Of the labels for one value, the one that came first."""

    def __init__(self, opened: Session):
        self.opened, self.first = opened, dict[tuple[str, str], str]()

    def of(self, axis: str, label: str) -> str:
        return self.first.setdefault((axis, self._read(axis, label)), label)

    def _read(self, axis: str, label: str) -> str:
        """As the configuration has it: 4_096 is 4096. A group's choice stays as it is."""
        try:
            value = self.opened.checker.values([f"{axis}={label}"])[axis]
            name, section = axis.rpartition(".")[2], keys.find(axis.rpartition(".")[0])
            config = OmegaConf.structured(section.hint if section else Config)
            config[name] = value
            return _text(config[name])
        except (SprigError, HydraException, OmegaConfBaseException, LookupError):
            return label


def _settled(folder: Path, job: JobRecord, axes: list[str], labels: _Labels) -> JobRecord:
    run = folder / job["folder"]

    def on_all(overrides: dict[str, str]) -> dict[str, str]:
        values = {axis: overrides[axis] if axis in overrides else _value(run, overrides, axis) for axis in axes}
        return overrides | {axis: labels.of(axis, value) for axis, value in values.items() if value is not None}

    made: JobRecord = {**job, "overrides": on_all(job["overrides"])}
    if "same" in job:
        made["same"] = [on_all(each) for each in job["same"]]
    return made


def _value(run: Path, overrides: dict[str, str], axis: str) -> str | None:
    """That of a run which was not given one; None if it is not known."""
    begun = (run / ".hydra").exists()  # and not removed since
    words = [f"{key}={value}" for key, value in overrides.items()]
    try:
        config = recorded(run / ".hydra/config.yaml") if begun else _plain(composed(words))
        key = keys.find(axis)
        if key is None or key.is_section:
            return _choice(recorded(run / ".hydra" / OVERRIDES) if begun else words, axis, config)
        value = OmegaConf.select(OmegaConf.create(config), axis, default=ABSENT)
        return None if value is ABSENT else _text(value)
    except (SprigError, HydraException, OmegaConfBaseException):
        return None


def _choice(words: list[str], group: str, config: dict[str, Any]) -> str | None:
    """A group's, which no configuration states: that of the run's command, or of its preset if the files still compose
    to the run's configuration."""
    given = given_by(words)
    if group in given:
        return given[group]
    with session(words) as opened:
        made = opened.compose()
        choice = made.hydra.runtime.choices.get(group)
        is_same = _plain(made) == config
    return str(choice) if is_same and choice is not None else None


def _plain(made: DictConfig) -> dict[str, Any]:
    plain: dict[str, Any] = to_plain(to_objects(without_hydra(made)))
    return plain


def _text(value: Any) -> str:
    """As it is written on a command line."""
    if OmegaConf.is_config(value):
        return f"[{','.join(map(_text, value))}]"
    if value is None:
        return "null"
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    return str(value).lower() if isinstance(value, bool) else str(value)
