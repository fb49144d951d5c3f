"""Whether a search was worth its cost, on sweeps made by hand."""

from pathlib import Path

import pytest
from hand import job, make_run, make_sweep

from pipeline.report.sweep import searched
from pipeline.report.sweep.runs import read

# A student costs 3 FLOPs per token, after 10 for the order and 40 for each candidate.
# It is: evaluated, tokens, nats above 1.0.
Student = tuple[int, int, float]


def verdicts(folder: Path, axes: dict[str, list[str]], students: dict[tuple[str, ...], list[Student]]):
    """Of a sweep with these students in each cell, one a seed: the table's rows, without the axes' values."""
    jobs = []
    for values, seeds in students.items():
        for seed, (evaluated, tokens, add) in enumerate(seeds):
            make_run(folder / f"hand/job{len(jobs)}", "searched", seed, add=add, tokens=tokens, evaluated=evaluated)
            jobs.append(job(len(jobs), **dict(zip([*axes, "seed"], [*values, str(seed)], strict=True))))
    sweep = read(make_sweep(folder, axes | {"seed": ["0", "1"]}, jobs), underway=False)
    return [row[len(axes) :] for row in searched.rows(sweep)]


AXES = {"search": ["evolution", "importance", "uniform"]}


@pytest.mark.parametrize(
    ("evolution", "difference", "says"),
    [
        ([(3, 100, 0.3), (3, 100, 0.4)], "+0.150 ± 0.071", "no"),  # higher, and dearer
        ([(3, 100, 0.1), (3, 100, 0.1)], "-0.100", "undecided"),  # lower, but dearer: what 80 FLOPs buy is not known
        ([(3, 60, 0.1), (3, 60, 0.1)], "-0.100", "yes"),  # lower, and cheaper
        ([(3, 60, 0.3), (3, 60, 0.3)], "+0.100", "undecided"),  # higher, but cheaper
        ([(3, 60, 0.1), (3, 60, 0.3)], "+0.000 ± 0.141", "undecided"),  # the seeds disagree
    ],
)
def test_against_the_best_choice_without_a_search(tmp_path, evolution, difference, says):
    chosen = {("importance",): [(1, 100, 0.2)] * 2, ("uniform",): [(1, 100, 0.5)] * 2}
    [row] = verdicts(tmp_path, AXES, {("evolution",): evolution} | chosen)
    tokens = evolution[0][1]
    more = (130 + 3 * tokens) / (50 + 3 * 100) - 1
    assert row == ["importance", "2", difference, f"{more:+.1%}", says]


@pytest.mark.parametrize(("candidates", "says"), [(3, "yes"), (6, "no"), (20, "undecided")])
def test_the_searchs_flops_are_worth_what_they_train_between_budgets(tmp_path, candidates, says):
    """At 0.1 nats lower: the rival loses 0.2 nats from 100 to 200 tokens, and 0.1 of them within 42 tokens."""
    axes = {"search": ["evolution", "importance"], "distill.tokens": ["100", "200"]}
    students = {("evolution", "100"): [(candidates, 100, 0.3)]}
    students |= {("importance", "100"): [(1, 100, 0.4)], ("importance", "200"): [(1, 200, 0.2)]}
    [row] = verdicts(tmp_path, axes, students)
    assert (row[0], row[2], row[4]) == ("importance", "-0.100", says)


def test_nothing_is_said_of_sweeps_that_do_not_tell(tmp_path):
    alone = {("evolution",): [(3, 100, 0.1)]}
    assert verdicts(tmp_path / "alone", AXES, alone) == []
    other = {("a",): [(3, 100, 0.1)], ("b",): [(1, 100, 0.2)]}
    assert verdicts(tmp_path / "other", {"bin": ["a", "b"]}, other) == []
