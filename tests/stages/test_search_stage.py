"""Stage search: what is in a fingerprint, what a limited search costs, and what the report makes of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import smoke

import pipeline
from pipeline.errors import SprigError
from pipeline.plan import checks
from pipeline.plan.table import table
from pipeline.report import material
from pipeline.search import journal
from pipeline.stages import evaluate, graph, scoring, search
from pipeline.stages.context import Context
from pipeline.stages.roots import roots
from pipeline.subnetwork.diversity import diversity
from pipeline.subnetwork.selection import Ordering

MUTANTS = ["search=one_plus_lambda", "search.population=5", "search.offspring=6", "search.start=[importance]"]
LAYERS = ["space.layers=subset"]


def fingerprints(outputs, *overrides) -> tuple[str, str]:
    context = Context(smoke(outputs, *overrides), lambda line: None)
    steps = graph.build(context)
    return steps["search"].recipe.fingerprint, steps["random_search"].recipe.fingerprint


def test_the_dimensions_of_mixtures_are_in_a_fingerprint_only_where_they_are_set(tmp_path):
    """Searches from before there were mixtures stay."""
    dense = {"n_layer", "n_embd", "n_query_groups", "heads_per_group", "head_size", "intermediate_size"}
    plain, given = (
        search.space_part(Context(smoke(tmp_path, *overrides), lambda line: None))
        for overrides in ([], ["space.max.n_expert=2"])
    )
    assert set(plain["step"]) == set(plain["min"]) == set(plain["max"]) == dense
    assert given["max"] == plain["max"] | {"n_expert": 2}


@pytest.fixture
def given(tmp_path) -> dict:
    """A sub-network of the smoke preset's space, as a file has it."""
    context = Context(smoke(tmp_path), lambda line: None)
    (sub,) = context.draws(Ordering.identity(context.architecture), np.random.default_rng(0))
    return replace(sub, ordering=roots(context).ordering_fingerprint).to_dict()


def of_file(outputs, content: object, *overrides: str) -> Context:
    (file := outputs / "given.json").write_text(json.dumps(content))
    words = ["search=given", f"search.path={file}", "search.random_baseline=false", *overrides]
    return Context(smoke(outputs, *words), lambda line: None)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (lambda good: [], "not a JSON object"),
        (lambda good: {"n_embd": 8}, "has no layers"),
        (lambda good: good | {"more": 1}, "unknown key more"),
        (lambda good: good | {"n_embd": True}, "n_embd=True is not a whole number"),
        (lambda good: good | {"genes": good["genes"][1:]}, "but has genes for"),
        (lambda good: good | {"n_embd": 9_999}, "n_embd=9999 is outside"),
        (lambda good: good | {"layers": [-1, *good["layers"][1:]]}, "reach outside"),
        (lambda good: good | {"head_pairs": "x"}, "head_pairs='x' must be one of"),
    ],
)
def test_a_file_without_a_subnetwork_of_the_teacher_is_named_with_the_cure(tmp_path, given, wrong, why):
    with pytest.raises(SprigError) as caught:
        checks.check(of_file(tmp_path, wrong(given)))
    said = str(caught.value)
    assert said.startswith(f"search.path={tmp_path / 'given.json'} holds no sub-network of teacher tiny-random (")
    assert why in said and said.endswith("): name the subnetwork.json of a run that cuts this teacher.")


def test_the_plan_of_a_given_subnetwork_has_no_space(tmp_path, given):
    rows = dict(table(of_file(tmp_path, given)))
    assert rows["space"] == f"none: the sub-network of {tmp_path / 'given.json'}" and rows["bin"] == "70,000..90,000"
    drawn = dict(table(of_file(tmp_path, given, "distill.control.init=random_subnetwork")))
    assert drawn["space"] == "coarse layerwise, layers by rank"


