"""A strategy, a fitness and a space of the user's, by import path: those of examples/own_search.py."""

import importlib
import logging
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toy
from runs import smoke

import pipeline
from pipeline.config import LimitConfig
from pipeline.errors import SprigError
from pipeline.models.extraction import extract
from pipeline.plan import checks, costs
from pipeline.plan.table import table
from pipeline.progress import Progress
from pipeline.search import journal
from pipeline.search.evaluator import Evaluator
from pipeline.search.forecast import unspent
from pipeline.search.strategies import registry
from pipeline.stages import graph, order
from pipeline.stages.context import Context
from pipeline.stages.roots import roots
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.space import Space

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
    "named", ["search.strategy=edited.Halving", "search.fitness=edited.worst_token", "space.type=edited.Shallow"]
)
def test_an_edit_of_its_code_gives_another_search(tmp_path, monkeypatch, named):
    def search():
        context = Context(smoke(tmp_path / "outputs", *SEARCH, named), lambda line: None)
        return graph.build(context)["search"].recipe.fingerprint

    monkeypatch.delitem(sys.modules, "edited", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    code = (Path(EXAMPLES) / "own_search.py").read_text()
    (tmp_path / "edited.py").write_text(code)
    before = search()
    assert search() == before
    (tmp_path / "edited.py").write_text(f"{code}\n# a second thought\n")
    assert search() != before
    (tmp_path / "edited.py").write_text(code)
    assert search() == before


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("search.strategy=evolutoin", "did you mean evolution"),
        ("search.strategy=nowhere.Strategy", "search.strategy=nowhere.Strategy cannot be imported"),
        ("search.strategy=nowhere.Strategy", "No module named 'nowhere'. Is its folder on PYTHONPATH"),
        ("search.strategy=own_search.Halvin", "imported: own_search has no Halvin; did you mean Halving"),
        ("search.fitness=own_search.nothing", "imported: own_search has no nothing; correct the name"),
        ("search.fitness=own_search.Halving.n", "imported: own_search.Halving has no n; correct the name"),
        ("space.type=own_search.Nothing", "space.type=own_search.Nothing cannot be imported"),
        ("search.fitness=os.path", "search.fitness=os.path is a module, which cannot be called: name a function"),
        ("search.fitness=math.pi", "search.fitness=math.pi is a float, which cannot be called: name a function"),
    ],
)
def test_what_cannot_be_imported_or_used_is_refused_in_the_plan(tmp_path, override, sentence, caplog):
    with pytest.raises(SprigError, match=sentence):
        checks.check(Context(smoke(tmp_path, override), print))
    assert not caplog.text


def test_a_module_that_lacks_another_names_that_one(tmp_path, monkeypatch):
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking/part.py").write_text("import not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SprigError, match=r"lacking\.part\.Mine cannot be imported: No module named 'not_installed'"):
        checks.check(Context(smoke(tmp_path, "search.strategy=lacking.part.Mine"), print))


@pytest.fixture
def own(monkeypatch):
    """Puts an object where own_search.Mine is imported from."""
    return lambda made: monkeypatch.setattr(importlib.import_module("own_search"), "Mine", made, raising=False)


def fails(*_):
    raise KeyError("my mistake")


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (1.5, r"one loss for each of 2 blocks, a tensor of shape \(2,\), but returned 1\.5"),
        (torch.ones(1), r"returned torch\.float32 of shape \(1,\)"),
        (torch.ones(2, 32), r"returned torch\.float32 of shape \(2, 32\)"),
        (None, "returned None"),
        (fails, "search.fitness=own_search.Mine raised KeyError: 'my mistake'. Correct it"),
    ],
)
def test_a_fitness_returns_one_loss_for_each_block(own, returned, said):
    own(returned if returned is fails else lambda teacher, student, tokens: returned)
    evaluator = Evaluator(torch.nn.Linear(1, 1), None, torch.zeros(2, 33), "fp32", 2, fitness="own_search.Mine")
    with pytest.raises(SprigError, match=said):
        evaluator._own_losses(evaluator.own, None, evaluator.chunks[0])


def asking(answer):
    return type("Mine", (), {"__init__": lambda self, space, *_: None, "ask": lambda self: answer})


@pytest.mark.parametrize("key", ["search.strategy", "space.type"])
def test_every_candidate_is_a_member_of_the_space(tmp_path, own, key):
    """Also of a space of one's own, which might draw candidates beyond the bin."""
    context = Context(smoke(tmp_path), print)
    identity = Ordering.identity(context.architecture)
    member = context.space(identity).sample(np.random.default_rng(0))
    beyond = replace(member, n_embd=64 - member.n_embd + 32)
    own(asking([beyond]) if key == "search.strategy" else type("Mine", (Space,), {"sample": lambda self, rng: beyond}))
    context = Context(smoke(tmp_path, f"{key}=own_search.Mine", "search.evaluations=1"), print)
    config = replace(context.config.search, strategy="random") if key == "space.type" else context.config.search
    with pytest.raises(SprigError, match=f"{key}=own_search.Mine yields a candidate that is not a member"):
        registry.make(config, context.space(identity), 0).ask()


