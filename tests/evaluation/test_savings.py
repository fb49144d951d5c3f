"""Savings on curves made by hand, where the answer is known."""

import math
from dataclasses import replace

import pytest

from pipeline.evaluation.savings import Costs, equal_flops, over_flops, savings, tokens_to_reach

COSTS = Costs(order=50, search=250, student_per_token=2, control_per_token=2, teacher_per_token=1)
CONTROL = [(0, 10.0), (100, 6.0), (200, 4.0)]


def test_log_perplexity_is_interpolated_over_tokens():
    assert tokens_to_reach([(0, 8.0), (100, 4.0)], 5.0) == 75
    assert tokens_to_reach([(0, 8.0), (100, 4.0), (200, 2.0)], 4.0) == 100
    assert tokens_to_reach([(0, 8.0), (100, 9.0), (200, 3.0)], 6.0) == 150


def test_reached_in_training():
    saving = savings([(0, 8.0), (100, 0.0)], CONTROL, COSTS)
    assert saving["reached"] == "in training"
    assert saving["tokens"] == saving["student_flops"] == 4  # 200 tokens against 50
    assert saving["training_flops"] == 600 / (3 * 50)
    assert saving["total_flops"] == 600 / (50 + 250 + 3 * 50)
    assert saving["target_perplexity"] == pytest.approx(math.exp(4.0))


def test_a_control_of_another_shape_has_its_own_cost():
    costs = Costs(order=50, search=250, student_per_token=2, control_per_token=3, teacher_per_token=1)
    saving = savings([(0, 8.0), (100, 0.0)], CONTROL, costs)
    assert saving["tokens"] == 4
    assert saving["student_flops"] == (3 * 200) / (2 * 50)
    assert saving["training_flops"] == (4 * 200) / (3 * 50)
    assert saving["total_flops"] == (4 * 200) / (50 + 250 + 3 * 50)


def test_reached_before_training_has_no_finite_saving_in_tokens():
    saving = savings([(0, 3.9), (100, 3.0)], CONTROL, COSTS)
    assert saving["reached"] == "before training"
    assert saving["tokens"] is saving["student_flops"] is saving["training_flops"] is None
    assert saving["total_flops"] == 600 / 300


def test_not_reached_is_a_bound():
    saving = savings([(0, 8.0), (200, 5.0)], CONTROL, COSTS)
    assert saving["reached"] == "not reached"
    assert saving["tokens"] == 1
    assert saving["training_flops"] == 1
    assert saving["total_flops"] == 600 / 900


def test_without_any_cost_there_is_no_finite_total():
    free = Costs(order=0, search=0, student_per_token=2, control_per_token=2, teacher_per_token=0)
    assert savings([(0, 3.9), (100, 3.0)], CONTROL, free)["total_flops"] is None


def test_recovery_is_part_of_the_students_total():
    costs = replace(COSTS, recover=100)
    saving = savings([(0, 8.0), (100, 0.0)], CONTROL, costs)
    assert saving["total_flops"] == 600 / (50 + 250 + 100 + 3 * 50)
    assert saving["training_flops"] == 600 / (3 * 50)


def test_over_flops_the_students_curve_is_shifted_by_what_comes_before():
    ours, theirs = over_flops([(0, 8.0), (100, 0.0)], CONTROL, replace(COSTS, recover=7))
    assert ours == [(307, 8.0), (607, 0.0)]
    assert theirs == [(0, 10.0), (300, 6.0), (600, 4.0)]


def test_a_student_that_overtakes_the_control():
    """From 300 FLOPs on the student falls from 8 by 8, the control from 6 by 2: they meet at a third of it."""
    found = equal_flops([(0, 8.0), (100, 0.0)], CONTROL, COSTS)
    (crossing,) = found["crossings"]
    assert crossing["flops"] == pytest.approx(400) and crossing["ahead"] == "student"
    assert crossing["perplexity"] == pytest.approx(math.exp(6 - 2 / 3))
    assert found["before"] == 300 and found["student_flops"] == found["control_flops"] == 600
    assert found["flops"] == 600 and found["ahead"] == "student"
    assert found["student_perplexity"] == 1.0 and found["control_perplexity"] == pytest.approx(math.exp(4.0))


def test_a_student_that_starts_ahead_and_is_overtaken_before_the_controls_end():
    """The student ends at 900 FLOPs; they are compared at the control's 600, half-way through its training."""
    found = equal_flops([(0, 5.5), (200, 5.5)], CONTROL, COSTS)
    (crossing,) = found["crossings"]
    assert crossing == {"flops": pytest.approx(375), "perplexity": pytest.approx(math.exp(5.5)), "ahead": "control"}
    assert found["flops"] == 600 and found["student_flops"] == 900 and found["ahead"] == "control"


def test_curves_that_do_not_cross():
    assert equal_flops([(0, 3.0), (100, 2.0)], CONTROL, COSTS)["crossings"] == []
    behind = equal_flops([(0, 9.0), (100, 8.0)], CONTROL, COSTS)
    assert behind["crossings"] == [] and behind["ahead"] == "control"


def test_curves_that_cross_twice_and_touch_once():
    free = Costs(order=0, search=0, student_per_token=1, control_per_token=1, teacher_per_token=0)
    control = [(0, 5.0), (40, 5.0)]
    twice = equal_flops([(0, 6.0), (10, 4.0), (20, 6.0), (40, 6.0)], control, free)["crossings"]
    assert [(each["flops"], each["ahead"]) for each in twice] == [(5, "student"), (15, "control")]
    touching = equal_flops([(0, 6.0), (10, 5.0), (20, 6.0), (40, 6.0)], control, free)
    assert touching["crossings"] == []
    level = equal_flops([(0, 6.0), (10, 5.0), (20, 5.0), (40, 5.0)], control, free)
    assert level["crossings"] == [] and level["ahead"] is None
    later = equal_flops([(0, 6.0), (10, 5.0), (20, 5.0), (40, 4.0)], control, free)["crossings"]
    assert [(each["flops"], each["ahead"]) for each in later] == [(20, "student")]


def test_a_pipeline_that_costs_more_than_the_control_in_all_is_not_comparable():
    found = equal_flops([(0, 3.0), (100, 2.0)], CONTROL, replace(COSTS, search=10_000))
    assert found["flops"] is found["ahead"] is found["student_perplexity"] is None and found["crossings"] == []
    assert found["before"] == 10_050 and found["control_flops"] == 600
