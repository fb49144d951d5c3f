"""Every number of a sweep as CSV: a line for each run, and one for each validation."""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.layout import COMPLETED
from pipeline.report.schema import trained_models
from pipeline.report.sweep.runs import Run, Sweep


def runs(sweep: Sweep) -> str:
    return _csv(_run_lines(sweep))


def curves(sweep: Sweep) -> str:
    return _csv(_curve_lines(sweep))


def _run_lines(sweep: Sweep) -> Iterator[dict[str, Any]]:
    for cell in sweep.cells:
        axes = sweep.values_of(cell)
        for run in cell.runs:
            # Where an axis and a number have one name, the axis' value stands, as in the rows without a result.
            yield axes | {"run": run.id, "state": COMPLETED} | dict(numbers(sweep, run)) | axes
        for state in cell.states:
            yield axes | {"state": state}


def _curve_lines(sweep: Sweep) -> Iterator[dict[str, Any]]:
    for run in sweep.runs:
        curves = {"student": run.curve, "control": run.control_curve or []}
        for role, model in trained_models(run.summary).items():
            for tokens, nll in curves[role]:
                share = tokens / model["tokens"]
                yield {
                    "run": run.id,
                    "model": role,
                    "tokens": tokens,
                    "nll": nll,
                    "student_flops": model["flops"]["student"] * share,
                    "teacher_flops": model["flops"]["teacher"] * share,
                }


def numbers(sweep: Sweep, run: Run) -> Iterator[tuple[str, object]]:
    """Every number of a run by name: what the sweep adds, then its summary, nested names joined by dots."""
    nll = run.nll_at_flops(sweep.cheapest)
    yield "total_flops", run.total_flops
    yield "epochs", run.student["tokens"] / run.train_tokens
    yield "nll_at_equal_flops", nll
    if (found := sweep.saving(run)) is not None:
        control, saving = found
        yield "saving.control", control
        yield from ((f"saving.{key}", value) for key, value in saving.items())
    yield from _flat({key: value for key, value in run.summary.items() if key != "saving"})


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _flat(each, f"{name}.{key}" if name else key)
    else:
        yield name, value


def _csv(lines: Iterable[dict[str, Any]]) -> str:
    lines = [{name: _safe(value) for name, value in line.items()} for line in lines]
    names = dict.fromkeys(name for line in lines for name in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _safe(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula, with an apostrophe before it; numbers stay."""
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