@pytest.mark.parametrize(
    ("strategy", "matters", "does_not"),
    [
        ("evolution", "parents=2", "offspring=3"),
        ("evolution", "start=[uniform]", "evaluations=7"),
        ("one_plus_lambda", "population=5", "mutation.gene_rate=0.9"),
        ("one_plus_lambda", "offspring=5", "parents=2"),
        ("local", "offspring=3", "mutation.gene_rate=0.9"),
        ("random", "evaluations=7", "population=9"),
        ("random", "limit.tokens=1_000", "generations=9"),
        ("uniform", "blocks=3", "limit.tokens=1_000"),
    ],
)
def test_the_fingerprint_has_what_determines_the_walk(tmp_path, strategy, matters, does_not):
    base = [f"search={strategy}"]
    plain, _ = fingerprints(tmp_path, *base)
    assert fingerprints(tmp_path, *base, f"search.{does_not}")[0] == plain
    assert fingerprints(tmp_path, *base, f"search.{matters}")[0] != plain


def test_the_seed_is_not_in_a_choice_without_draws(tmp_path):
    assert fingerprints(tmp_path, "search=uniform")[0] == fingerprints(tmp_path, "search=uniform", "seed=1")[0]
    assert fingerprints(tmp_path, "search=local")[0] != fingerprints(tmp_path, "search=local", "seed=1")[0]


def test_searches_of_equal_cost_share_a_baseline_but_limited_ones_have_their_own(tmp_path):
    _, plain = fingerprints(tmp_path)
    assert fingerprints(tmp_path, "search.mutation.gene_rate=0.9")[1] == plain
    assert fingerprints(tmp_path, "search.generations=2")[1] != plain
    assert fingerprints(tmp_path, "search.limit.flops=1_000_000")[1] != plain


@pytest.mark.slow
def test_a_limited_search_and_its_baseline_evaluate_the_same_tokens(tmp_path):
    """The whole path: evaluations of 4 blocks, cut off by the limit, then random on as many tokens."""
    limit = 43 * 32
    short = ["distill.tokens=512", "distill.validations=1", "distill.control.enabled=false"]
    config = smoke(tmp_path, *MUTANTS, *LAYERS, f"search.limit.tokens={limit}", *short)
    summary = pipeline.run(config)
    folder = next(tmp_path.glob("smoke/latest/artifacts"))
    scored, drawn = (journal.read(folder / role / search.JOURNAL) for role in ("search", "random_search"))
    costs = json.loads((folder / "search" / search.COSTS).read_text())
    tokens = [len(line["losses"]) * 32 for line in scored]
    assert summary["search"]["tokens"] == costs["tokens"] == sum(tokens) <= limit
    assert summary["search"]["evaluated"] == len(scored)
    assert len(drawn) == len(scored) == 10 and {line["blocks"] for line in [*scored, *drawn]} == {4}
    fitnesses = [line["fitness"] for line in scored]
    assert summary["search"]["best_fitness"] == min(fitnesses)
    assert summary["search"]["random_best_fitness"] == min(line["fitness"] for line in drawn)
    assert summary["flops"]["search"] == costs["flops"]
    subs = list(dict.fromkeys(line["subnetwork"] for line in scored))
    assert len(subs) == summary["search"]["candidates"] == 10
    assert summary["search"]["diversity"] == {
        "candidates": 5,
        "first": diversity(subs[:5]),
        "last": diversity(subs[-5:]),
    }
    context = Context(config, lambda line: None)
    shown = material.gather(context, graph.build(context)).candidates["search"]
    assert [line["subnetwork"] for line in shown] == subs
    assert [line["fitness"] for line in shown] == fitnesses
    assert (
        f"one_plus_lambda, {len(scored)} evaluations of {len(subs)} candidates, {sum(tokens):,} tokens"
        in (folder.parent / "report.md").read_text()
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "24 evaluations, 3,072 tokens"),
        (["search.limit.evaluations=10"], "10 evaluations, 1,280 tokens"),
        (["search.limit.tokens=700"], "5 evaluations, 640 tokens"),
    ],
)
def test_the_plan_says_what_a_limited_search_spends(tmp_path, overrides, said):
    rows = dict(table(Context(smoke(tmp_path, *overrides), lambda line: None)))
    assert said in rows["search"] and "search's limit" not in rows


