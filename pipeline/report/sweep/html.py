"""sweep.html: a sweep as one self-contained page; its links lead to the pages of its runs."""

import json
import os
import re
from pathlib import Path

import plotly.graph_objects as go
from markupsafe import Markup
from omegaconf import OmegaConf

from pipeline.artifacts import write_atomically
from pipeline.models import checkpoint
from pipeline.report import figures, html
from pipeline.report.sweep import savings as sweep_savings
from pipeline.report.sweep.runs import SAVINGS, Cell, Run, Sweep
from pipeline.report.sweep.tables import Table
from pipeline.stages import evaluate
from pipeline.subnetwork.value import LayerGenes, SubNetwork

PAGE = "sweep.html"
SYMBOLS = {
    sweep_savings.REACHED: "circle",
    sweep_savings.BOUND: "circle-open",
    sweep_savings.INFINITE: "triangle-up",
}
DASHES = {"student": "solid", "control": "dot"}


def write(folder: Path, sweep: Sweep, detail: str, tables: list[Table], facts: list[list[str]]) -> None:
    """`detail` says what is finished; `tables` have title, header, rows and what the figures are."""
    best = min(sweep.best.runs, key=lambda run: run.student["final_perplexity"])
    evaluation = best.folder / "artifacts/evaluation" / evaluate.RESULT
    page = html.render_page(
        "sweep.html.jinja",
        title=sweep.name,
        headline=sweep.headline,
        detail=detail,
        lacking=any(each.states or not each.runs for each in sweep.cells),
        tables=[
            (title, header, [[_cell(cell) for cell in row] for row in rows], _plain(note))
            for title, header, rows, note in tables
        ],
        plots=[(title, html.embed(plot, f"plot-{at}")) for at, (title, plot) in enumerate(_plots(sweep))],
        anatomy=_anatomy(best),
        evaluation=json.loads(evaluation.read_text(encoding="utf-8")) if evaluation.exists() else None,
        facts=[[name, _plain(value)] for name, value in facts],
        runs=[_run(folder, sweep, cell, run) for cell in sweep.cells for run in cell.runs],
    )
    write_atomically(folder / PAGE, page)


def _plain(text: str) -> str:
    """Without Markdown's marks."""
    return re.sub(r"\[(.+?)\]\(.+?\)", r"\1", text).replace("**", "").replace("`", "").replace("\\|", "|")


def _cell(text: str) -> str:
    return Markup("<b>{}</b>").format(_plain(text)) if text.startswith("**") else _plain(text)


def _plots(sweep: Sweep) -> list[tuple[str, go.Figure]]:
    """Every run's validation over tokens and over all FLOPs, a colour for each setting."""
    cells = [cell for cell in sweep.cells if cell.runs]
    by_tokens = figures.log_plot("training tokens", "validation perplexity")
    by_flops = figures.log_plot("total FLOPs, order and search included", "validation perplexity")
    for place, cell in enumerate(cells):
        for number, run in enumerate(cell.runs):
            for model, curve in run.trainings.items():
                tokens, flops, perplexity = zip(*curve, strict=True)
                style = {
                    "y": perplexity,
                    "name": sweep.name_of(cell) + (", control" if model == "control" else ""),
                    "legendgroup": f"{place} {model}",
                    "showlegend": number == 0,
                    "line": {"color": figures.PALETTE[place % len(figures.PALETTE)], "dash": DASHES[model]},
                    "mode": "lines+markers",
                }
                by_tokens.add_scatter(x=tokens, **style)
                by_flops.add_scatter(x=flops, **style)
    plots = [
        ("Perplexity against tokens", figures.scaled(by_tokens)),
        ("Perplexity against FLOPs", figures.scaled(by_flops)),
    ]
    return [*plots, ("Savings", _savings(sweep))] if any(sweep_savings.compared(sweep)) else plots


def _savings(sweep: Sweep) -> go.Figure:
    """Every run's savings, as sweep_plots draws them."""
    by_budget, ceiling = sweep_savings.over_budgets(sweep), sweep_savings.ceiling(sweep)
    figure = figures.log_plot("training tokens of the budget" if by_budget else "setting", "saving")
    figure.update_xaxes(type="log" if by_budget else "category")
    figure.update_yaxes(ticksuffix="x")
    for place, (kind, name) in enumerate(SAVINGS.items()):
        points = [point for point in sweep_savings.points(sweep) if point.kind == kind]
        figure.add_scatter(
            x=[point.budget if by_budget else point.cell.replace(" ", "<br>") for point in points],
            y=[point.value or ceiling for point in points],
            text=[point.state if point.value is None else f"{point.value:.2f}x, {point.state}" for point in points],
            name=name,
            mode="markers",
            marker={
                "color": figures.PALETTE[place],
                "size": 9,
                "symbol": [SYMBOLS[point.state] for point in points],
            },
            hovertemplate="%{text}",
        )
    for budget, factor in sweep_savings.published(sweep):
        name = f"published, {factor}x FLOPs"
        if budget is None:
            figure.add_hline(factor, line_dash="dot", annotation_text=f"{name}, budget not public")
        else:
            marker = {"symbol": "star", "size": 13, "color": figures.TEACHER}
            figure.add_scatter(x=[budget], y=[factor], name=name, mode="markers", marker=marker)
    figure.update_xaxes(automargin=True)
    return figures.scaled(figure)


def _anatomy(run: Run) -> tuple[str, str]:
    teacher = OmegaConf.load(run.folder / "artifacts/teacher" / checkpoint.CONFIG)
    path = run.folder / "artifacts/distilled_student" / checkpoint.SUBNETWORK
    sub = SubNetwork.from_dict(json.loads(path.read_text(encoding="utf-8")))
    groups, heads = teacher.n_query_groups, teacher.n_head // teacher.n_query_groups
    whole = LayerGenes(groups, heads, teacher.head_size, teacher.intermediate_size)
    return html.anatomy(whole, teacher.n_layer, teacher.n_embd, sub)


def _run(folder: Path, sweep: Sweep, cell: Cell, run: Run) -> dict:
    return {
        "folder": os.path.relpath(run.folder, folder),
        "id": run.id,
        "name": f"{sweep.name_of(cell)}, seed {run.summary['seed']}",
        "perplexity": f"{run.student['final_perplexity']:,.2f}",
    }
