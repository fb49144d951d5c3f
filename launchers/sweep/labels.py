"""Whether the labels of a sweep's jobs say what is run: what is refused, and what is named."""

import logging
from collections.abc import Iterable, Sequence

from omegaconf import OmegaConf

from launchers.sweep.jobs import Job, label
from pipeline.command_line.composition import PRESETS, composed
from pipeline.config import keys, unread
from pipeline.errors import SprigError
from pipeline.progress import counted

log = logging.getLogger("sprig")


def refuse_idle_axes(jobs: list[Job], axes: dict[str, list[str]]) -> None:
    """Values that give the same runs, whatever the other axes say, would be told apart by their labels alone."""
    for key, values in axes.items():
        runs: dict[str, set[tuple]] = {}  # of each value: the other overrides and the run
        for job in jobs:
            rest = tuple(override for override in job.overrides if not override.startswith(f"{key}="))
            runs.setdefault(job.named[key], set()).add((rest, job.id))
        alike: dict[frozenset, list[str]] = {}
        for value, found in runs.items():
            alike.setdefault(frozenset(found), []).append(value)
        axis = f"Axis {key}={','.join(values)}"
        if len(runs) > 1 and len(alike) == 1:
            raise SprigError(
                f"{axis} changes no result of {jobs[0].context.config.preset}: its values all give the same run. Leave "
                "it out, or choose a setting that uses it."
            )
        if same := next((each for each in alike.values() if len(each) > 1), None):
            raise SprigError(
                f"{axis}: {' and '.join(same)} give the same run. Keep one of them, or leave out the override that "
                "replaces what sets them apart."
            )


def refuse_replaced(overrides: Sequence[str], axes: dict[str, list[str]]) -> None:
    """A word that replaces what the values of an axis stand for makes their labels untrue: distill.init=searched beside
    init=random_weights,searched. A number may be replaced, such as a search's generations for all strategies.

    `overrides`: of any job.
    """
    groups = [axis for axis in axes if axis not in PRESETS and ((key := keys.find(axis)) is None or key.is_section)]
    for word in overrides:
        name, _, value = word.partition("=")
        known = keys.find(name)
        if known is None or not known.is_kind:
            continue
        for axis in groups:
            others = [each for each in overrides if each != word and not each.startswith(f"{axis}=")]
            found = (OmegaConf.select(composed([*others, f"{axis}={each}"]), name) for each in axes[axis])
            replaced = list(dict.fromkeys(str(each) for each in found))
            if len(replaced) > 1:
                raise SprigError(
                    f"{name}={value} replaces what the axis {axis}={','.join(axes[axis])} chooses, {name}="
                    f"{' and '.join(replaced)}, so its labels would be untrue: leave out one of the two."
                )


def name_merged(jobs: list[Job], axes: Iterable[str]) -> None:
    if merged := [(label(other, axes), job.label(axes)) for job in jobs for other in job.same]:
        log.info(
            "%d combinations are %s: %s is the same as %s%s",
            len(jobs) + len(merged),
            counted(len(jobs), "run"),
            *merged[0],
            f", and {len(merged) - 1} more" if len(merged) > 1 else "",
        )


def warn_of_unread(jobs: Sequence[Job], axes: Iterable[str]) -> None:
    """Says once, before the first job, which overrides that all jobs share have no effect in any of them."""
    for word in jobs[0].overrides:
        if word.partition("=")[0].lstrip("+") in axes:
            continue
        found = [unread(job.context.config, [word]) for job in jobs]
        if all(found):
            log.warning(found[0][0])
