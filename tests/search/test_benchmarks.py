"""The benchmark of strategies runs the strategies that it names."""

import pytest

import pipeline
from benchmarks.strategies import QUICKSTART, STRATEGIES


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_of_the_benchmark_is_the_one_of_its_name(name):
    overrides, _, _ = STRATEGIES[name]
    search = pipeline.compose([*QUICKSTART, *overrides]).search
    assert search.strategy == name and not search.start and not search.reads_errors
