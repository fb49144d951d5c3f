"""What makes each strategy what it is."""

import pytest
from covering import slow
from toy import BLOCKS, LENGTH, SPACE, TEACHER, configure, walk

from pipeline.config import FROM_A_POPULATION, BinConfig, LimitConfig, MutationConfig, Sizes, SpaceConfig
from pipeline.errors import SprigError
from pipeline.search.journal import read
from pipeline.search.strategies.registry import POPULATIONS, RULES, starts
from pipeline.subnetwork.bins import make_bin
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import GENES

SEPARABLE = Space(
    TEACHER,
    SpaceConfig(step=Sizes(intermediate_size=4, head_size=2), hold=["n_layer", "n_embd"]),
    make_bin(BinConfig(low=16_000, high=18_000)),
    None,
)


def distance(sub) -> float:
    """A separable landscape."""
    return sum(abs(gene.intermediate_size - size) for gene, size in zip(sub.genes, (12, 60, 24, 48), strict=True))


LIMIT = LimitConfig(tokens=200 * BLOCKS * LENGTH)


@pytest.fixture(scope="module")
def best_of_random(tmp_path_factory) -> list[float]:
    """By seed."""
    drawn, folder = configure("random", evaluations=10_000, limit=LIMIT), tmp_path_factory.mktemp("random")
    return [walk(drawn, folder / f"{seed}", distance, SEPARABLE, seed).fitness for seed in range(5)]


@pytest.mark.parametrize("kind", ["evolution", *slow([["one_plus_lambda"], ["local"]])])
def test_a_search_beats_best_of_random_at_equal_tokens(tmp_path, kind, best_of_random):
    config = configure(kind, generations=100, limit=LIMIT)
    searched = [walk(config, tmp_path / f"{seed}", distance, SEPARABLE, seed).fitness for seed in range(5)]
    assert sum(ours < theirs for ours, theirs in zip(searched, best_of_random, strict=True)) >= 4


def test_the_strategies_that_go_on_from_a_population_are_listed_in_both_places():
    assert tuple(POPULATIONS) == FROM_A_POPULATION


@pytest.mark.parametrize("kind", FROM_A_POPULATION)
def test_starts_come_first_and_samples_fill_the_generation(tmp_path, kind):
    config = configure(kind, start=["uniform"])
    (uniform,) = starts(config, SPACE)
    walk(config, tmp_path / "journal")
    lines = read(tmp_path / "journal")
    assert lines[0]["subnetwork"] == uniform == RULES["uniform"](SPACE)
    assert len({line["key"] for line in lines[: config.population]}) == config.population


@pytest.mark.parametrize("kind", FROM_A_POPULATION)
def test_a_start_that_no_sample_beats_is_searched_around(tmp_path, kind):
    """Mutants of the start take part in later generations: the best of them are nearer to it than samples are."""
    (start,) = starts(configure(kind, start=["uniform"]), SPACE)

    def unlike(sub):
        return genes_apart(sub, start)

    config = configure(kind, start=["uniform"], mutation=MutationConfig(offspring=5, gene_rate=0.1, global_rate=0.0))
    walk(config, tmp_path / "journal", unlike)
    lines = read(tmp_path / "journal")
    sampled, later = lines[1 : config.population], lines[config.population :]
    assert min(map(of_line(unlike), later)) < min(map(of_line(unlike), sampled))


def genes_apart(a, b) -> int:
    """Genes in which two sub-networks differ; all where their layers or widths do."""
    if (a.layers, a.n_embd) != (b.layers, b.n_embd):
        return 1 + TEACHER.n_layer * len(GENES)
    pairs = zip(a.genes, b.genes, strict=True)
    return sum(getattr(x, name) != getattr(y, name) for x, y in pairs for name in GENES)


def of_line(landscape):
    return lambda line: landscape(line["subnetwork"])


def test_local_asks_for_neighbours_of_the_best_so_far(tmp_path):
    config = configure("local", generations=20)
    walk(config, tmp_path / "journal", distance, SEPARABLE)
    lines, best = read(tmp_path / "journal"), None
    for first in range(0, len(lines), 10):  # population and offspring are 10
        generation = lines[first : first + 10]
        if best is not None:
            assert all(genes_apart(line["subnetwork"], best["subnetwork"]) in (1, 2) for line in generation)
        best = min([*([best] if best else []), *generation], key=lambda line: line["fitness"])


def test_one_plus_lambda_asks_for_mutants_of_the_best_that_keep_its_layers_and_width(tmp_path):
    walk(configure("one_plus_lambda"), tmp_path / "journal")
    lines, parent = read(tmp_path / "journal"), None
    assert len(lines) == 60
    for first in range(0, len(lines), 10):
        generation = lines[first : first + 10]
        if parent is not None:
            mutants = [line["subnetwork"] for line in generation]
            assert {(sub.layers, sub.n_embd) for sub in mutants} == {(parent.layers, parent.n_embd)}
        parent = min(lines[: first + 10], key=lambda line: line["fitness"])["subnetwork"]


@pytest.mark.parametrize(
    ("strategy", "changes", "said"),
    [
        ("random", {"start": ["uniform"]}, "search.strategy=random does not accept search.start"),
        ("evolution", {"start": ["uniform", "uniform"]}, "must name each at most once"),
    ],
)
def test_what_a_strategy_cannot_be_given(strategy, changes, said):
    with pytest.raises(SprigError, match=said):
        configure(strategy, **changes)
