"""The search walks one way for one seed, whatever kills it, and evaluates nothing twice."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline.config import BinConfig, CrossoverConfig, MutationConfig, SearchConfig, Sizes, SpaceConfig
from pipeline.errors import SprigError
from pipeline.search.journal import Journal, read
from pipeline.search.loop import search
from pipeline.search.strategies import Evolution, Given, RandomSearch
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.bins import make_bin
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.space import Space

TEACHER = Architecture(
    name="toy",
    family="llama",
    n_layer=4,
    n_embd=32,
    n_head=4,
    n_query_groups=2,
    head_size=8,
    intermediate_size=64,
    vocab_size=50,
    padded_vocab_size=64,
    context=32,
    tied=True,
    bias=False,
    attention_bias=False,
    lm_head_bias=False,
    layer_norm=False,
    gated_mlp=True,
    qk_norm=False,
    rotary_percentage=1.0,
    rope_base=10000,
)
CONFIG = SearchConfig(
    population=10,
    parents=4,
    crossover=CrossoverConfig(offspring=5),
    mutation=MutationConfig(offspring=5),
    generations=5,
)
COUNT = 10 + 5 * 10


@pytest.fixture(scope="module")
def space() -> Space:
    config = SpaceConfig(step=Sizes(n_embd=8, intermediate_size=16, head_size=2))
    return Space(TEACHER, config, make_bin(BinConfig(low=12_000, high=16_000)), None)


def fitness(sub) -> float:
    """Any fixed landscape: more MLP in early layers is better, fewer layers too."""
    weights = sum(gene.intermediate_size / (1 + layer) for layer, gene in zip(sub.layers, sub.genes, strict=True))
    return 1000 / weights + sub.n_layer


class Counted:
    def __init__(self, dies_at: int | None = None):
        self.calls, self.dies_at = [], dies_at

    def __call__(self, sub) -> float:
        if len(self.calls) == self.dies_at:
            raise KeyboardInterrupt
        self.calls.append(sub.key)
        return fitness(sub)


def walk(strategy, path, evaluate):
    journal = Journal(path, "abc")
    try:
        return search(strategy, evaluate, lambda sub: parameters(TEACHER, sub), journal, COUNT, lambda line: None)
    finally:
        journal.close()


def test_evolution_evaluates_what_is_configured_once_each_and_only_in_the_bin(space, tmp_path):
    evaluate = Counted()
    best = walk(Evolution(space, CONFIG, seed=0), tmp_path / "journal", evaluate)
    lines = read(tmp_path / "journal")
    assert len(lines) == len(set(evaluate.calls)) == len(evaluate.calls) == COUNT
    assert all(space.contains(line["subnetwork"]) for line in lines)
    assert best.fitness == min(fitness(line["subnetwork"]) for line in lines)


def test_evolution_beats_random_at_equal_evaluations(tmp_path):
    config = SpaceConfig(step=Sizes(intermediate_size=4, head_size=2), hold=["n_layer", "n_embd"])
    rugged = Space(TEACHER, config, make_bin(BinConfig(low=16_000, high=18_000)), None)

    def distance(sub) -> float:
        wanted = (12, 60, 24, 48)
        return sum(abs(gene.intermediate_size - size) for gene, size in zip(sub.genes, wanted, strict=True))

    longer = replace(CONFIG, generations=19)
    count, wins = 200, 0
    for seed in range(5):
        evolved = walk(Evolution(rugged, longer, seed), tmp_path / f"evolution{seed}", distance)
        drawn = walk(RandomSearch(rugged, count, 16, seed), tmp_path / f"random{seed}", distance)
        wins += evolved.fitness < drawn.fitness
    assert wins >= 4


@pytest.mark.parametrize("dies_at", [0, 3, 10, 17, 59])
@pytest.mark.parametrize("kind", ["evolution", "random"])
def test_a_killed_search_goes_on_to_the_same_journal(space, tmp_path, dies_at, kind):
    def strategy():
        return Evolution(space, CONFIG, 3) if kind == "evolution" else RandomSearch(space, COUNT, 16, 3)

    whole = walk(strategy(), tmp_path / "whole", fitness)
    with pytest.raises(KeyboardInterrupt):
        walk(strategy(), tmp_path / "killed", Counted(dies_at))
    resumed = Counted()
    assert walk(strategy(), tmp_path / "killed", resumed) == whole
    assert len(resumed.calls) == COUNT - dies_at
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_line_cut_by_a_kill_is_dropped_and_said(space, tmp_path, caplog):
    walk(RandomSearch(space, 8, 8, 0), tmp_path / "whole", fitness)
    torn = (tmp_path / "whole").read_bytes()[:-20]
    (tmp_path / "torn").write_bytes(torn)
    evaluate = Counted()
    walk(RandomSearch(space, 8, 8, 0), tmp_path / "torn", evaluate)
    assert len(evaluate.calls) == 1
    assert "cut short" in caplog.text
    assert (tmp_path / "torn").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_journal_of_another_search_is_refused(tmp_path):
    Journal(tmp_path / "journal", "abc").close()
    with pytest.raises(SprigError, match="belongs to search abc, not to xyz"):
        Journal(tmp_path / "journal", "xyz")


def test_a_loss_that_is_not_finite_never_wins(space, tmp_path):
    calls = iter(range(100))

    def evaluate(sub):
        return math.inf if next(calls) == 0 else fitness(sub)

    best = walk(RandomSearch(space, 8, 8, 0), tmp_path / "journal", evaluate)
    lines = read(tmp_path / "journal")
    assert math.isinf(lines[0]["fitness"])
    assert math.isfinite(best.fitness)
    assert "Infinity" not in (tmp_path / "journal").read_text()


def test_no_finite_loss_at_all_is_an_error(space, tmp_path):
    with pytest.raises(SprigError, match="None of 8 candidates has a finite loss"):
        walk(RandomSearch(space, 8, 8, 0), tmp_path / "journal", lambda sub: math.inf)


def test_a_space_that_runs_out_of_new_members_ends_the_search(tmp_path):
    config = SpaceConfig(hold=["n_embd", "head_size", "n_query_groups", "heads_per_group", "intermediate_size"])
    tiny = Space(TEACHER, config, make_bin(BinConfig(low=1, high=10**9)), None)  # four depths
    walk(Evolution(tiny, CONFIG, 0), tmp_path / "journal", fitness)
    assert len(read(tmp_path / "journal")) == 4


def test_given_scores_the_one_that_is_given(space, tmp_path):
    sub = space.sample(np.random.default_rng(0))
    assert walk(Given(sub), tmp_path / "journal", fitness).subnetwork == sub
    assert json.loads((tmp_path / "journal").read_text().splitlines()[1])["parameters"] == parameters(TEACHER, sub)
