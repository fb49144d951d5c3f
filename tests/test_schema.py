"""What determines a result is declared in the schema, and read from there."""

from pipeline import compose
from pipeline.config import is_material, material, walk


def test_keys_that_change_no_result():
    for key in ("tracker", "tracker.kind", "deepspeed.zero_stage", "distill.checkpoint.tokens", "distill.cache.verify"):
        assert not is_material(key)
    for key in ("distill.lr", "search.population", "init", "teacher@kd_teacher", "seed", "distill.cache.kind"):
        assert is_material(key)


def test_a_section_of_a_recipe_leaves_them_out():
    config = compose(["experiment=smoke"]).distill
    assert "micro_batch" not in material(config) and material(config)["lr"] == config.lr
    assert "checkpoint" not in material(config) and "tokens" not in material(config, "tokens")
    assert material(config)["cache"].keys() == {"kind", "slots", "temperatures"}


def test_a_strategy_reads_its_own_keys():
    population = {"start", "population", "generations", "limit"}
    for strategy, read in {
        "evolution": population | {"parents", "crossover", "mutation"},
        "local": population | {"offspring"},
        "random": {"evaluations", "limit"},
        "uniform": set(),
    }.items():
        assert walk(compose(["experiment=smoke", f"search={strategy}"]).search).keys() == read
    surrogate = ["search=evolution", "search.surrogate=8"]  # later than fingerprints that stay: no part while it is 0
    assert "surrogate" in walk(compose(["experiment=smoke", *surrogate]).search)
