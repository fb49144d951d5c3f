"""The figures of a sweep's report."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pipeline.report import plots as run_plots
from pipeline.report.canvas import (
    COLOURS,
    INK,
    OUTLINE,
    PALETTE,
    Plot,
    counted,
    legend,
    logarithmic,
    rows,
    scaled,
    scientific,
    short,
    titled,
)
from pipeline.report.schema import Anatomy, neurons, queries
from pipeline.report.sweep import ends
from pipeline.report.sweep import savings as sweep_savings
from pipeline.report.sweep.runs import INITS, SAVINGS, Cell, Sweep
from pipeline.report.sweep.savings import Fit, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEST = "best"
OF_INITS = {"searched": COLOURS["student"], "random_weights": COLOURS["control"], "random_subnetwork": "#e08214"}
LINES = {"student": "-", "control": ":"}
MARKERS = {
    sweep_savings.REACHED: "o",
    sweep_savings.BOUND: "o",
    sweep_savings.AT_LEAST: "^",
    sweep_savings.INFINITE: "^",
}


def of(sweep: Sweep) -> list[Plot]:
    """Those that the sweep has numbers for."""
    shown = [cell for cell in sweep.cells if cell.runs]
    panels = len(_distinct(_others, sweep, shown))
    height = 0.5 + 2.3 * panels
    plots = [
        Plot(
            "training",
            "Perplexity against training tokens",
            "Validation perplexity of every run over training tokens",
            partial(_training, sweep=sweep, cells=shown, over_flops=False),
            height,
        ),
        Plot(
            "flops",
            "Perplexity against total FLOPs",
            "Validation perplexity of every run over total FLOPs",
            partial(_training, sweep=sweep, cells=shown, over_flops=True),
            height,
        ),
        Plot(
            "final",
            "Perplexity after training",
            "Validation perplexity of every run after training, by setting",
            partial(_final, sweep=sweep, cells=shown),
            0.9 + 0.38 * len(shown),
        ),
    ]
    if ends.shown(sweep):
        says = "Perplexity after training over tokens and total FLOPs, by setting"
        plots.append(Plot("budgets", "Perplexity against the budget", says, partial(ends.draw, sweep=sweep), 5.4))
    if any(sweep_savings.compared(sweep)):
        says = "What every run saves over its control"
        plots.append(Plot("savings", "Savings", says, partial(savings, sweep=sweep), _savings_height(sweep)))
    known = [(_named(sweep, cell), sizes) for cell in shown if (sizes := cell.runs[0].summary.get("anatomy"))]
    if len(known) > 1:
        says = "The share of every teacher layer that the student of each setting keeps"
        height = 1.1 + 0.42 * len(known)
        plots.append(
            Plot(
                "anatomy",
                "What each setting keeps of the teacher's layers",
                says,
                partial(_anatomy, known=known),
                height,
            )
        )
    if sizes := sweep.best_run.summary.get("anatomy"):
        says = "Width of attention and MLP in every layer of the best student, inside the teacher's"
        height = run_plots.anatomy_height(sizes)
        plots.append(Plot(BEST, "Anatomy of the best student", says, partial(run_plots.anatomy, sizes=sizes), height))
    return plots


def _key(sweep: Sweep) -> int:
    """The axis whose values are coloured: where the student begins, or else the first."""
    return next((place for place, axis in enumerate(sweep.axes) if axis in INITS), 0)


def _value(sweep: Sweep, cell: Cell) -> str:
    return cell.values[_key(sweep)] if cell.values else sweep.name


def _others(sweep: Sweep, cell: Cell) -> str:
    """The cell's values on the other axes."""
    pairs = [f"{axis}={value}" for axis, value in zip(sweep.axes, cell.values, strict=True)]
    return ", ".join(pair for place, pair in enumerate(pairs) if place != _key(sweep))


def _named(sweep: Sweep, cell: Cell) -> str:
    """The cell's values alone: the axes are the same for all."""
    return ", ".join(cell.values) or sweep.name


def _distinct(of: Callable[[Sweep, Cell], str], sweep: Sweep, cells: list[Cell]) -> list[str]:
    return list(dict.fromkeys(of(sweep, cell) for cell in cells))


def _colours(sweep: Sweep, cells: list[Cell]) -> dict[str, str]:
    values = _distinct(_value, sweep, cells)
    return {value: OF_INITS.get(value, PALETTE[place % len(PALETTE)]) for place, value in enumerate(values)}


