"""Whether a search was worth its cost: its students against those whose shape was chosen without one."""

import math
from dataclasses import dataclass
from statistics import mean

from pipeline.config import Init
from pipeline.report.sweep.between import BUDGET, loss_at_flops, trainings
from pipeline.report.sweep.runs import Cell, Run, Sweep
from pipeline.report.tables import spread

CHOICES = ("search", "search.strategy", "selection")  # axes that say how the shape is chosen
TITLE = "Is the search worth its cost?"
RULE = """Yes, if its students end lower, at equal total FLOPs and on every seed, than those of the best choice
without a search; otherwise use that choice. A row compares the two after the same tokens: the difference in nats
per token, below 0 where the search is ahead, and how many more total FLOPs the search takes. Undecided: the seeds
disagree, or the sweep has no second budget, from which to judge what those FLOPs would have trained."""


@dataclass(frozen=True)
class Pair:
    """Two students with the same seed; losses in nats per token."""

    searched: Run
    chosen: Run  # without a search
    chosen_at_equal_flops: float | None  # where the sweep has budgets on both sides of the search's total

    @property
    def gap(self) -> float:
        """How much higher the search's loss is after as many tokens."""
        return math.log(self.searched.perplexity / self.chosen.perplexity)

    @property
    def worth_it(self) -> bool | None:
        """Whether the search ends lower at equal total FLOPs; None where the sweep does not tell."""
        if self.chosen_at_equal_flops is not None:
            return math.log(self.searched.perplexity) < self.chosen_at_equal_flops
        lower, dearer = self.gap < 0, self.searched.total_flops > self.chosen.total_flops
        return None if lower == dearer else lower


@dataclass(frozen=True)
class Verdict:
    cell: Cell  # of the search
    rival: Cell  # the lowest without one
    pairs: list[Pair]

    @property
    def says(self) -> str:
        found = {pair.worth_it for pair in self.pairs}
        return "yes" if found == {True} else "no" if found == {False} else "undecided"


def header(sweep: Sweep) -> list[str]:
    return [*sweep.axes, "best without a search", "seeds", "difference", "more FLOPs", "worth its cost"]


def rows(sweep: Sweep) -> list[list[str]]:
    """A row for each cell of a search."""
    return [
        [
            *each.cell.values,
            " ".join(chosen for chosen, own in zip(each.rival.values, each.cell.values, strict=True) if chosen != own),
            str(len(each.pairs)),
            spread([pair.gap for pair in each.pairs], "+.3f"),
            f"{mean(pair.searched.total_flops / pair.chosen.total_flops - 1 for pair in each.pairs):+.1%}",
            each.says,
        ]
        for each in verdicts(sweep)
    ]


def verdicts(sweep: Sweep) -> list[Verdict]:
    """One for each cell of a search that has a rival without one, alike on all other axes and with seeds in common."""
    if not sweep.has_winners or not set(CHOICES) & set(sweep.axes):
        return []
    budgets = _budgets(sweep)
    cells = [cell for cell in sweep.cells if cell.runs and cell.runs[0].student["init"] == Init.searched]
    chosen = [cell for cell in cells if not _is_of_a_search(cell)]
    found = []
    for cell in filter(_is_of_a_search, cells):
        rivals = [
            Verdict(cell, other, pairs)
            for other in chosen
            if _others(sweep, other) == _others(sweep, cell) and (pairs := _pairs(cell, other, budgets))
        ]
        if rivals:
            found.append(min(rivals, key=lambda each: each.rival.perplexity))
    return found


def _is_of_a_search(cell: Cell) -> bool:
    """Whether candidates were compared for its students."""
    return ((cell.runs[0].summary.get("search") or {}).get("evaluated") or 1) > 1


def _others(sweep: Sweep, cell: Cell) -> list[str]:
    return [value for axis, value in zip(sweep.axes, cell.values, strict=True) if axis not in CHOICES]


def _budgets(sweep: Sweep) -> dict[str, list[Run]]:
    """By a run's id: the runs that differ from it in their budget alone, small budgets first."""
    if BUDGET not in sweep.axes:
        return {run.id: [run] for run in sweep.runs}
    return {run.id: runs for runs in trainings(sweep).values() for run in runs}


def _pairs(cell: Cell, rival: Cell, budgets: dict[str, list[Run]]) -> list[Pair]:
    by_seed = {run.summary["seed"]: run for run in rival.runs}
    return [
        Pair(run, other, loss_at_flops(budgets[other.id], run.total_flops))
        for run in cell.runs
        if (other := by_seed.get(run.summary["seed"])) is not None
    ]