@pytest.mark.parametrize(
    ("key", "made", "said"),
    [
        ("search.strategy", asking(None), "search.strategy=own_search.Mine raised TypeError: 'NoneType' object"),
        ("search.strategy", asking(["x"]), "yields a candidate that is not a member of the space and the bin"),
        ("search.strategy", fails, "search.strategy=own_search.Mine raised KeyError"),
        ("space.type", fails, "space.type=own_search.Mine is not a subclass of pipeline.subnetwork.space.Space"),
        ("space.type", type("Mine", (Space,), {"__init__": fails}), "space.type=own_search.Mine raised TypeError"),
    ],
)
def test_what_ones_own_code_does_wrong_is_one_sentence(tmp_path, own, key, made, said):
    own(made)
    context = Context(smoke(tmp_path, f"{key}=own_search.Mine"), print)
    with pytest.raises(SprigError, match=said):
        registry.make(context.config.search, context.space(Ordering.identity(context.architecture)), 0).ask()


def test_what_a_space_draws_is_looked_at_in_the_plan(tmp_path, own):
    own(type("Mine", (Space,), {"sample": lambda self, rng: None}))
    context = Context(smoke(tmp_path, "space.type=own_search.Mine"), print)
    with pytest.raises(SprigError, match=r"^space.type=own_search.Mine must return a SubNetwork .* returned None.$"):
        costs.typical(context)


def test_a_search_without_candidates_names_its_strategy(outputs, own):
    own(asking([]))
    with pytest.raises(SprigError, match=r"search\.strategy=own_search\.Mine asked for no candidate"):
        searched(outputs, "search.strategy=own_search.Mine")


def test_a_strategy_that_ends_early_has_not_emptied_the_bin(tmp_path, own, caplog):
    members = [[toy.SPACE.sample(np.random.default_rng(each))] for each in range(4)]
    methods = {"__init__": lambda self, *_: None, "tell": lambda self, scored: None}
    own(type("Mine", (), methods | {"ask": lambda self: members.pop() if members else []}))
    config = replace(toy.configure("random", evaluations=100), strategy="own_search.Mine")
    with caplog.at_level(logging.INFO, logger="sprig"):
        toy.walk(config, tmp_path / "journal")
    assert caplog.messages == ["search.strategy=own_search.Mine has no further candidates: the search ended after 4."]
    assert caplog.records[0].levelno == logging.INFO
    assert unspent(replace(config, limit=LimitConfig(evaluations=200)), toy.LENGTH) is None, "it may ask for as many"


def test_the_plan_counts_only_what_a_limit_bounds(tmp_path):
    own = ["search.strategy=own_search.Halving", "search.random_baseline=true"]
    limited = [*own, "search.limit.evaluations=7"]
    without, within = (dict(table(Context(smoke(tmp_path, *words), print))) for words in (own, limited))
    assert without["search"] == (
        "as many evaluations as own_search.Halving asks for, and random ones on as many: a number that only the "
        "strategy knows, so their cost is not counted; set search.limit.evaluations to bound it"
    )
    assert "and the search in addition" in without["time"] and "in addition" not in within["time"]
    assert within["search"].startswith(f"at most 7 evaluations, {7 * 4 * 32:,} tokens, ")


def test_a_strategy_that_never_ends_has_no_total_unless_a_limit_ends_it(tmp_path, own, monkeypatch):
    """Also where it always asks for the same candidate."""
    member = toy.SPACE.sample(np.random.default_rng(0))
    methods = {"__init__": lambda self, *_: None, "ask": lambda self: [member], "tell": lambda self, scored: None}
    own(type("Mine", (), methods))
    totals = []

    def advance(self, *_, **__):
        totals.append(self.total)
        if len(totals) == 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "advance", advance)
    endless = replace(toy.configure("random"), strategy="own_search.Mine")
    with pytest.raises(KeyboardInterrupt):
        toy.walk(endless, tmp_path / "endless")
    assert totals == [None] * 20
    toy.walk(replace(endless, limit=LimitConfig(evaluations=9)), tmp_path / "limited")
    assert totals[20:] == [9] * 9


def test_random_candidates_cost_what_ones_own_strategy_does(outputs, own):
    """Which may ask for fewer than search.evaluations."""
    words = ["search.strategy=own_search.Halving", "search.evaluations=5", "search.random_baseline=true"]
    halving = importlib.import_module("own_search").Halving
    own(type("Mine", (halving,), {"ask": lambda self: super(type(self), self).ask() if self.left > 2 else []}))
    context, lines = searched(outputs, *words[1:], "search.strategy=own_search.Mine")
    random = context.made(graph.build(context)["random_search"].recipe)
    assert len(journal.read(random / "journal.jsonl")) == len(lines) < 5


def test_a_fitness_that_is_never_finite_is_named(tmp_path):
    config = toy.configure("random", evaluations=3, fitness="own_search.worst_token")
    said = "^search.fitness=own_search.worst_token gives none of 3 candidates a finite loss: correct it, or use"
    with pytest.raises(SprigError, match=said):
        toy.walk(config, tmp_path / "journal", lambda sub: math.nan)


def test_the_evaluator_imports_it_once(tmp_path):
    evaluator = Evaluator(torch.nn.Linear(1, 1), None, torch.zeros(1, 2), "fp32", 1, fitness="own_search.worst_token")
    assert evaluator.own.__name__ == "worst_token"
