"""The report of a sweep, from the runs' folders alone: sweep.md and sweep.html, and every number as CSV.

Made again from the same runs, every file has the same bytes.
"""

import logging
import shlex
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table as Shown

from pipeline.artifacts import write_atomically
from pipeline.layout import near
from pipeline.report import canvas, marks
from pipeline.report.canvas import Plot
from pipeline.report.markdown import samples
from pipeline.report.marks import Code, Link
from pipeline.report.sweep import html, plots, sentences, spreadsheet, tables
from pipeline.report.sweep.record import is_underway
from pipeline.report.sweep.runs import Run, Sweep, read
from pipeline.report.tables import Table
from pipeline.terminal import cell

PAGE, RUNS, CURVES = "sweep.md", "runs.csv", "curves.csv"

log = logging.getLogger("sprig")


def report(folder: Path, underway: bool | None = None) -> None:
    """Writes sweep.md, sweep.html, the CSV files and the figures into a sweep's folder, and shows the table.

    Jobs that have begun and not ended are running if the sweep is `underway`; None: if a process holds its folder.

    Raises:
        SprigError: see pipeline.report.sweep.runs.read.
    """
    sweep = read(folder, is_underway(folder) if underway is None else underway)
    drawn, shown, facts = plots.of(sweep), tables.tables(sweep), _facts(sweep)
    canvas.write(drawn, folder)
    write_atomically(folder / RUNS, spreadsheet.runs(sweep))
    write_atomically(folder / CURVES, spreadsheet.curves(sweep))
    write_atomically(folder / PAGE, _page(sweep, shown, drawn, facts))
    html.write(folder, sweep, shown, drawn, facts)
    Console().print(in_terminal(sweep, shown[0]))
    log.info("%s", sentences.headline(sweep))
    log.info("The report is %s and %s", near(folder) / PAGE, html.PAGE)


def in_terminal(sweep: Sweep, cells: Table) -> Shown:
    """What tells settings apart, and what they reached: the values of the axes are never cut short."""
    _, header, rows, _ = cells
    width = len(sweep.axes)
    reached = "perplexity" if sweep.is_comparable else "bits per byte"
    others = [place for place, name in enumerate(header) if name in ("seeds", reached, "published")]
    shown = Shown(title=cell(sweep.name))
    shown.add_column(cell("\n".join(sweep.axes) or "sweep"), no_wrap=True)
    for place in others:
        shown.add_column(header[place])
    for row in rows:
        shown.add_row(*map(cell, ("\n".join(row[:width]) or sweep.name, *(row[place] for place in others))))
    return shown


def _page(sweep: Sweep, shown: list[Table], drawn: list[Plot], facts: list[list[str]]) -> str:
    first, *others = shown
    parts = [
        f"# {marks.escaped(sweep.name)}",
        marks.escaped(sentences.headline(sweep)),
        sentences.finished(sweep),
        *_table(first),
    ]
    if (evaluation := html.evaluation(sweep.best_run)) is not None:
        parts += samples(evaluation, "One text, continued by the best run's models")
    for table in others:
        parts += _table(table)
    for plot in drawn:
        parts += [f"## {plot.title}", f"![{plot.says}]({plot.file})"]
    parts += ["## How it was made", marks.table(["", ""], facts)]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> list[str]:
    title, header, rows, note = table
    heading = [f"## {title}"] if title else []
    return [*heading, marks.table(header, rows), *([marks.escaped(note)] if note else [])]


def _facts(sweep: Sweep) -> list[list[str]]:
    def of_all(value: Callable[[Run], str]) -> str:
        return ", ".join(sorted({value(run) for run in sweep.runs}))

    epochs = [run.student["tokens"] / run.train_tokens for run in sweep.runs]
    fixed = " ".join(f"{key}={value}" for key, value in sweep.fixed.items())
    return [
        ["command", Code(shlex.join(sweep.command))],
        *([["the same in all runs", Code(fixed)]] if fixed else []),
        ["preset", of_all(lambda run: run.summary["preset"])],
        ["teacher", of_all(lambda run: run.summary["teacher"]["name"])],
        [
            "text",
            of_all(
                lambda run: (
                    f"{run.summary['data']['name']}, {run.train_tokens:,} training tokens in blocks of "
                    f"{run.summary['data']['block_size']}"
                )
            ),
        ],
        ["epochs over it", " to ".join(dict.fromkeys(f"{edge(epochs):.3g}" for edge in (min, max)))],
        ["training tokens of a student", of_all(lambda run: f"{run.student['tokens']:,}")],
        ["learning rates", of_all(lambda run: f"{run.student['init']} {run.student['lr']:g}")],
        [
            "seeds, precision",
            f"{of_all(lambda run: str(run.summary['seed']))}; {of_all(lambda run: run.summary['precision'])}",
        ],
        ["runs", " ".join(run.id for run in sweep.runs)],
        ["every number, by run", Link(RUNS)],
        ["every validation", Link(CURVES)],
    ]