def _training(figure: Figure, sweep: Sweep, cells: list[Cell], over_flops: bool) -> None:
    """A panel for each combination of the other axes, a colour for each value of the first."""
    colours, names = _colours(sweep, cells), _distinct(_others, sweep, cells)
    panels = dict(zip(names, figure.subplots(len(names), 1, squeeze=False, sharex=True)[:, 0], strict=True))
    for cell in cells:
        axes, value = panels[_others(sweep, cell)], _value(sweep, cell)
        for run in cell.runs:
            for model, curve in run.trainings.items():
                tokens, flops, perplexity = zip(*curve, strict=True)
                label = value if model == "student" else f"{value}, control"
                costs = flops if over_flops else tokens
                axes.plot(costs, perplexity, LINES[model], color=colours[value], linewidth=1, label=label)
            if (teacher := run.summary["teacher"]["perplexity"]) is not None:
                axes.axhline(teacher, color=OUTLINE, linewidth=0.8, linestyle="--", label="teacher")
    for name, axes in panels.items():
        titled(axes, name)
        axes.set_ylabel("validation perplexity")
        scaled(axes)
    axes.set_xlabel("total FLOPs, those before training included" if over_flops else "training tokens")
    counted(axes.xaxis, scientific if over_flops else short)
    legend(figure)


def _final(figure: Figure, sweep: Sweep, cells: list[Cell]) -> None:
    """A row for each setting: a dot for each run, a tick at their mean."""
    axes, colours = figure.subplots(), _colours(sweep, cells)
    for row, cell in enumerate(cells):
        final, colour = [run.perplexity for run in cell.runs], colours[_value(sweep, cell)]
        axes.scatter(final, [row] * len(final), s=18, alpha=0.7, color=colour, linewidths=0)
        axes.vlines(float(np.mean(final)), row - 0.3, row + 0.3, color=colour)
    rows(axes, [_named(sweep, cell) for cell in cells])
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.set_xlabel("perplexity (line: mean)")
    low, high = axes.dataLim.intervalx
    if high >= 10 * low:
        logarithmic(axes, "x")
    else:
        counted(axes.xaxis)


def _savings_height(sweep: Sweep) -> float:
    if sweep_savings.over_budgets(sweep):
        return 1.0 + 2.4 * len(_by_setting(sweep))
    return 1.5 + 0.4 * len(_compared(sweep))


def _compared(sweep: Sweep) -> list[Cell]:
    return [cell for cell in sweep.cells if any(each is cell for each, *_ in sweep_savings.compared(sweep))]


def _by_setting(sweep: Sweep) -> dict[str, list[Point]]:
    """The points of each setting but for the budget."""
    found: dict[str, list[Point]] = {}
    for point in sweep_savings.points(sweep):
        found.setdefault(point.setting, []).append(point)
    return found


def savings(figure: Figure, sweep: Sweep) -> None:
    """A dot for each run's saving: over the budget, a panel for each setting, where there are several budgets; else a
    row for each setting."""
    if sweep_savings.over_budgets(sweep):
        settings = _by_setting(sweep)
        panels = figure.subplots(len(settings), 1, squeeze=False, sharex=True, sharey=True)[:, 0].tolist()
        for axes, (setting, points) in zip(panels, settings.items(), strict=True):
            _over_budgets(axes, sweep, setting, points)
        panels[-1].set_xlabel("training tokens of the budget")
        logarithmic(panels[-1], "x")
    else:
        panels = [figure.subplots()]
        _in_rows(panels[0], sweep)
    for name in {point.state: None for point in sweep_savings.points(sweep)}:
        if name != sweep_savings.REACHED:
            face = OUTLINE if name == sweep_savings.INFINITE else "none"
            label = name.partition(":")[0]
            panels[0].plot([], [], MARKERS[name], color=OUTLINE, markerfacecolor=face, label=label)
    legend(figure)


PUBLISHED, PUBLISHED_LINE = "published, FLOPs", "published, budget not public"


