"""The report of a sweep: sweep.md with its tables and plots, and every number as CSV, from the runs' folders alone.

Made again from the same runs, every file has the same bytes.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean, stdev

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from pipeline.artifacts import write_atomically
from pipeline.composition import CONF
from pipeline.stages import sweep_html, sweep_plots
from pipeline.stages.page import markdown_table
from pipeline.stages.sweep_runs import SAVINGS, Cell, Run, Sweep, numbers, read

PAGE, RUNS, CURVES = "sweep.md", "runs.csv", "curves.csv"
PERPLEXITY = """Perplexity is exp(mean nats a token) on the same validation blocks for all, as mean ± standard deviation
over seeds; the best of the cells that differ on the first axis alone is bold. Total FLOPs are order,
search, teacher and student; random weights are charged only their training. The last column reads all
curves at the smallest total of the sweep, which is before the end of the others' schedules."""
RULE = """The target is the control's final perplexity; a saving is the control's cost over the cost at which the
student first is at or below the target (log perplexity linear in tokens between two points, token 0
included). The teacher's FLOPs are on both sides, order and search on the student's alone. `no finite
value`: the target was reached before training. `<`: it was not reached, and this is the bound. A run's
control is its own; where it has none, it is the sweep's run from random weights with the same seed and
the same values on all other axes."""


def report(folder: Path) -> None:
    """Writes sweep.md, the CSV files and the plots into a sweep's folder, and shows the table.

    Raises:
        SprigError: see pipeline.stages.sweep_runs.read.
    """
    sweep = read(folder)
    published = _published(sweep)
    plots = sweep_plots.draw(folder, sweep)
    header, rows = _cells(sweep, published)
    write_atomically(folder / RUNS, _csv(_run_lines(sweep)))
    write_atomically(folder / CURVES, _csv(_curve_lines(sweep)))
    tables = _tables(sweep, header, rows)
    write_atomically(folder / PAGE, _page(sweep, tables, plots))
    sweep_html.write(folder, sweep, _sentence(sweep), tables, _facts(sweep))
    shown = [place for place, name in enumerate(header) if name in (*sweep.axes, "seeds", "perplexity", "published")]
    table = Table(*(header[place] for place in shown), title=sweep.name)
    for row in rows:
        table.add_row(*(row[place].replace("**", "") for place in shown))
    Console().print(table)


def _tables(sweep: Sweep, header: list[str], rows: list[list[str]]) -> list[sweep_html.Table]:
    """Title, header, rows, and what the figures are."""
    tables = [("", header, rows, PERPLEXITY)]
    if savings := _savings(sweep):
        head = [*sweep.axes, "seed", "control", "target", *(f"saving: {title}" for title in SAVINGS.values())]
        tables.append(("Savings", head, savings, RULE))
    if sweep.errors:
        failed = [[job, _one_line(error.splitlines()[-1])] for job, error in sweep.errors.items()]
        tables.append(("Without a result", ["job", "last words"], failed, ""))
    return tables


def _page(sweep: Sweep, tables: list[sweep_html.Table], plots: dict[str, str]) -> str:
    parts = [f"# {sweep.name}", _sentence(sweep)]
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
        ["command", f"`{_one_line(' '.join(sweep.command))}`"],
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


def _cells(sweep: Sweep, published: dict[Cell, str]) -> tuple[list[str], list[list[str]]]:
    header = [*sweep.axes, "seeds", "parameters", "untrained", "perplexity", "tokens", "total FLOPs", "at equal FLOPs"]
    best = _best(sweep)
    rows = []
    for cell in sweep.cells:
        rows.append([*cell.values, *(_results(sweep, cell, cell.values in best) if cell.runs else _without(cell))])
        if published:
            rows[-1].append(published.get(cell.values, ""))
    return [*header, "published"] if published else header, rows


