"""The study in a report: how each fitness ranks sub-networks as training does, in a table and in scatter plots."""

from pathlib import Path

import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from pipeline.evaluation.correlation import COEFFICIENTS
from pipeline.report import figures, plots
from pipeline.stages.study import POINTS, REACHED

PLOT = "study"
TITLE = "Which fitness predicts training"
HEADER = ["fitness", "among", "n", "Spearman", "Kendall"]
ORIGINS = ("searched", "random")
COLOURS = {"searched": "search", "random": "random_search"}  # as those of a search and its baseline
LOSS = "loss reached, nats a token"


def table(study: dict) -> tuple[str, list[str], list[list[str]], str]:
    """Title, header, rows, and what the figures are."""
    body = [
        [label(found["fitness"]), found["among"], str(found["n"]), *(_interval(found[name]) for name in COEFFICIENTS)]
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
    astray = sum(point[REACHED] is None for point in study["points"])
    return TITLE, HEADER, body, note + (f" {astray} trainings went astray: they rank last." if astray else "")


def label(fitness: str) -> str:
    """What a fitness is called on axes and in tables."""
    untrained = {"perplexity": "perplexity, untrained", "kl": "KL to the teacher, untrained"}
    return untrained.get(fitness) or f"loss after {int(fitness.removeprefix('short-')):,} tokens"


def _interval(found: dict) -> str:
    if found["low"] is None:
        return "none: all are equal"
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _fitnesses(study: dict) -> list[str]:
    return list(dict.fromkeys(found["fitness"] for found in study["correlations"]))


def _drawn(study: dict, fitness: str, origin: str) -> tuple[list[float], list[float], list[str]]:
    """Fitness, loss reached and sub-network of the points that can be drawn."""
    points = [each for each in study["points"] if each["from"] == origin and None not in (each[fitness], each[REACHED])]
    return tuple([each[key] for each in points] for key in (fitness, REACHED, "subnetwork"))


def _is_wide(study: dict, fitness: str) -> bool:
    """Whether the fitness is drawn on a logarithmic axis, which below a decade may have no tick."""
    values = [each[fitness] for each in study["points"] if each[fitness] is not None]
    return bool(values) and max(values) >= 10 * min(values) > 0


def draw(folder: Path, summary: dict) -> list[str]:
    """Writes the scatter plots as PNG and SVG, where there is a study; the name for the page."""
    if "study" not in summary:
        return []
    study, shown = summary["study"], _fitnesses(summary["study"])

    def scatter(figure: Figure) -> None:
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for fitness, axes in zip(shown, panels, strict=True):
            _panel(axes, study, fitness)
        panels[0].set_ylabel(LOSS)
        panels[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))

    plots.save(folder / PLOT, scatter, columns=len(shown))
    return [f"{PLOT}.png"]


def _panel(axes: Axes, study: dict, fitness: str) -> None:
    for origin in ORIGINS:
        values, reached, _ = _drawn(study, fitness, origin)
        axes.scatter(values, reached, s=16, alpha=0.7, color=plots.COLOURS[COLOURS[origin]], linewidths=0, label=origin)
    axes.set(xlabel=label(fitness), xscale="log" if _is_wide(study, fitness) else "linear")


def figure(study: dict) -> go.Figure:
    """The scatter plots of report.html, side by side."""
    shown = _fitnesses(study)
    drawn = make_subplots(1, len(shown), shared_yaxes=True, horizontal_spacing=0.03)
    drawn.update_layout(**figures.LAYOUT)
    for column, fitness in enumerate(shown, start=1):
        for origin in ORIGINS:
            values, reached, names = _drawn(study, fitness, origin)
            drawn.add_scatter(
                x=values,
                y=reached,
                text=names,
                name=origin,
                legendgroup=origin,
                showlegend=column == 1,
                mode="markers",
                marker={"color": figures.COLOURS[COLOURS[origin]], "size": 8},
                hovertemplate="%{text}: %{x:,.2f}, reached %{y:.3f}<extra></extra>",
                row=1,
                col=column,
            )
        kind = {"type": "log", "dtick": "D2"} if _is_wide(study, fitness) else {}
        drawn.update_xaxes(title=label(fitness), tickformat=",~r", zeroline=False, fixedrange=True, col=column, **kind)
    drawn.update_yaxes(zeroline=False, fixedrange=True, automargin=True)
    drawn.update_yaxes(title=LOSS, col=1)
    return drawn