def _over_budgets(axes: Axes, sweep: Sweep, setting: str, points: list[Point]) -> None:
    """With the fitted lines, and the interval of the one over total FLOPs."""
    for place, (kind, title) in enumerate(SAVINGS.items()):
        aside = 1.04 ** (place - (len(SAVINGS) - 1) / 2)
        for point in points:
            if point.kind == kind:
                _dot(axes, point, PALETTE[place], point.budget * aside, _height(sweep, point))
        if any(point.kind == kind for point in points):
            axes.plot([], [], "o", color=PALETTE[place], label=title)
    for fit in sweep_savings.fits(sweep):
        if fit.setting == setting:
            _fitted(axes, fit)
    for budget, factor in sweep_savings.published(sweep):
        if budget is None:
            axes.axhline(factor, color=INK, linewidth=0.8, linestyle=":", label=PUBLISHED_LINE)
        else:
            axes.scatter(budget, factor, marker="*", s=90, color=INK, zorder=3, label=PUBLISHED)
    axes.axhline(1, color=OUTLINE, linewidth=0.8, linestyle="--")
    titled(axes, setting)
    axes.set_ylabel("saving")
    logarithmic(axes, "y", _times)


def _fitted(axes: Axes, fit: Fit) -> None:
    colour, budgets = PALETTE[list(SAVINGS).index(fit.kind)], np.geomspace(*fit.budgets, 30)
    axes.plot(budgets, [fit.saving(each) for each in budgets], color=colour, linewidth=1)
    bounds = [fit.interval(each) for each in budgets]
    known = [each for each in bounds if each is not None]
    if fit.kind == "total_flops" and len(known) == len(bounds):
        low, high = zip(*known, strict=True)
        label = f"its {sweep_savings.CONFIDENCE:.0%} interval"
        axes.fill_between(budgets, low, high, color=colour, alpha=0.15, linewidth=0, label=label)


def _in_rows(axes: Axes, sweep: Sweep) -> None:
    cells = _compared(sweep)
    places = {sweep.name_of(cell): row for row, cell in enumerate(cells)}
    for place, (kind, title) in enumerate(SAVINGS.items()):
        for point in sweep_savings.points(sweep):
            if point.kind == kind:
                row = places[point.cell] + 0.18 * (place - (len(SAVINGS) - 1) / 2)
                _dot(axes, point, PALETTE[place], _height(sweep, point), row)
        axes.plot([], [], "o", color=PALETTE[place], label=title)
    for _, factor in sweep_savings.published(sweep):
        axes.axvline(factor, color=INK, linewidth=0.8, linestyle=":", label=PUBLISHED_LINE)
    axes.axvline(1, color=OUTLINE, linewidth=0.8, linestyle="--")
    rows(axes, [_named(sweep, cell) for cell in cells])
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.set_xlabel("saving")
    logarithmic(axes, "x", _times)


def _times(value: float, _: object) -> str:
    return f"{value:,.4g}x"


def _height(sweep: Sweep, point: Point) -> float:
    return sweep_savings.ceiling(sweep) if point.value is None else point.value


def _dot(axes: Axes, point: Point, colour: str, x: float, y: float) -> None:
    face = "none" if point.state in (sweep_savings.BOUND, sweep_savings.AT_LEAST) else colour
    axes.scatter(x, y, s=20, marker=MARKERS[point.state], edgecolors=colour, facecolors=face, gid=point.state)


def _anatomy(figure: Figure, known: list[tuple[str, Anatomy]]) -> None:
    """A row for each setting's first run: what share of each teacher layer's MLP and attention its student has."""
    depth = max(sizes["n_layer"][0] for _, sizes in known)
    shares = {name: np.full((len(known), depth), math.nan) for name in ("MLP", "attention")}
    for row, (_, sizes) in enumerate(known):
        whole = sizes["teacher"]
        for gene in sizes["student"]:
            shares["MLP"][row, gene["layer"]] = neurons(gene) / neurons(whole)
            shares["attention"][row, gene["layer"]] = queries(gene) / queries(whole)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (title, values) in zip(panels, shares.items(), strict=True):
        drawn = axes.pcolormesh(values, vmin=0, vmax=1, cmap="viridis", edgecolors="none")
        axes.set_xticks(np.arange(0, depth, max(1, depth // 4)) + 0.5, np.arange(0, depth, max(1, depth // 4)))
        axes.set(xlabel="teacher's layer", title=f"share of {title}")
    rows(panels[0], [name for name, _ in known], first=0.5)
    panels[0].invert_yaxis()
    figure.colorbar(drawn, ax=panels, location="bottom", label="blank: layer left out", aspect=40)