def test_a_limit_that_does_not_end_the_search_is_said_in_the_plan_and_the_log(tmp_path, caplog):
    short = ["search=random", "search.evaluations=2", "search.blocks=4", "search.limit.tokens=1_000", *LAYERS]
    said = "asks for 256 of the 1,000 tokens that search.limit allows: raise search.evaluations"
    config = smoke(tmp_path, *short, "stages=[prepare,order,search]")
    assert said in dict(table(Context(config, lambda line: None)))["search's limit"]
    pipeline.run(config)
    assert said in caplog.text


def test_calibration_text_shorter_than_the_blocks_asked_for(smoke_outputs):
    said = (
        r"search\.blocks=9999, but the calibration split of data sotu has \d+ blocks of 32 tokens: "
        r"lower search\.blocks, raise data\.calibration, or give more text"
    )
    with pytest.raises(SprigError, match=said):
        context = Context(smoke(smoke_outputs, "search.blocks=9999"), lambda line: None)
        checks.check_prepared(context, roots(context))


def test_validation_text_shorter_than_the_prompt_that_is_timed(smoke_outputs, monkeypatch):
    """As a teacher with a long context allows."""
    monkeypatch.setattr(evaluate, "prefill", lambda context: 900_000)
    said = r"evaluate\.speed\.prefill=900,000, but the validation split of data sotu has [\d,]+ tokens: lower eval"
    with pytest.raises(SprigError, match=said):
        context = Context(smoke(smoke_outputs), lambda line: None)
        checks.check_prepared(context, roots(context))


def test_what_limits_are_counted_at_matters_only_where_there_are_some(tmp_path):
    def parts(*overrides):
        return [
            search.space_part(Context(smoke(tmp_path, *overrides, each), lambda line: None))
            for each in ("precision=fp32", "precision=bf16", "data.block_size=16")
        ]

    plain, limited = parts("plan=true"), parts("plan=true", "space.max_kv_bytes_per_token=100_000")
    assert plain[0] == plain[1] == plain[2] and "limits" not in plain[0]
    assert [each["limits"]["value_bytes"] for each in limited] == [4, 2, 4]
    assert [each["limits"]["length"] for each in limited] == [32, 32, 16]


def test_a_time_that_was_cut_short_spoils_no_other(tmp_path):
    class Instant:
        def run(self, subs):
            yield from enumerate([[1.0]] * 3)

    path = tmp_path / search.TIMES
    for cut in range(7):
        list(search._Timed(Instant(), path).run([]))
        path.write_text(path.read_text()[: -cut or None])
    assert all(0 <= float(seconds) < 1 for seconds in path.read_text().split())


@pytest.mark.parametrize(
    ("content", "seconds"), [(None, 0), (b"", 0), (b"\n1.5\n0.25", 1.75), (b"\n1.5\n\xff\0\nnan\n2", 3.5)]
)
def test_damaged_times_do_not_count(tmp_path, content, seconds):
    if content is not None:
        (tmp_path / search.TIMES).write_bytes(content)
    assert search._seconds(tmp_path / search.TIMES) == seconds


@pytest.mark.parametrize(("device", "compiled"), [("cpu", False), ("cuda", True)])
def test_a_gpu_compiles_the_loss_of_candidates_where_distillation_compiles(
    smoke_outputs, monkeypatch, device, compiled
):
    found = Context(smoke(smoke_outputs, "distill.compile=true"), log=lambda line: None)
    found.device = torch.device(device)
    monkeypatch.setattr(found, "teacher", lambda *_: None)
    monkeypatch.setattr(scoring, "Evaluator", lambda *_, **named: named)
    with scoring.scorer(found, found.config.search, roots(found)) as evaluator:
        assert evaluator["compiled"] is compiled
