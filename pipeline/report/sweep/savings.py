"""What a sweep's savings show: a point for each run and each way of counting, the published figures, and how savings
change with the budget."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np

from pipeline.evaluation.savings import Saving
from pipeline.report.sweep.between import BUDGET, Comparison, comparisons
from pipeline.report.sweep.runs import SAVINGS, Cell, Kind, Run, Sweep

REACHED, BOUND, INFINITE = "reached", "a bound: not reached", "no finite value: reached before training"
AT_LEAST = "at least: reached at the smallest budget"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Point:
    """A run's saving, counted in one of the ways of SAVINGS; `value` is None where it is not finite."""

    kind: Kind
    budget: int  # training tokens
    cell: str
    setting: str  # the cell's values on all axes but the budget's
    seed: int
    value: float | None
    state: str


@dataclass(frozen=True)
class Fit:
    """Saving against budget in one setting: for each seed a straight line in the logarithms of both."""

    kind: Kind
    setting: str
    budgets: tuple[int, int]  # the smallest and the largest that were fitted
    lines: list[tuple[float, float]]  # of each seed: log saving at budget 1, and its slope over log budget

    def saving(self, budget: float) -> float:
        """The geometric mean over seeds."""
        return math.exp(mean(self._at(budget)))

    def interval(self, budget: float) -> tuple[float, float] | None:
        """Of the mean over seeds, by Student's t; None with one seed."""
        return interval(self._at(budget))

    @property
    def per_doubling(self) -> float:
        """The factor by which a budget twice as large changes the saving."""
        return math.exp(mean(self._slopes))

    @property
    def per_doubling_interval(self) -> tuple[float, float] | None:
        return interval(self._slopes)

    def _at(self, budget: float) -> list[float]:
        return [level + slope * math.log(budget) for level, slope in self.lines]

    @property
    def _slopes(self) -> list[float]:
        return [slope * math.log(2) for _, slope in self.lines]


def interval(logarithms: list[float]) -> tuple[float, float] | None:
    """Bounds of the exponential of a mean, at CONFIDENCE."""
    count = len(logarithms)
    if count < 2:
        return None
    from scipy import stats  # imported here: it takes a second, and few runs need it

    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * stdev(logarithms) / math.sqrt(count)
    return math.exp(mean(logarithms) - half), math.exp(mean(logarithms) + half)


def compared(sweep: Sweep) -> Iterator[tuple[Cell, Run, Saving]]:
    """Every run that has a control, with its cell and what it saves."""
    for cell in sweep.cells:
        for run in cell.runs:
            if (found := sweep.saving(run)) is not None:
                yield cell, run, found[1]


def points(sweep: Sweep) -> list[Point]:
    """In the order of SAVINGS; of a sweep of budgets over random weights, those between its budgets."""
    if between := comparisons(sweep):
        return [_between(sweep, each, kind) for kind in BETWEEN for each in between]
    return [
        Point(
            kind,
            run.student["tokens"],
            sweep.name_of(cell),
            _setting(sweep, cell),
            run.summary["seed"],
            saving[kind],
            _state(saving, kind),
        )
        for kind in SAVINGS
        for cell, run, saving in compared(sweep)
    ]


BETWEEN: tuple[Kind, Kind] = ("tokens", "total_flops")  # of SAVINGS


def _between(sweep: Sweep, found: Comparison, kind: Kind) -> Point:
    axes = [axis for axis in sweep.axes if axis != BUDGET]
    setting = " ".join(f"{axis}={value}" for axis, value in zip(axes, found.setting, strict=True))
    reach = found.tokens if kind == "tokens" else found.total_flops
    state = {"": REACHED, "< ": BOUND, "> ": AT_LEAST}[reach.bound]
    return Point(kind, found.budget, setting, setting, found.seed, reach.value, state)


def _setting(sweep: Sweep, cell: Cell) -> str:
    pairs = zip(sweep.axes, cell.values, strict=True)
    return " ".join(f"{axis}={value}" for axis, value in pairs if axis != BUDGET) or sweep.name


def _state(saving: Saving, kind: Kind) -> str:
    if saving[kind] is None:
        return INFINITE
    return BOUND if saving["reached"] == "not reached" else REACHED


def fits(sweep: Sweep) -> list[Fit]:
    """For each setting and way of counting that has a seed with several budgets. Bounds and what has no finite value
    are left out."""
    seeds: dict[tuple[Kind, str], dict[int, list[tuple[int, float]]]] = {}
    for point in points(sweep):
        if point.state == REACHED and point.value is not None:
            of_setting = seeds.setdefault((point.kind, point.setting), {})
            of_setting.setdefault(point.seed, []).append((point.budget, point.value))
    found = []
    for (kind, setting), by_seed in seeds.items():
        fitted = [each for each in by_seed.values() if len({budget for budget, _ in each}) > 1]
        if fitted:
            budgets = [budget for each in fitted for budget, _ in each]
            lines = [_line(each) for each in fitted]
            found.append(Fit(kind, setting, (min(budgets), max(budgets)), lines))
    return found


def _line(values: list[tuple[int, float]]) -> tuple[float, float]:
    """Least squares in the logarithms of budget and saving."""
    budgets, savings = np.log(np.array(values, dtype=float)).T
    slope, level = np.polyfit(budgets, savings, 1)
    return float(level), float(slope)


def published(sweep: Sweep) -> list[tuple[int | None, float]]:
    """(budget, how many times fewer FLOPs): the budget None where it is not public."""
    found: list[tuple[int | None, float]] = []
    for entry in sweep.published:
        if "fewer_flops" in entry:
            budgets: list[int | None] = [int(each) for each in entry["where"].get(BUDGET, [])] or [None]
            found += [(budget, entry["fewer_flops"]) for budget in budgets]
    return found


def over_budgets(sweep: Sweep) -> bool:
    """Whether there are several budgets to show savings over."""
    budgets = {point.budget for point in points(sweep)} | {budget for budget, _ in published(sweep) if budget}
    return len(budgets) > 1


def ceiling(sweep: Sweep) -> float:
    """Where what has no finite value is drawn, above all others."""
    finite = [point.value for point in points(sweep) if point.value is not None]
    return 1.5 * max([1.0, *finite, *(factor for _, factor in published(sweep))])
