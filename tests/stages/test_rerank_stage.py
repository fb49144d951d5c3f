"""Rerank in a run: the student is the one that a short training put first, and the search's cost holds the training."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from runs import smoke

import pipeline
from pipeline.artifacts.inventory import entries
from pipeline.models import checkpoint
from pipeline.plan import costs
from pipeline.plan.table import table
from pipeline.report import material, plots
from pipeline.search import journal
from pipeline.search.rerank import best_of
from pipeline.stages import graph, rerank, search, short
from pipeline.stages.context import Context
from pipeline.subnetwork.counting import flops_per_token
from pipeline.subnetwork.value import SubNetwork

RERANK = ["search.rerank.candidates=3", "search.rerank.tokens=256", "search.random_baseline=false"]
STAGES = "stages=[prepare,order,search,rerank]"
SMALL = ["search.generations=1", STAGES]


def made(outputs: Path, *overrides: str) -> tuple[Context, Path, Path]:
    """A run, with the folders of its search and its rerank."""
    pipeline.run(smoke(outputs, *overrides))
    context = Context(smoke(outputs, *overrides), lambda line: None)
    steps = graph.build(context)
    return context, context.made(steps["search"].recipe), context.made(steps["rerank"].recipe)


def winner(context: Context) -> SubNetwork:
    return rerank.winner(context, graph.build(context)["rerank"].recipe)


def gathered(context: Context) -> material.Material:
    return material.gather(context, graph.build(context))


@pytest.fixture
def trained(monkeypatch) -> list[SubNetwork]:
    """Stands for the short trainings: who was trained. Every next candidate of a search reaches a lower loss."""
    order = []

    def train(context, roots, sub, *settings):
        order.append(sub)
        found = context.made(graph.build(context)["search"].recipe)
        ranked = best_of(found / search.JOURNAL)
        return 5.0 - ranked.index(sub) / 10

    monkeypatch.setattr(short, "train", train)
    return order


@pytest.fixture
def outputs(smoke_outputs, tmp_path) -> Path:
    """A finished run without a rerank."""
    shutil.copytree(smoke_outputs, tmp_path / "outputs", symlinks=True)
    return tmp_path / "outputs"


def artifacts(outputs: Path) -> set[Path]:
    return {path.parent for path in outputs.glob("artifacts/*/*/manifest.json")}


def test_the_first_after_rerank_wins_and_is_paid_for(tmp_path):
    context, searched, folder = made(tmp_path, *RERANK, *SMALL)
    reranked = journal.read(folder / rerank.JOURNAL)
    assert [line["subnetwork"] for line in reranked] == best_of(searched / search.JOURNAL, 3)
    assert winner(context) == min(reranked, key=lambda line: line["fitness"])["subnetwork"]
    costs = json.loads((folder / rerank.COSTS).read_text())
    forward = partial(flops_per_token, context.architecture, length=32)
    training = sum(short.flops(context, forward(line["subnetwork"]), 256, 1e-3) for line in reranked)
    assert costs["flops"] == training
    assert not (folder / short.SCRATCH).exists()
    summary = gathered(context).summary
    untrained = json.loads((searched / search.COSTS).read_text())["flops"]
    assert summary["flops"]["search"] == untrained + training and summary["search"]["rerank"] == costs
    metrics = map(json.loads, (tmp_path / "smoke/latest/metrics.jsonl").read_text().splitlines())
    assert [line["key"] for line in metrics if line["role"] == "rerank"] == [line["key"] for line in reranked]


def test_a_rerank_goes_on_from_a_finished_search_and_from_those_that_others_trained(outputs, trained):
    before = artifacts(outputs)
    _, searched, folder = made(outputs, *RERANK, STAGES)
    assert artifacts(outputs) - before == {folder} and searched in before
    best = best_of(searched / search.JOURNAL, 4)
    assert trained == best[:3]
    _, again, more = made(outputs, *RERANK, STAGES, "search.rerank.candidates=4")
    assert again == searched and trained == best
    assert [line["subnetwork"] for line in journal.read(more / rerank.JOURNAL)] == best
    made(outputs, *RERANK, STAGES, "search.rerank.candidates=2")
    assert trained == best
    _, again, _ = made(outputs, *RERANK, STAGES, "distill.temperature=2")
    assert again == searched and trained == [*best, *best[:3]]


def test_the_run_goes_on_with_the_winner_and_its_report_rings_it(outputs, trained):
    overrides = [*RERANK, "stages=[rerank,extract]"]
    context, searched, _ = made(outputs, *overrides)
    third = best_of(searched / search.JOURNAL)[2]
    for role in ("student", "control"):
        cut = context.made(graph.build(context)[f"extracted_{role}"].recipe) / checkpoint.SUBNETWORK
        assert SubNetwork.from_dict(json.loads(cut.read_text())) == third
    assert winner(context) == third and gathered(context).winner == third.key
    plain = Context(smoke(outputs), lambda line: None)
    assert gathered(plain).winner == best_of(searched / search.JOURNAL)[0].key
    assert "rerank" not in graph.build(plain)


def test_a_killed_rerank_goes_on_with_the_candidate_it_was_at(outputs, trained, monkeypatch):
    stand_in = short.train

    def killed(context, sub, *settings):
        if len(trained) == 2:
            raise KeyboardInterrupt
        return stand_in(context, sub, *settings)

    monkeypatch.setattr(short, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(smoke(outputs, *RERANK, STAGES))
    monkeypatch.setattr(short, "train", stand_in)
    _, searched, _ = made(outputs, *RERANK, STAGES)
    assert trained == best_of(searched / search.JOURNAL, 3)


def test_a_training_that_another_rerank_finished_meanwhile_is_left_behind(tmp_path, monkeypatch):
    """What was interrupted was not removed yet, and the next candidate does not resume from it."""
    begun, fitted = [], short.fitted

    def killed(folder, *settings):
        trained = fitted(folder, *settings)
        begun.append(folder)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return trained

    monkeypatch.setattr(short, "fitted", killed)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(smoke(tmp_path, *RERANK, *SMALL))
    assert (begun[1] / "checkpoints").is_dir()
    _, _, two = made(tmp_path, *RERANK, *SMALL, "search.rerank.candidates=2")
    _, _, three = made(tmp_path, *RERANK, *SMALL)
    assert [folder.name for folder in begun[4:]] == [journal.read(three / rerank.JOURNAL)[2]["key"]]
    assert not (three / short.SCRATCH).exists() and not (two / short.SCRATCH).exists()


def test_cleaning_keeps_the_search_of_a_rerank(outputs, trained):
    _, searched, three = made(outputs, *RERANK, STAGES)
    _, _, four = made(outputs, *RERANK, STAGES, "search.rerank.candidates=4")
    (outputs / "smoke/latest/artifacts/search").unlink()  # what it was made from says so, too
    run = (outputs / "smoke/latest").resolve()
    needed = {entry.folder: entry.needed_by for entry in entries(outputs)}
    assert needed[four] == (f"smoke/{run.name}",) != needed[three] and needed[four][0] in needed[searched]
    shutil.rmtree(run)
    needed = {entry.folder: entry.needed_by for entry in entries(outputs)}
    assert not needed[four] and needed[three]


def test_the_plan_prices_what_is_then_spent(outputs, trained, tmp_path):
    """Of a given sub-network, whose FLOPs the plan knows, by either fitness."""
    (given := tmp_path / "given.json").write_bytes(
        (outputs / "smoke/latest/artifacts/search/subnetwork.json").read_bytes()
    )
    overrides = [*RERANK, STAGES, "search=given", f"search.path={given}"]
    for fitness in ("perplexity", "kl"):
        context, searched, reranked = made(outputs, *overrides, f"search.fitness={fitness}")
        planned = costs.flops(context)
        for role, folder in (("search", searched), ("rerank", reranked)):
            assert planned[role] == json.loads((folder / "costs.json").read_text())["flops"] > 0
    rows = dict(table(context))
    assert rows["rerank"] == f"1 x 256 tokens, {planned['rerank']:.3g} FLOPs"
    assert f"{planned['search']:.3g} FLOPs" in rows["search"]
    plain = Context(smoke(outputs), print)
    assert "rerank" not in dict(table(plain)) and costs.flops(plain)["rerank"] == 0


def test_the_ring_is_around_the_one_that_was_chosen_be_others_fitter_untrained():
    """Of a search that is still going nobody is."""
    journal = [
        {"key": key, "parameters": size, "fitness": fitness}
        for key, size, fitness in (("a", 1_000_000, 9.0), ("b", 2_000_000, 7.0), ("c", 3_000_000, 8.0))
    ]
    edges = {"low": 500_000, "high": 4_000_000}
    for winner, ringed in (("c", [[3_000_000, 8.0]]), (None, [])):
        plots.bin_(axes := Figure().subplots(), journal, edges, "perplexity", winner)
        rings = [points.get_offsets().tolist() for points in axes.collections if points.get_label() == "winner"]
        assert rings == ([ringed] if ringed else [])


@pytest.mark.slow
def test_another_kd_teacher_trains_the_same_candidates_to_other_losses(tmp_path):
    kd = ["teacher@kd_teacher=tiny-random", "kd_teacher.litgpt.n_layer=2"]
    candidates, losses, flops = [], [], []
    for overrides in ([*RERANK, *SMALL], [*RERANK, *SMALL, *kd]):
        context, _, folder = made(tmp_path, *overrides)
        reranked = journal.read(folder / rerank.JOURNAL)
        candidates.append([line["key"] for line in reranked])
        losses.append([line["fitness"] for line in reranked])
        flops.append(json.loads((folder / rerank.COSTS).read_text())["flops"])
        assert winner(context) == min(reranked, key=lambda line: line["fitness"])["subnetwork"]
    assert candidates[0] == candidates[1]
    assert all(ours != theirs for ours, theirs in zip(*losses, strict=True))
    # Two layers fewer to run along, on 256 tokens for each of three candidates.
    whole, half = context.architecture, context.kd_architecture
    saved = flops_per_token(whole, length=32) - flops_per_token(half, length=32)
    assert half.n_layer == 2 and flops[0] - flops[1] == 3 * 256 * saved


def test_what_a_rerank_is_belongs_to_its_own_fingerprint_and_not_to_the_searchs(tmp_path):
    def fingerprints(*overrides):
        context = Context(smoke(tmp_path, *overrides), lambda line: None)
        steps = graph.build(context)
        return steps["search"].recipe.fingerprint, "rerank" in steps and steps["rerank"].recipe.fingerprint

    assert fingerprints("search.rerank.tokens=512") == fingerprints("distill.temperature=2") == fingerprints()
    plain, reranked = fingerprints(*RERANK)
    assert plain == fingerprints()[0]
    changed = ["distill.temperature=2", "search.rerank.candidates=2", "search.rerank.tokens=512", "evaluate.batch=2"]
    others = [fingerprints(*RERANK, each) for each in changed]
    assert {searched for searched, _ in others} == {plain}
    assert len({reranked, *(other for _, other in others)}) == 1 + len(changed)
    assert fingerprints(*RERANK, "distill.tokens=512", "distill.micro_batch=1") == (plain, reranked)
    assert fingerprints(*RERANK, "search.generations=1")[1] != reranked
