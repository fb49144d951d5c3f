"""Savings between the budgets of a sweep, on hand-made runs: 3 FLOPs per token, 50 before the start's training."""

import math

import numpy as np
import pytest
from hand import CURVES, job, make_run, make_sweep
from matplotlib.figure import Figure

from pipeline.report.sweep import ends, savings, tables
from pipeline.report.sweep import plots as sweep_plots
from pipeline.report.sweep.report import report
from pipeline.report.sweep.runs import read


def row(folder, *starts):
    lines = (folder / "sweep.md").read_text().split("## Savings between budgets")[1].splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines]
    return next(each for each in cells if each[: len(starts)] == list(starts))


def made(tmp_path, seeds=(0,), **finals):
    """A sweep of starts that end at these losses at each budget; a seed adds nothing to the first one's."""
    jobs = []
    for init, by_budget in finals.items():
        for budget, loss in by_budget.items():
            for seed in seeds:
                folder, number = tmp_path / f"hand/job{len(jobs)}", len(jobs)
                make_run(folder, init, seed, tokens=budget, add=loss - CURVES[init][-1])
                jobs.append(job(number, init=init, seed=str(seed), **{"distill.tokens": str(budget)}))
    budgets = sorted({str(budget) for each in finals.values() for budget in each}, key=int)
    return make_sweep(tmp_path, {"init": list(finals), "distill.tokens": budgets, "seed": list(map(str, seeds))}, jobs)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_plots, "of", lambda sweep: [])
    folder = made(tmp_path, (0, 1), random_weights={100: 3.0, 400: 2.0}, searched={100: 2.5, 400: 1.5})
    report(folder)
    return folder


def test_the_ends_of_trainings_are_compared(folder):
    """The start ends at 2 nats after 200 tokens, between 100 and 400 in their logarithms."""
    equal = math.exp(2.5 - math.log(((1200 - 50) / 3) / 100) / math.log(4))
    assert row(folder, "searched", "400")[2:] == [
        "2",
        f"{math.exp(2):.2f}",
        f"{math.exp(1.5):.2f}",
        "2.00x [2.00, 2.00]",
        f"{equal:.2f}",
        f"{1200 / 650:.2f}x [{1200 / 650:.2f}, {1200 / 650:.2f}]",
        "2 of 2",
    ]


def test_what_no_budget_of_the_start_can_say_is_a_bound(folder):
    found = row(folder, "searched", "100")
    assert found[5] == "> 1.00x" and found[7] == f"> {300 / 350:.2f}x"
    assert found[6] == "outside its budgets"  # the control has 300 FLOPs, the start's first budget costs 350
    assert {point.state for point in savings.points(read(folder, False))} == {savings.REACHED, savings.AT_LEAST}


def test_a_start_that_ends_above_random_weights_has_an_upper_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_plots, "of", lambda sweep: [])
    folder = made(tmp_path, random_weights={100: 3.0, 400: 2.0}, searched={100: 3.5, 400: 2.5})
    report(folder)
    assert row(folder, "searched", "400")[5] == "< 1.00x" and row(folder, "searched", "400")[8] == "0 of 1"


def test_the_plot_shows_where_trainings_end(folder):
    figure = Figure()
    ends.draw(figure, read(folder, False))
    over_tokens, over_flops = figure.axes
    lines = {line.get_label(): line for line in over_flops.get_lines()}
    assert lines["init=searched"].get_xdata().tolist() == [350, 1250]
    assert np.allclose(np.log(lines["init=searched"].get_ydata()), [2.5, 1.5])
    assert {line.get_label(): line for line in over_tokens.get_lines()}["init=searched"].get_xdata().tolist() == [
        100,
        400,
    ]


def test_seeds_on_both_sides_are_a_range():
    assert tables._saved([tables.Reach(2.0, ""), tables.Reach(1.0, "< "), tables.Reach(4.0, "> ")]) == "1.00x to 4.00x"
    assert tables._saved([tables.Reach(2.0, ""), tables.Reach(3.0, "> ")]) == "> 2.00x"
