"""The plots of a sweep, as SVG and PNG, the same bytes for the same numbers."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from omegaconf import OmegaConf

from pipeline.models import checkpoint
from pipeline.report.plots import COLOURS, save
from pipeline.report.sweep import savings as sweep_savings
from pipeline.report.sweep.runs import INITS, SAVINGS, Cell, Sweep
from pipeline.subnetwork.value import SubNetwork

PALETTE = ("#1b7837", "#762a83", "#e08214", "#2166ac", "#b2182b", "#4d4d4d", "#80cdc1", "#c51b7d", "#8c510a")
OF_INITS = {"searched": COLOURS["student"], "random_weights": COLOURS["control"], "random_subnetwork": "#e08214"}


def draw(folder: Path, sweep: Sweep) -> dict[str, str]:
    """Writes the plots that the sweep has numbers for; {name: title}."""
    shown = [cell for cell in sweep.cells if cell.runs]
    titles = {"training": "Perplexity against tokens and FLOPs", "final": "Perplexity after training"}
    columns = len(_distinct(_others, sweep, shown))
    save(folder / "training", lambda figure: _training(figure, sweep, shown), columns, 2)
    save(folder / "final", lambda figure: _final(figure.subplots(), sweep, shown))
    if any(sweep_savings.compared(sweep)):
        titles["savings"] = "Savings"
        save(folder / "savings", lambda figure: _savings(figure.subplots(), sweep), 1.6)
    titles["anatomy"] = "What each winner keeps of the teacher's layers"
    save(folder / "anatomy", lambda figure: _anatomy(figure, shown), 2, 0.35 + 0.12 * len(shown))
    return titles


def _key(sweep: Sweep) -> int:
    """The axis whose values are coloured: where the student begins, or else the first."""
    return next((place for place, axis in enumerate(sweep.axes) if axis in INITS), 0)


def _value(sweep: Sweep, cell: Cell) -> str:
    return cell.values[_key(sweep)] if cell.values else sweep.name


def _others(sweep: Sweep, cell: Cell) -> str:
    """The cell's values on the other axes."""
    pairs = [f"{axis}={value}" for axis, value in zip(sweep.axes, cell.values, strict=True)]
    return "\n".join(pair for place, pair in enumerate(pairs) if place != _key(sweep))


def _distinct(of: Callable[[Sweep, Cell], str], sweep: Sweep, cells: list[Cell]) -> list[str]:
    return list(dict.fromkeys(of(sweep, cell) for cell in cells))


def _colours(sweep: Sweep, cells: list[Cell]) -> dict[str, str]:
    values = _distinct(_value, sweep, cells)
    return {value: OF_INITS.get(value, PALETTE[place % len(PALETTE)]) for place, value in enumerate(values)}


def _training(figure: Figure, sweep: Sweep, cells: list[Cell]) -> None:
    """A column for each combination of the other axes; the first row against tokens, the second against total FLOPs."""
    colours, panels = _colours(sweep, cells), _distinct(_others, sweep, cells)
    grid = figure.subplots(2, len(panels), squeeze=False, sharey="col")
    for cell in cells:
        column = grid[:, panels.index(_others(sweep, cell))]
        for run in cell.runs:
            for model, curve in run.trainings.items():
                label = _value(sweep, cell) if model == "student" else f"{_value(sweep, cell)}, control"
                style = {"color": colours[_value(sweep, cell)], "linewidth": 1, "label": label}
                tokens, flops, perplexity = zip(*curve, strict=True)
                for axes, cost in zip(column, (tokens, flops), strict=True):
                    axes.plot(cost, perplexity, linestyle="-" if model == "student" else ":", **style)
            for axes in column:
                axes.axhline(run.summary["teacher"]["perplexity"], color="#999999", linewidth=0.8, linestyle="--")
    for panel, (above, below) in zip(panels, grid.T, strict=True):
        above.set(title=panel, xlabel="training tokens")
        below.set(xlabel="total FLOPs (order and search included)")
        _perplexity(above)
        _perplexity(below)
    for row in grid:
        row[0].set_ylabel("validation perplexity (dashed: teacher)")
    lines = {line.get_label(): line for axes in grid.flat for line in axes.get_lines()}
    shown = [label for value in colours for label in (value, f"{value}, control") if label in lines]
    figure.legend([lines[label] for label in shown], shown, loc="outside lower center", ncols=4, frameon=False)


