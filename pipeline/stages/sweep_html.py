"""sweep.html: a sweep as one self-contained page; its links lead to the pages of its runs."""

import json
import os
import re
from math import exp
from pathlib import Path
from statistics import mean

import plotly.graph_objects as go
from markupsafe import Markup
from omegaconf import OmegaConf

from pipeline.artifacts import write_atomically
from pipeline.models import checkpoint
from pipeline.stages import evaluate, figures, html
from pipeline.stages.sweep_runs import Cell, Run, Sweep
from pipeline.subnetwork.value import LayerGenes, SubNetwork

PAGE = "sweep.html"
Table = tuple[str, list[str], list[list[str]], str]


def write(folder: Path, sweep: Sweep, detail: str, tables: list[Table], facts: list[list[str]]) -> None:
    """`detail` says what is finished; `tables` have title, header, rows and what the figures are."""
    cell = min((cell for cell in sweep.cells if cell.runs), key=_final)
    best = min(cell.runs, key=lambda run: run.student["final_perplexity"])
    evaluation = best.folder / "artifacts/evaluation" / evaluate.RESULT
    page = html.render_page(
        "sweep.html.jinja",
        title=sweep.name,
        headline=_headline(sweep, cell),
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


def _final(cell: Cell) -> float:
    return mean(run.student["final_perplexity"] for run in cell.runs)


def _name(sweep: Sweep, cell: Cell) -> str:
    return " ".join(f"{axis}={value}" for axis, value in zip(sweep.axes, cell.values, strict=True)) or sweep.name


def _headline(sweep: Sweep, best: Cell) -> str:
    runs, cells = f"{len(best.runs)} run{'s' * (len(best.runs) > 1)}", sum(bool(cell.runs) for cell in sweep.cells)
    return (
        f"The lowest validation perplexity of {cells} settings is {_final(best):,.2f}, the mean of {runs} with "
        f"{_name(sweep, best)}; the teacher stands at {best.runs[0].summary['teacher']['perplexity']:,.2f}."
    )


def _plots(sweep: Sweep) -> list[tuple[str, go.Figure]]:
    """Every run's validation over tokens and over all FLOPs, a colour for each setting."""
    cells = [cell for cell in sweep.cells if cell.runs]
    by_tokens = figures.log_plot("training tokens", "validation perplexity")
    by_flops = figures.log_plot("total FLOPs, order and search included", "validation perplexity")
    for place, cell in enumerate(cells):
        for number, run in enumerate(cell.runs):
            tokens = [at for at, _ in run.curve]
            style = {
                "y": [exp(nll) for _, nll in run.curve],
                "name": _name(sweep, cell),
                "legendgroup": str(place),
                "showlegend": number == 0,
                "line_color": figures.PALETTE[place % len(figures.PALETTE)],
                "mode": "lines+markers",
            }
            by_tokens.add_scatter(x=tokens, **style)
            by_flops.add_scatter(x=[run.start_flops + run.flops_per_token * at for at in tokens], **style)
    return [
        ("Perplexity against tokens", figures.scaled(by_tokens)),
        ("Perplexity against FLOPs", figures.scaled(by_flops)),
    ]


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
        "name": f"{_name(sweep, cell)}, seed {run.summary['seed']}",
        "perplexity": f"{run.student['final_perplexity']:,.2f}",
    }
