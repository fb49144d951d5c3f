"""The report of a sweep: sweep.md with its tables and plots, and every number as CSV, from the runs' folders alone.

Made again from the same runs, every file has the same bytes.
"""

import csv
import io
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.artifacts import write_atomically
from pipeline.report.markdown import markdown_table
from pipeline.report.sweep import html as sweep_html
from pipeline.report.sweep import plots as sweep_plots
from pipeline.report.sweep import tables as sweep_tables
from pipeline.report.sweep.runs import Run, Sweep, numbers, read

PAGE, RUNS, CURVES = "sweep.md", "runs.csv", "curves.csv"

log = logging.getLogger("sprig")


def report(folder: Path) -> None:
    """Writes sweep.md, the CSV files and the plots into a sweep's folder, and shows the table.

    Raises:
        SprigError: see pipeline.report.sweep.runs.read.
    """
    sweep = read(folder)
    plots = sweep_plots.draw(folder, sweep)
    write_atomically(folder / RUNS, _csv(_run_lines(sweep)))
    write_atomically(folder / CURVES, _csv(_curve_lines(sweep)))
    tables = sweep_tables.tables(sweep)
    write_atomically(folder / PAGE, _page(sweep, tables, plots))
    sweep_html.write(folder, sweep, _sentence(sweep), tables, _facts(sweep))
    _, header, rows, _ = tables[0]
    shown = [place for place, name in enumerate(header) if name in (*sweep.axes, "seeds", "perplexity", "published")]
    table = Table(*(header[place] for place in shown), title=sweep.name)
    for row in rows:
        table.add_row(*(row[place].replace("**", "") for place in shown))
    Console().print(table)
    log.info("%s", sweep.headline)
    log.info("The report is %s and %s", folder / PAGE, sweep_html.PAGE)


def _page(sweep: Sweep, tables: list[sweep_tables.Table], plots: dict[str, str]) -> str:
    parts = [f"# {sweep.name}", sweep.headline, _sentence(sweep)]
    for title, header, rows, note in tables:
        parts += [f"## {title}"] * bool(title) + [markdown_table(header, rows)] + [note] * bool(note)
    parts += [f"![{title}]({name}.svg)" for name, title in plots.items()]
    parts += ["## How it was made", markdown_table(["", ""], _facts(sweep))]
    return "\n\n".join(parts) + "\n"


def _sentence(sweep: Sweep) -> str:
    lacking = [state for cell in sweep.cells for state in cell.states or ["missing"] if cell.states or not cell.runs]
    finished = f"{len(sweep.runs)} runs are finished"
    return f"{finished}, {len(lacking)} have no result." if lacking else f"{finished}: all."


def _facts(sweep: Sweep) -> list[list[str]]:
    def of_all(value: Callable[[Run], str]) -> str:
        return ", ".join(sorted({value(run) for run in sweep.runs}))

    epochs = [run.student["tokens"] / run.train_tokens for run in sweep.runs]
    return [
        ["command", f"`{sweep_tables.one_line(' '.join(sweep.command))}`"],
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
        ["epochs over it", f"{min(epochs):.3g} to {max(epochs):.3g}"],
        ["training tokens of a student", of_all(lambda run: f"{run.student['tokens']:,}")],
        ["learning rates", of_all(lambda run: f"{run.student['init']} {run.student['lr']:g}")],
        [
            "seeds, precision",
            f"{of_all(lambda run: str(run.summary['seed']))}; {of_all(lambda run: run.summary['precision'])}",
        ],
        ["runs", " ".join(f"`{run.id}`" for run in sweep.runs)],
        ["every number", f"[{RUNS}]({RUNS}), [{CURVES}]({CURVES})"],
    ]


def _run_lines(sweep: Sweep) -> Iterable[dict]:
    for cell in sweep.cells:
        axes = dict(zip(sweep.axes, cell.values, strict=True))
        for run in cell.runs:
            # Where an axis and a number have one name, the axis' value stands, as in the rows without a result.
            yield axes | {"run": run.id, "state": "completed"} | dict(numbers(sweep, run)) | axes
        for state in cell.states or ([] if cell.runs else ["missing"]):
            yield axes | {"state": state}


def _curve_lines(sweep: Sweep) -> Iterable[dict]:
    for run in sweep.runs:
        for role, curve in (("student", run.curve), ("control", run.control_curve or [])):
            model = run.summary[role]
            for tokens, nll in curve:
                spent = {key: each / model["tokens"] * tokens for key, each in model["flops"].items()}
                yield {"run": run.id, "model": role, "tokens": tokens, "nll": nll} | {
                    f"{key}_flops": value for key, value in spent.items()
                }


def _csv(lines: Iterable[dict]) -> str:
    lines = list(lines)
    names = dict.fromkeys(name for line in lines for name in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
