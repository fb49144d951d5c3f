"""The study in a report: how each fitness ranks sub-networks as training does, in a table and in scatter plots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.report.canvas import COLOURS, Plot, counted, legend, logarithmic
from pipeline.report.schema import Coefficient, StudySummary
from pipeline.stages.measures import REACHED, RECOVERED
from pipeline.stages.study import POINTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Which fitness predicts training"
HEADER = ["fitness", "among", "n", "Spearman", "Kendall"]
ORIGINS = {"searched": COLOURS["search"], "random": COLOURS["random_search"]}
LOSS = "loss reached"


def table(study: StudySummary) -> tuple[str, list[str], list[list[str]], str]:
    """Title, header, rows, and what the figures are."""
    body = [
        [
            label(found["fitness"]),
            found["among"],
            str(found["n"]),
            _interval(found["spearman"]),
            _interval(found["kendall"]),
        ]
        for found in study["correlations"]
    ]
    note = (
        f"Rank correlation of each fitness with the loss on the validation blocks after {study['tokens']:,} tokens of "
        f"training, among {study['random']} sub-networks drawn from the bin and {study['searched']} candidates of the "
        f"search, from its best to its worst: 1 ranks them as training does, 0 says nothing. In brackets, the "
        f"{study['confidence']:.0%} interval of the percentile bootstrap over {study['resamples']:,} draws of "
        f"sub-networks. Fitness is on calibration blocks; a shorter training has a schedule of its own. The study took "
        f"{study['flops']:.3g} FLOPs. Every point: artifacts/study/{POINTS}."
    )
    diverged = sum(point[REACHED] is None for point in study["points"])
    return TITLE, HEADER, body, note + (f" {diverged} training runs diverged: they rank last." if diverged else "")


def label(fitness: str) -> str:
    """What a fitness is called on axes and in tables."""
    untrained = {
        "perplexity": "perplexity, untrained",
        "kl": "KL to the teacher, untrained",
        RECOVERED: "perplexity after recovery",
    }
    return untrained.get(fitness) or f"loss after {int(fitness.removeprefix('short-')):,} tokens"


def _interval(found: Coefficient) -> str:
    if found["low"] is None:
        return "none: all are equal"
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def plot(study: StudySummary) -> Plot:
    """A scatter plot for each fitness, one below the other."""
    fitnesses = list(dict.fromkeys(found["fitness"] for found in study["correlations"]))

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(fitnesses), 1, sharey=True, squeeze=False)[:, 0]
        for fitness, axes in zip(fitnesses, panels, strict=True):
            panel(axes, study, fitness)
        legend(figure)

    says = "The loss that sub-networks reach against each fitness"
    return Plot("study", TITLE, says, draw, height=0.3 + 2.1 * len(fitnesses))


def panel(axes: Axes, study: StudySummary, fitness: str) -> None:
    """The loss reached over one fitness; trainings that diverged are not drawn."""
    for origin, colour in ORIGINS.items():
        points = [each for each in study["points"] if each["from"] == origin and _is_drawn(each, fitness)]
        values, reached = ([each[key] for each in points] for key in (fitness, REACHED))
        axes.scatter(values, reached, s=16, alpha=0.8, color=colour, linewidths=0, label=origin)
    axes.set(xlabel=label(fitness), ylabel=LOSS)
    known = [each[fitness] for each in study["points"] if each[fitness] is not None]
    if known and max(known) >= 10 * min(known) > 0:  # within a decade a logarithmic axis may have no tick
        logarithmic(axes, "x")
    else:
        counted(axes.xaxis)


def _is_drawn(point: dict[str, Any], fitness: str) -> bool:
    return None not in (point[fitness], point[REACHED])
