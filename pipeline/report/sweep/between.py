"""What a start saves over random weights, read between the budgets of a sweep.

Every budget is a training whose schedule has ended, and the ends of trainings are compared with one another. To compare
an ended training with one on its way would understate the saving: under wsd the loss falls in the decay.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from pipeline.report.sweep.runs import INITS, RANDOM_WEIGHTS, Run, Sweep

BUDGET = "distill.tokens"
Training = tuple[tuple[str, ...], int]  # what its cell's values are on all axes but the budget's, and its seed
Bound = Literal["", "< ", "> "]  # a figure, or an upper or a lower bound of it


@dataclass(frozen=True)
class Reach:
    """How many times less the start costs; all of its budgets are above the target (<), or at or below it (>)."""

    value: float
    bound: Bound


@dataclass(frozen=True)
class Comparison:
    """A start against random weights that were trained on `budget` tokens; losses in nats per token."""

    setting: tuple[str, ...]  # the cell's values on all axes but the budget's
    seed: int
    budget: int
    control: float
    at_equal_tokens: float | None
    at_equal_flops: float | None  # in total; None outside the start's own totals
    tokens: Reach
    total_flops: Reach


def comparisons(sweep: Sweep) -> list[Comparison]:
    """By setting, budget and seed. None without an axis of budgets, or without one of starts."""
    if BUDGET not in sweep.axes or not set(INITS) & set(sweep.axes) or sweep.of_random_teachers:
        return []
    all_trainings, found = trainings(sweep), []
    controls = {
        (_without_start(sweep, setting), seed): runs
        for (setting, seed), runs in all_trainings.items()
        if runs[0].student["init"] == RANDOM_WEIGHTS
    }
    for (setting, seed), runs in all_trainings.items():
        if runs[0].student["init"] != RANDOM_WEIGHTS and len(runs) > 1:
            others = controls.get((_without_start(sweep, setting), seed), [])
            found += [_compared(setting, seed, runs, each) for each in others]
    places = {values: place for place, values in enumerate(dict.fromkeys(each.setting for each in found))}
    return sorted(found, key=lambda each: (places[each.setting], each.budget, each.seed))


def trainings(sweep: Sweep) -> dict[Training, list[Run]]:
    """The runs that differ in their budget alone, by setting and seed, small budgets first."""
    place = list(sweep.axes).index(BUDGET)
    found: dict[Training, list[Run]] = {}
    for cell in sweep.cells:
        setting = cell.values[:place] + cell.values[place + 1 :]
        for run in cell.runs:
            found.setdefault((setting, run.summary["seed"]), []).append(run)
    return {key: sorted(runs, key=lambda run: run.student["tokens"]) for key, runs in found.items()}


def _without_start(sweep: Sweep, setting: tuple[str, ...]) -> tuple[str, ...]:
    axes = [axis for axis in sweep.axes if axis != BUDGET]
    return tuple(value for axis, value in zip(axes, setting, strict=True) if axis not in INITS)


def _compared(setting: tuple[str, ...], seed: int, runs: list[Run], control: Run) -> Comparison:
    budgets = [run.student["tokens"] for run in runs]
    flops = [run.total_flops for run in runs]
    losses = [math.log(run.perplexity) for run in runs]
    target, budget = math.log(control.perplexity), control.student["tokens"]
    reached, bound = _reached(budgets, losses, target)
    equal = control.total_flops
    return Comparison(
        setting,
        seed,
        budget,
        target,
        _loss_at(budgets, losses, budget) if budgets[0] <= budget <= budgets[-1] else None,
        loss_at_flops(runs, equal),
        Reach(budget / reached, bound),
        Reach(equal / float(np.interp(reached, budgets, flops)), bound),
    )


def loss_at_flops(runs: list[Run], total: float) -> float | None:
    """Where a training of these total FLOPs would end, of runs that differ in their budget alone, small budgets first;
    None outside their totals."""
    budgets, flops = [run.student["tokens"] for run in runs], [run.total_flops for run in runs]
    if not flops[0] <= total <= flops[-1]:
        return None
    losses = [math.log(run.perplexity) for run in runs]
    return _loss_at(budgets, losses, float(np.interp(total, flops, budgets)))


def _loss_at(budgets: list[int], losses: list[float], tokens: float) -> float:
    """Linear in the logarithm of the budget."""
    return float(np.interp(math.log(tokens), np.log(budgets), losses))


def _reached(budgets: list[int], losses: list[float], target: float) -> tuple[float, Bound]:
    """The smallest budget that ends at or below the target, between two budgets linear in the budget's logarithm."""
    if losses[0] <= target:
        return budgets[0], "> "
    for (low, before), (high, after) in pairwise(zip(budgets, losses, strict=True)):
        if after <= target:
            share = (before - target) / (before - after)
            return math.exp(math.log(low) + share * (math.log(high) - math.log(low))), ""
    return budgets[-1], "< "
