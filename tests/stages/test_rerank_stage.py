"""Rerank in a run: the student is the one that a short training put first, and the search's cost holds the training."""

import json
from functools import partial

import pytest
from conftest import smoke
from matplotlib.figure import Figure

import pipeline
from pipeline.search import journal
from pipeline.search.rerank import best_of
from pipeline.stages import figures, plots, report, reranking, search, short
from pipeline.stages.context import Context
from pipeline.subnetwork.counting import flops_per_token

RERANK = ["search.rerank.candidates=3", "search.rerank.tokens=256", "search.random_baseline=false"]
SMALL = ["search.generations=1", "stages=[prepare,order,search]"]


def test_the_first_after_rerank_wins_and_is_paid_for(tmp_path):
    overrides = [*RERANK, *SMALL]
    pipeline.run(smoke(tmp_path, *overrides))
    context = Context(smoke(tmp_path, *overrides), lambda line: None)
    folder = context.made(search.step(context).recipe)
    reranked = journal.read(folder / reranking.JOURNAL)
    assert [line["subnetwork"] for line in reranked] == best_of(folder / search.JOURNAL, 4, 3)
    assert search.winner(context) == min(reranked, key=lambda line: line["fitness"])["subnetwork"]
    costs = json.loads((folder / search.COSTS).read_text())
    forward = partial(flops_per_token, context.architecture, length=32)
    training = sum(short.flops(context, forward(line["subnetwork"]), 256, 1e-3) for line in reranked)
    assert costs["rerank"]["flops"] == training and costs["flops"] > training
    assert not (folder / "rerank").exists()
    assert report.gather(context).winner == search.winner(context).key


def test_the_ring_is_around_the_one_that_was_chosen_be_others_fitter_untrained():
    """Of a search that is still going nobody is."""
    journal = [
        {"key": key, "parameters": size, "fitness": fitness}
        for key, size, fitness in (("a", 1_000_000, 9.0), ("b", 2_000_000, 7.0), ("c", 3_000_000, 8.0))
    ]
    edges = {"low": 500_000, "high": 4_000_000}
    for winner, ringed in (("c", [[3_000_000, 8.0]]), (None, [])):
        everyone, ring = figures.candidates(journal, edges, "perplexity", winner).data
        assert len(everyone.x) == 3 and [list(point) for point in zip(ring.x, ring.y, strict=True)] == ringed
        plots._bin(axes := Figure().subplots(), journal, edges, "perplexity", winner)
        rings = [points.get_offsets().tolist() for points in axes.collections if points.get_label() == "winner"]
        assert rings == ([[[3.0, 8.0]]] if winner else [])


@pytest.mark.slow
def test_another_kd_teacher_trains_the_same_candidates_to_other_losses(tmp_path):
    kd = ["teacher@kd_teacher=tiny-random", "kd_teacher.litgpt.n_layer=2"]
    candidates, losses, flops = [], [], []
    for overrides in ([*RERANK, *SMALL], [*RERANK, *SMALL, *kd]):
        pipeline.run(smoke(tmp_path, *overrides))
        context = Context(smoke(tmp_path, *overrides), lambda line: None)
        folder = context.made(search.step(context).recipe)
        reranked = journal.read(folder / reranking.JOURNAL)
        candidates.append([line["key"] for line in reranked])
        losses.append([line["fitness"] for line in reranked])
        flops.append(json.loads((folder / search.COSTS).read_text())["rerank"]["flops"])
        assert search.winner(context) == min(reranked, key=lambda line: line["fitness"])["subnetwork"]
    assert candidates[0] == candidates[1]
    assert all(ours != theirs for ours, theirs in zip(*losses, strict=True))
    # Two layers fewer to run along, on 256 tokens for each of three candidates.
    whole, half = context.architecture, context.kd_architecture
    saved = flops_per_token(whole, length=32) - flops_per_token(half, length=32)
    assert half.n_layer == 2 and flops[0] - flops[1] == 3 * 256 * saved


def test_what_a_rerank_is_belongs_to_the_fingerprint_and_nothing_else(tmp_path):
    def fingerprint(*overrides):
        context = Context(smoke(tmp_path, *overrides), lambda line: None)
        return search.step(context).recipe.fingerprint

    assert fingerprint("search.rerank.tokens=512") == fingerprint("distill.temperature=2") == fingerprint()
    reranked = fingerprint(*RERANK)
    assert reranked != fingerprint()
    assert fingerprint(*RERANK, "distill.temperature=2") != reranked
    assert fingerprint(*RERANK, "distill.tokens=512", "distill.micro_batch=1") == reranked
