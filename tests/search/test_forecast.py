"""What is said of a search before it begins, against what it then does."""

import pytest
from toy import BLOCKS, LENGTH, SPACE, configure, make_budget, search, walk

from pipeline.config import FROM_A_POPULATION, LimitConfig, RacingConfig
from pipeline.errors import SprigError
from pipeline.search.forecast import expected, least, unspent
from pipeline.search.journal import read
from pipeline.search.strategies.registry import make

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
    assert forecast.whole == sum(line["blocks"] == BLOCKS for line in read(tmp_path / "journal"))


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
    raced = configure(kind, limit=LimitConfig(tokens=1_000_000), racing=RacingConfig(enabled=True))
    assert f"asks for at most {whole:,} of" in unspent(raced, LENGTH)
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


class Level:
    """Every candidate is as good on every block: a race is decided at once."""

    def run(self, tasks):
        for number, task in enumerate(tasks):
            yield number, [float(int(task.subnetwork.key, 16))] * (task.last - task.first)


@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize("shares", [None, [0.25, 0.5], [0.375], [0.75]], ids=str)
@pytest.mark.parametrize("name", ["evaluations", "tokens"])
def test_what_scores_a_first_candidate_on_all_blocks_is_the_least_that_does(tmp_path, kind, shares, name):
    racing = RacingConfig() if shares is None else RacingConfig(enabled=True, blocks=shares)
    evaluations, blocks = least(configure(kind, racing=racing))
    enough = {"evaluations": evaluations, "tokens": blocks * LENGTH}[name]

    def follow(most: int) -> None:
        config = configure(kind, racing=racing, limit=LimitConfig(**{name: most}))
        search(config, make(config, SPACE, 0), Level(), tmp_path / f"{most}")

    follow(enough)
    if enough > 1:
        with pytest.raises(SprigError, match="before one candidate was scored on all 8 blocks"):
            follow(enough - 1)
