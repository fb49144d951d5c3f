"""What is said of a search before it begins, against what it then does."""

import pytest
from toy import BLOCKS, LENGTH, configure, make_budget, walk

from pipeline.config import FROM_A_POPULATION, LimitConfig
from pipeline.search.forecast import expected, unspent

SEARCHES = [*map(str, FROM_A_POPULATION), "random"]
LIMITS = [{}, {"evaluations": 23}, {"tokens": 2_500}, {"evaluations": 30, "tokens": 1_000}, {"tokens": 10**9}]


@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize("limit", LIMITS, ids=str)
def test_a_search_spends_what_was_expected_of_it(tmp_path, kind, limit):
    config = configure(kind, limit=LimitConfig(**limit))
    budget = make_budget(config.limit)
    walk(config, tmp_path / "journal", budget=budget)
    forecast = expected(config, LENGTH)
    assert (forecast.evaluations, forecast.tokens) == (budget.spent.evaluations, budget.spent.tokens)


def test_a_limit_in_flops_counts_as_the_tokens_that_it_pays_for():
    config = configure("random", limit=LimitConfig(flops=1_000 * 5 * BLOCKS * LENGTH + 1))
    assert expected(config, LENGTH, 1_000).evaluations == 5
    assert expected(config, LENGTH).evaluations == 60


def test_generations_beyond_number_are_no_work():
    config = configure("one_plus_lambda", generations=10**15, limit=LimitConfig(evaluations=100))
    assert expected(config, LENGTH).evaluations == 100
    assert expected(configure("local", generations=10**15), LENGTH).evaluations == 10 + 10**16


@pytest.mark.parametrize(("kind", "key"), [("random", "search.evaluations"), ("local", "search.generations")])
def test_a_strategy_that_asks_for_less_than_its_limit_is_said(kind, key):
    whole = 60 * BLOCKS * LENGTH
    said = unspent(configure(kind, limit=LimitConfig(tokens=1_000_000)), LENGTH)
    assert said == f"the strategy asks for {whole:,} of the 1,000,000 tokens that search.limit allows: raise {key}"
    both = LimitConfig(flops=10 * whole, tokens=1_000_000)
    assert unspent(configure(kind, limit=both), LENGTH) is None  # the FLOPs may end it
    assert "7,680 of the 1,000,000 tokens" in unspent(configure(kind, limit=both), LENGTH, 1)


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        ("local", {}),
        ("local", {"tokens": 60 * BLOCKS * LENGTH}),
        ("random", {"tokens": 1_000_000, "evaluations": 60}),
        ("uniform", {"tokens": 1_000_000}),
    ],
)
def test_nothing_is_said_where_a_limit_may_end_it_or_nothing_is_searched(kind, limit):
    assert unspent(configure(kind, limit=LimitConfig(**limit)), LENGTH) is None
