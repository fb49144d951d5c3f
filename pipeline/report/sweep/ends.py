"""The figure of a sweep of budgets: where its trainings end, over tokens and over total FLOPs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.report.canvas import OUTLINE, PALETTE, legend, logarithmic, scientific, short
from pipeline.report.sweep.between import BUDGET, trainings
from pipeline.report.sweep.runs import Run, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def shown(sweep: Sweep) -> bool:
    """Whether there are several budgets of a setting."""
    return BUDGET in sweep.axes and any(len(runs) > 1 for runs in trainings(sweep).values())


def draw(figure: Figure, sweep: Sweep) -> None:
    """A dot for each run, and a line through the means over seeds, in a colour for each setting."""
    over_tokens, over_flops = figure.subplots(2, 1)
    for place, (name, runs) in enumerate(_by_name(sweep).items()):
        colour = PALETTE[place % len(PALETTE)]
        _line(over_tokens, runs, [run.student["tokens"] for run in runs], colour, name)
        _line(over_flops, runs, [run.total_flops for run in runs], colour, name)
    teachers = {run.summary["teacher"]["perplexity"] for run in sweep.runs} - {None}
    for axes, label, form in (
        (over_tokens, "training tokens", short),
        (over_flops, "total FLOPs, those before training included", scientific),
    ):
        for teacher in teachers:
            axes.axhline(teacher, color=OUTLINE, linewidth=0.8, linestyle="--", label="teacher")
        axes.set(xlabel=label, ylabel="perplexity after training")
        logarithmic(axes, "x", form)
        logarithmic(axes, "y")
    legend(figure)


def _by_name(sweep: Sweep) -> dict[str, list[Run]]:
    """The runs of each setting, named by the axes on which settings differ."""
    axes = [axis for axis in sweep.axes if axis != BUDGET]
    by_setting = trainings(sweep)
    settings = dict.fromkeys(setting for setting, _ in by_setting)
    differ = [place for place in range(len(axes)) if len({setting[place] for setting in settings}) > 1]
    found: dict[str, list[Run]] = {}
    for (setting, _), runs in by_setting.items():
        name = " ".join(f"{axes[place]}={setting[place]}" for place in differ) or sweep.name
        found.setdefault(name, []).extend(runs)
    return found


def _line(axes: Axes, runs: list[Run], costs: list[float], colour: str, name: str) -> None:
    perplexities = [run.perplexity for run in runs]
    axes.scatter(costs, perplexities, s=10, color=colour, alpha=0.7, linewidths=0)
    budgets = sorted({run.student["tokens"] for run in runs})
    members = [[place for place, run in enumerate(runs) if run.student["tokens"] == budget] for budget in budgets]
    means = [
        (np.mean([costs[place] for place in each]), np.mean([perplexities[place] for place in each]))
        for each in members
    ]
    axes.plot(*zip(*means, strict=True), color=colour, linewidth=1, label=name)
