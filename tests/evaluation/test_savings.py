"""Savings on curves made by hand, where the answer is known."""

import math

import pytest

from pipeline.evaluation.savings import Costs, savings, tokens_to_reach

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
