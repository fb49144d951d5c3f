"""A strategy, a fitness and a space of the user's, by import path: those of examples/own_search.py."""

from pathlib import Path

import pytest
import torch
from runs import smoke

import pipeline
from pipeline.errors import SprigError
from pipeline.models.extraction import extract
from pipeline.plan import checks
from pipeline.search import journal
from pipeline.search.evaluator import Evaluator
from pipeline.stages import graph, order
from pipeline.stages.context import Context
from pipeline.stages.roots import roots

EXAMPLES = str(Path(__file__).parents[2] / "examples")
SEARCH = ["stages=[prepare,order,search]", "search.random_baseline=false"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    """Teacher and text are prepared once."""
    return tmp_path_factory.mktemp("own") / "outputs"


@pytest.fixture(autouse=True)
def on_path(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)


def searched(outputs: Path, *overrides: str) -> tuple[Context, list[dict]]:
    config = smoke(outputs, *SEARCH, *overrides)
    pipeline.run(config)
    context = Context(config, lambda line: None)
    folder = context.made(graph.build(context)["search"].recipe)
    return context, journal.read(folder / "journal.jsonl")


def test_a_strategy(outputs):
    _, lines = searched(outputs, "search.strategy=own_search.Halving", "search.evaluations=8")
    assert len(lines) == len({line["key"] for line in lines}) == 8


def test_a_fitness_is_what_the_function_gives(outputs):
    context, [line, *_] = searched(outputs, "search=uniform", "search.fitness=own_search.worst_token")
    teacher = context.teacher(roots(context).teacher, context.config.teacher)
    blocks = context.evenly(roots(context).tokens, "calibration", 4, "blocks")
    ordering = order.load(context, roots(context).ordering)
    model = extract(teacher, line["subnetwork"], ordering)
    with torch.no_grad():
        logits = model(blocks[:, :-1])[..., : model.config.vocab_size]
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), blocks[:, 1:], reduction="none")
    assert line["losses"] == pytest.approx(losses.amax(dim=1).tolist(), rel=1e-5)
    assert line["fitness"] == pytest.approx(losses.amax(dim=1).mean().item(), rel=1e-5)


def test_a_space(outputs):
    _, lines = searched(outputs, "space.type=own_search.Shallow")
    assert {line["subnetwork"].n_layer for line in lines} == {2}


def test_each_gives_another_search_and_none_changes_the_old_ones(tmp_path):
    def fingerprint(*overrides: str) -> str:
        return graph.build(Context(smoke(tmp_path, *overrides), print))["search"].recipe.fingerprint

    own = [
        "search.strategy=own_search.Halving",
        "search.fitness=own_search.worst_token",
        "space.type=own_search.Shallow",
    ]
    assert len({fingerprint(), *map(fingerprint, own)}) == 4
    assert "type" not in graph.build(Context(smoke(tmp_path), print))["search"].recipe.config["space"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("search.strategy=evolutoin", "did you mean evolution"),
        ("search.strategy=nowhere.Strategy", "search.strategy=nowhere.Strategy cannot be imported"),
        ("search.fitness=own_search.nothing", "search.fitness=own_search.nothing cannot be imported"),
        ("space.type=own_search.Nothing", "space.type=own_search.Nothing cannot be imported"),
    ],
)
def test_what_cannot_be_imported_is_refused_in_the_plan(tmp_path, override, sentence):
    with pytest.raises(SprigError, match=sentence):
        checks.check(Context(smoke(tmp_path, override), print))


def test_the_evaluator_imports_it_once(tmp_path):
    evaluator = Evaluator(torch.nn.Linear(1, 1), None, torch.zeros(1, 2), "fp32", 1, fitness="own_search.worst_token")
    assert evaluator.own.__name__ == "worst_token"