def _final(axes: Axes, sweep: Sweep, cells: list[Cell]) -> None:
    """A dot for each run; the other axes side by side."""
    colours, groups = _colours(sweep, cells), _distinct(_others, sweep, cells)
    step = 0.7 / len(colours)
    for cell in cells:
        place = groups.index(_others(sweep, cell)) + (list(colours).index(_value(sweep, cell)) + 0.5) * step - 0.35
        final = [run.student["final_perplexity"] for run in cell.runs]
        axes.scatter([place] * len(final), final, s=18, alpha=0.7, color=colours[_value(sweep, cell)], linewidths=0)
        axes.hlines(np.mean(final), place - step / 3, place + step / 3, color=colours[_value(sweep, cell)])
    axes.set_xticks(range(len(groups)) if any(groups) else [], groups if any(groups) else [], fontsize=7)
    axes.set_ylabel("validation perplexity after training")
    _perplexity(axes)
    for value, colour in colours.items():
        axes.plot([], [], "o", color=colour, label=value)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _savings(axes: Axes, sweep: Sweep) -> None:
    """A dot for each run's saving, over the budget where there are several, else by setting; a line through means."""
    by_budget, ceiling = sweep_savings.over_budgets(sweep), sweep_savings.ceiling(sweep)
    settings = list(dict.fromkeys(sweep.name_of(cell) for cell, *_ in sweep_savings.compared(sweep)))
    for place, (kind, title) in enumerate(SAVINGS.items()):
        aside, finite = place - (len(SAVINGS) - 1) / 2, {}
        for point in (each for each in sweep_savings.points(sweep) if each.kind == kind):
            at = point.budget * 1.04**aside if by_budget else settings.index(point.cell) + 0.15 * aside
            face = "none" if point.state == sweep_savings.BOUND else PALETTE[place]
            style = {"s": 20, "edgecolors": PALETTE[place], "facecolors": face}
            axes.scatter(at, point.value or ceiling, marker="o" if point.value else "^", **style)
            if point.state == sweep_savings.REACHED:
                finite.setdefault(at, []).append(point.value)
        means = [(at, np.mean(values)) for at, values in sorted(finite.items())] if by_budget else []
        axes.plot(*np.array(means).reshape(-1, 2).T, color=PALETTE[place])
        axes.plot([], [], "o", color=PALETTE[place], label=title)
    for budget, factor in sweep_savings.published(sweep):
        if budget is None:
            axes.axhline(factor, color="black", linewidth=0.8, linestyle=":")
        else:
            axes.scatter(budget, factor, marker="*", s=90, color="black", zorder=3)
    if sweep_savings.published(sweep):
        axes.plot([], [], "*", color="black", label="published, FLOPs\n(dotted: budget\nnot public)")
    axes.axhline(1, color="#999999", linewidth=0.8, linestyle="--")
    axes.set(ylabel="saving (hollow: a bound, ▲: no finite value)", yscale="log")
    if by_budget:
        axes.set(xlabel="training tokens of the budget", xscale="log")
        _plain(axes.xaxis, "{:,.5g}")
    else:
        axes.set_xticks(range(len(settings)), [each.replace(" ", "\n") for each in settings], fontsize=7)
    _plain(axes.yaxis, "{:,.4g}x")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _plain(axis: Axis, form: str) -> None:
    """A logarithmic axis without powers of ten, some ticks in every decade."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: form.format(value)))
    axis.set_minor_formatter(NullFormatter())


def _perplexity(axes: Axes) -> None:
    """Logarithmic, but linear within a decade, in which a logarithmic axis may have no tick."""
    low, high = axes.dataLim.intervaly
    axes.set_yscale("log" if high >= 10 * low else "linear")
    if high >= 10 * low:
        _plain(axes.yaxis, "{:,.5g}")


def _anatomy(figure: Figure, cells: list[Cell]) -> None:
    """A row for each cell's first run: what share of each teacher layer's MLP and attention its student has."""
    runs = [cell.runs[0] for cell in cells]
    teachers = [OmegaConf.load(run.folder / "artifacts/teacher/model_config.yaml") for run in runs]
    depth = max(teacher.n_layer for teacher in teachers)
    mlp, attention = (np.full((len(runs), depth), math.nan) for _ in range(2))
    names = []
    for row, (run, teacher, cell) in enumerate(zip(runs, teachers, cells, strict=True)):
        path = run.folder / "artifacts/distilled_student" / checkpoint.SUBNETWORK
        sub = SubNetwork.from_dict(json.loads(path.read_text(encoding="utf-8")))
        mlp[row, list(sub.layers)] = [genes.intermediate_size / teacher.intermediate_size for genes in sub.genes]
        width = teacher.n_head * teacher.head_size
        attention[row, list(sub.layers)] = [genes.n_head * genes.head_size / width for genes in sub.genes]
        names.append(f"{' '.join(cell.values)}: {sub.n_layer} of {teacher.n_layer} layers, width {sub.n_embd}")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, shares, title in zip(panels, (mlp, attention), ("MLP width", "attention width"), strict=True):
        drawn = axes.pcolormesh(shares, vmin=0, vmax=1, cmap="viridis", edgecolors="white", linewidth=0.5)
        axes.set_xticks(np.arange(0, depth, max(1, depth // 8)) + 0.5, np.arange(0, depth, max(1, depth // 8)))
        axes.set(xlabel="teacher's layer (white: left out)", title=f"share of the teacher's {title}")
    panels[0].set_yticks(np.arange(len(names)) + 0.5, names, fontsize=6)
    panels[0].invert_yaxis()
    figure.colorbar(drawn, ax=panels)