def _results(sweep: Sweep, cell: Cell, best: bool) -> list[str]:
    def over_seeds(value: Callable[[Run], float], form: str) -> str:
        return _spread([value(run) for run in cell.runs], form)

    final = over_seeds(lambda run: run.student["final_perplexity"], ",.2f")
    equal = [run.nll_at_flops(sweep.cheapest) for run in cell.runs]
    return [
        ", ".join([str(len(cell.runs)), *_lacking(cell)]),
        over_seeds(lambda run: run.student["parameters"], ",.0f"),
        over_seeds(lambda run: run.student["untrained_perplexity"], ",.2f"),
        f"**{final}**" if best else final,
        over_seeds(lambda run: run.student["tokens"], ",.0f"),
        over_seeds(lambda run: run.total_flops, ".3g"),
        "not begun" if None in equal else _spread([math.exp(nll) for nll in equal], ",.2f"),
    ]


def _without(cell: Cell) -> list[str]:
    return [", ".join(_lacking(cell)) or "missing", *[""] * 6]


def _lacking(cell: Cell) -> list[str]:
    return [f"{count} {state}" for state, count in sorted(Counter(cell.states).items())]


def _best(sweep: Sweep) -> set[tuple[str, ...]]:
    """Of the cells that differ on the first axis alone, the one with the lowest perplexity; none has no rival."""
    groups: dict[tuple[str, ...], list[tuple[float, tuple[str, ...]]]] = {}
    for cell in sweep.cells:
        if cell.runs:
            final = mean(run.student["final_perplexity"] for run in cell.runs)
            groups.setdefault(cell.values[1:], []).append((final, cell.values))
    return {min(group)[1] for group in groups.values() if len(group) > 1}


def _spread(values: list[float], form: str) -> str:
    if len(set(values)) == 1:
        return format(values[0], form)
    return f"{format(mean(values), form)} ± {format(stdev(values), form)}"


def _savings(sweep: Sweep) -> list[list[str]]:
    """A row for each run that has a control, and the mean over seeds where every one has a finite value."""
    rows = []
    for cell in sweep.cells:
        compared = [(run, *found) for run in cell.runs if (found := sweep.saving(run)) is not None]
        for run, control, saving in compared:
            values = [_saving(saving, key) for key in SAVINGS]
            rows.append(
                [*cell.values, str(run.summary["seed"]), control, f"{saving['target_perplexity']:,.2f}", *values]
            )
        if len(compared) > 1:
            means = [_mean_saving([saving for *_, saving in compared], key) for key in SAVINGS]
            rows.append([*cell.values, "all", "", "", *means])
    return rows


def _saving(saving: dict, key: str) -> str:
    if saving[key] is None:
        return "no finite value"
    return f"{'< ' if saving['reached'] == 'not reached' else ''}{saving[key]:.2f}x"


def _mean_saving(savings: list[dict], key: str) -> str:
    if any(saving[key] is None or saving["reached"] == "not reached" for saving in savings):
        return ""
    return _spread([saving[key] for saving in savings], ".2f") + "x"


def _published(sweep: Sweep) -> dict[tuple[str, ...], str]:
    """What the paper says of a cell, by the cell's values; see conf/published.yaml."""
    preset = sweep.runs[0].summary["preset"]
    known = [each for each in OmegaConf.load(CONF / "published.yaml") if each.preset == preset]
    said = {}
    for cell in sweep.cells:
        named = dict(zip(sweep.axes, cell.values, strict=True))
        says = [each.says for each in known if all(named.get(axis) in values for axis, values in each.where.items())]
        if says:
            said[cell.values] = "; ".join(says)
    return said


def _run_lines(sweep: Sweep) -> Iterable[dict]:
    for cell in sweep.cells:
        axes = dict(zip(sweep.axes, cell.values, strict=True))
        for run in cell.runs:
            yield axes | {"run": run.id, "state": "completed"} | dict(numbers(sweep, run))
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


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
