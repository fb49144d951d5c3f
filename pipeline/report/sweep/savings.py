"""What a sweep's plots of savings show: a point for each run and each way of counting, and the published figures."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.report.sweep.runs import SAVINGS, Cell, Run, Sweep

REACHED, BOUND, INFINITE = "reached", "a bound: not reached", "no finite value: reached before training"
BUDGET = "distill.tokens"


@dataclass(frozen=True)
class Point:
    """A run's saving, counted in one of the ways of SAVINGS; `value` is None where it is not finite."""

    kind: str
    budget: int  # training tokens
    cell: str
    value: float | None
    state: str


def compared(sweep: Sweep) -> Iterator[tuple[Cell, Run, dict]]:
    """Every run that has a control, with its cell and what it saves."""
    for cell in sweep.cells:
        for run in cell.runs:
            if (found := sweep.saving(run)) is not None:
                yield cell, run, found[1]


def points(sweep: Sweep) -> list[Point]:
    """In the order of SAVINGS."""
    return [
        Point(kind, run.student["tokens"], sweep.name_of(cell), saving[kind], _state(saving, kind))
        for kind in SAVINGS
        for cell, run, saving in compared(sweep)
    ]


def _state(saving: dict, kind: str) -> str:
    if saving[kind] is None:
        return INFINITE
    return BOUND if saving["reached"] == "not reached" else REACHED


def published(sweep: Sweep) -> list[tuple[int | None, float]]:
    """(budget, how many times fewer FLOPs): the budget None where it is not public."""
    found = []
    for entry in (each for each in sweep.published if "fewer_flops" in each):
        found += [(budget and int(budget), entry["fewer_flops"]) for budget in entry["where"].get(BUDGET, [None])]
    return found


def over_budgets(sweep: Sweep) -> bool:
    """Whether there are several budgets to show savings over."""
    budgets = {point.budget for point in points(sweep)} | {budget for budget, _ in published(sweep) if budget}
    return len(budgets) > 1


def ceiling(sweep: Sweep) -> float:
    """Where what has no finite value is drawn, above all others."""
    finite = [point.value for point in points(sweep) if point.value is not None]
    return 1.5 * max([1.0, *finite, *(factor for _, factor in published(sweep))])
