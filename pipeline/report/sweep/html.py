"""sweep.html: a sweep as one self-contained page; its links lead to the pages of its runs."""

import json
import os
from pathlib import Path

from pipeline.artifacts import write_atomically
from pipeline.report import html, tables
from pipeline.report.canvas import Plot
from pipeline.report.schema import Evaluation
from pipeline.report.sweep import plots, sentences
from pipeline.report.sweep.runs import Cell, Run, Sweep
from pipeline.report.tables import Table
from pipeline.stages import evaluate

PAGE = "sweep.html"


def write(folder: Path, sweep: Sweep, shown: list[Table], drawn: list[Plot], facts: list[list[str]]) -> None:
    """`drawn` are the figures, which lie in the folder."""
    best = sweep.best_run
    anatomy = best.summary.get("anatomy")  # absent in summaries of older runs
    page = html.render(
        "sweep.html.jinja",
        title=sweep.name,
        headline=sentences.headline(sweep),
        detail=sentences.finished(sweep),
        caution=not sweep.has_winners or any(each.states for each in sweep.cells),
        first=shown[0],
        tables=shown[1:],
        plots=[html.drawn(plot, folder) for plot in drawn],
        notes={plots.BEST: tables.anatomy_sentence(anatomy)} if anatomy else {},
        evaluation=evaluation(best),
        facts=facts,
        runs=[_run(folder, sweep, cell, run) for cell in sweep.cells for run in cell.runs],
    )
    write_atomically(folder / PAGE, page)


def evaluation(run: Run) -> Evaluation | None:
    """The text that the models of a run continue."""
    path = run.folder / "artifacts/evaluation" / evaluate.RESULT
    if not path.exists():
        return None
    found: Evaluation = json.loads(path.read_text(encoding="utf-8"))
    return found


def _run(folder: Path, sweep: Sweep, cell: Cell, run: Run) -> dict[str, str]:
    return {
        "folder": os.path.relpath(run.folder, folder),
        "id": run.id,
        "name": f"{sweep.name_of(cell)}, seed {run.summary['seed']}",
        "perplexity": f"{run.perplexity:,.2f}",
    }
