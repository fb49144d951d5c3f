"""The plots of a sweep, as SVG and PNG, the same bytes for the same numbers."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from pipeline.models import checkpoint
from pipeline.stages.plots import COLOURS, save
from pipeline.stages.sweep_runs import INITS, SAVINGS, Cell, Sweep
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
    if any(sweep.saving(run) for run in sweep.runs):
        titles["savings"] = "Saving against budget"
        save(folder / "savings", lambda figure: _savings(figure.subplots(), sweep, shown))
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
            tokens, nll = np.array(run.curve).T
            style = {"color": colours[_value(sweep, cell)], "linewidth": 1, "label": _value(sweep, cell)}
            column[0].plot(tokens, np.exp(nll), **style)
            column[1].plot(run.start_flops + run.flops_per_token * tokens, np.exp(nll), **style)
            for axes in column:
                axes.axhline(run.summary["teacher"]["perplexity"], color="#999999", linewidth=0.8, linestyle="--")
    for panel, (above, below) in zip(panels, grid.T, strict=True):
        above.set(title=panel, xlabel="training tokens", yscale="log")
        below.set(xlabel="total FLOPs (order and search included)", yscale="log")
    for row in grid:
        row[0].set_ylabel("validation perplexity (dashed: teacher)")
    lines = {line.get_label(): line for axes in grid.flat for line in axes.get_lines()}
    figure.legend(
        [lines[value] for value in colours], list(colours), loc="outside lower center", ncols=4, frameon=False
    )


def _final(axes: Axes, sweep: Sweep, cells: list[Cell]) -> None:
    """A dot for each run; the other axes side by side."""
    colours, groups = _colours(sweep, cells), _distinct(_others, sweep, cells)
    step = 0.7 / len(colours)
    for cell in cells:
        place = groups.index(_others(sweep, cell)) + (list(colours).index(_value(sweep, cell)) + 0.5) * step - 0.35
        final = [run.student["final_perplexity"] for run in cell.runs]
        axes.scatter([place] * len(final), final, s=18, alpha=0.7, color=colours[_value(sweep, cell)], linewidths=0)
        axes.hlines(np.mean(final), place - step / 3, place + step / 3, color=colours[_value(sweep, cell)])
    axes.set_xticks(range(len(groups)), groups, fontsize=7)
    axes.set(ylabel="validation perplexity after training", yscale="log")
    for value, colour in colours.items():
        axes.plot([], [], "o", color=colour, label=value)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _savings(axes: Axes, sweep: Sweep, cells: list[Cell]) -> None:
    """A dot for each run's saving, hollow where the control was not reached; a line through the means of the others."""
    for place, (key, title) in enumerate(SAVINGS.items()):
        finite: dict[int, list[float]] = {}
        for run in (run for cell in cells for run in cell.runs):
            if (found := sweep.saving(run)) is None or (saving := found[1][key]) is None:
                continue
            reached = found[1]["reached"] != "not reached"
            if reached:
                finite.setdefault(run.student["tokens"], []).append(saving)
            face = PALETTE[place] if reached else "none"
            axes.scatter(run.student["tokens"], saving, s=20, edgecolors=PALETTE[place], facecolors=face)
        means = [(budget, np.mean(values)) for budget, values in sorted(finite.items())]
        axes.plot(*np.array(means).reshape(-1, 2).T, color=PALETTE[place], label=title)
    axes.axhline(1, color="#999999", linewidth=0.8, linestyle="--")
    axes.set(xlabel="training tokens of the budget", ylabel="saving (hollow: a bound)", xscale="log", yscale="log")
    axes.legend(frameon=False, fontsize=8)


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
