"""The correlation study on the smoke run: its measures are the run's own, and its correlations those of its points."""

import csv
import json
import math
import shutil
from copy import deepcopy
from functools import cache, reduce
from pathlib import Path

import pytest
from runs import smoke
from scipy import stats

import pipeline
from pipeline.config import Config, Init, StudyConfig
from pipeline.errors import SprigError
from pipeline.layout import SUMMARY
from pipeline.models import checkpoint
from pipeline.models.perplexity import mean_nll
from pipeline.report import html, material
from pipeline.report import study as study_report
from pipeline.search import journal
from pipeline.stages import graph, recover, rerank, search, study
from pipeline.stages.context import Context
from pipeline.stages.roots import roots
from pipeline.subnetwork.counting import flops_per_token
from pipeline.subnetwork.value import whole

FITNESSES = ("perplexity", "kl", "recovered", "short-128")
WHOLE = pytest.mark.slow  # reads a study of five trainings
STUDY = ["study.random=3", "study.searched=2", "study.short=[128]", "study.resamples=20"]


@pytest.fixture(scope="module")
def outputs(smoke_outputs, tmp_path_factory) -> Path:
    """The smoke run with a study, which finds everything else made."""
    outputs = tmp_path_factory.mktemp("study") / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    pipeline.run(smoke(outputs, *STUDY))
    return outputs


@pytest.fixture(scope="module")
def folder(outputs) -> Path:
    return outputs / "smoke/latest/artifacts/study"


def points(folder: Path) -> list[dict]:
    with (folder / study.POINTS).open() as file:
        return list(csv.DictReader(file))


IDENTITIES: dict = {}  # the text is read once


@cache
def composed() -> Config:
    return smoke(Path("outputs"), *STUDY)


def context_of(**changes: object) -> Context:
    """The smoke run with the study, some keys changed: their dots are underscores twice."""
    config = deepcopy(composed())
    for key, value in changes.items():
        *path, name = key.split("__")
        setattr(reduce(getattr, path, config), name, value)
    return Context(config, print, IDENTITIES)


def fingerprint(**changes: object) -> str:
    return graph.build(context_of(**changes))["study"].recipe.fingerprint


@WHOLE
def test_searched_and_random_sub_networks_of_the_run(outputs, folder):
    context = Context(smoke(outputs, *STUDY), print)
    found = {line["subnetwork"]: line["fitness"] for line in journal.read(folder.parent / "search" / search.JOURNAL)}
    measured = {line["key"]: line["subnetwork"] for line in journal.read(folder / "reached.jsonl")}
    best, worst, *drawn = points(folder)
    winner = rerank.winner(context, graph.build(context)["search"].recipe)
    assert measured[best["subnetwork"]] == winner == min(found, key=found.get)
    for point, fitness in ((best, min(found.values())), (worst, max(found.values()))):
        assert float(point["perplexity"]) == found[measured[point["subnetwork"]]] == fitness
    assert [point["from"] for point in drawn] == ["random"] * 3 and len(measured) == 5
    assert all(context.bin.contains(int(point["parameters"])) for point in drawn)


@WHOLE
def test_the_winner_reaches_what_the_runs_own_student_reached(folder):
    """To the bit: the same start, text, settings and validation blocks."""
    evaluation = json.loads((folder.parent / "evaluation/evaluation.json").read_text())
    assert float(points(folder)[0]["reached"]) == evaluation["models"]["student"]["nll"]


@WHOLE
def test_after_recovery_the_winner_has_the_perplexity_of_the_runs_own_recovered_student(outputs, folder):
    context = Context(smoke(outputs, *STUDY), print)
    student = checkpoint.load(folder.parent / "recovered_student", "cpu")
    blocks = context.evenly(roots(context).tokens, "calibration", 4, "search.blocks")
    assert float(points(folder)[0]["recovered"]) == pytest.approx(math.exp(mean_nll(student, blocks, 4, "fp32")))


@WHOLE
def test_the_correlations_are_those_of_the_points(folder):
    summary = json.loads((folder.parents[1] / SUMMARY).read_text())
    rows = points(folder)
    for found in summary["study"]["correlations"]:
        chosen = [row for row in rows if found["among"] in ("all", row["from"])]
        fitness, reached = ([float(row[name]) for row in chosen] for name in (found["fitness"], "reached"))
        assert found["n"] == len(chosen) == (5 if found["among"] == "all" else 3)
        assert found["spearman"]["value"] == pytest.approx(stats.spearmanr(fitness, reached).statistic)
        assert found["kendall"]["value"] == pytest.approx(stats.kendalltau(fitness, reached).statistic)
    named = {(found["fitness"], found["among"]) for found in summary["study"]["correlations"]}
    assert named == {(fitness, among) for fitness in FITNESSES for among in ("all", "random")}
    assert summary["study"]["points"][0] | {"from": "searched"} == {
        key: value if key in ("subnetwork", "from") else json.loads(value) for key, value in rows[0].items()
    }


@WHOLE
def test_the_report_shows_it(outputs, folder):
    run = folder.parents[1]
    summary, page = json.loads((run / SUMMARY).read_text()), (run / material.PAGE).read_text()
    found = summary["study"]["correlations"][0]["kendall"]
    assert f"| {found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}] |" in page
    assert "](study.svg)" in page and "loss after 128 tokens" in page and (run / "study.svg").exists()
    assert "Which fitness predicts training" in (run / html.PAGE).read_text()
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file() and path.name != "run.log"}
    pipeline.run(smoke(outputs, *STUDY))
    assert {path: path.read_bytes() for path in before} == before


@WHOLE
def test_trainings_that_diverged_are_counted_and_not_drawn(folder):
    found = study.result(folder)
    for point in found["points"]:
        point |= {"short-128": None, "reached": None if point["from"] == "searched" else point["reached"]}
    for each in found["correlations"][-2:]:
        each["spearman"] = dict.fromkeys(each["spearman"])
    _, _, rows, note = study_report.table(found)
    assert rows[-1][3] == "none: all are equal" and "2 training runs diverged: they rank last." in note
    panels = study_report.plot(found).figure().axes
    assert [axes.get_xlabel() for axes in panels] == [study_report.label(name) for name in FITNESSES]
    drawn = [[len(points.get_offsets()) for points in axes.collections] for axes in panels]
    assert drawn == [[0, 3], [0, 3], [0, 3], [0, 0]]  # searched, random


def test_what_a_study_is_determines_it_and_nothing_else():
    base = fingerprint()
    same = {"distill__control__enabled": False, "distill__micro_batch": 4, "study__tokens": 4_096}
    assert all(fingerprint(**{key: value}) == base for key, value in same.items())
    different = {"study__random": 4, "study__tokens": 512, "study__short": [256], "study__confidence": 0.9}
    different |= {"distill__temperature": 2.0, "evaluate__blocks": 4, "search__blocks": 2, "seed": 1}
    assert len({fingerprint(**{key: value}) for key, value in different.items()} | {base}) == 9
    assert "study" not in graph.build(context_of(study=StudyConfig()))


def test_random_ones_alone_need_no_search():
    steps = graph.build(context_of(study__searched=0, distill__init=Init.random_subnetwork)).values()
    assert "study" in (roles := [step.role for step in steps]) and "search" not in roles


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["study.random=2"], r"study.random=2 and study.searched=0 make 2 .* at least 3: raise"),
        (["study.random=-1"], r"study.random=-1 must lie in 0..10_000"),
        (["study.random=3", "study.short=[256,128]"], r"study.short=\[256, 128\] must be growing"),
        (["study.random=3", "study.tokens=100"], r"study.tokens=100 is below one batch of 4 blocks x 32 = 128 tokens"),
        (["study.random=3", "study.short=[64]"], r"study.short=64 is below one batch of 4 blocks x 32 = 128 tokens"),
        (["study.random=3", "study.short=[4096]"], r"study.short=4,096 is not shorter .* study.tokens=4,096: lower"),
        (["study.searched=25"], r"study.searched=25, but search evolution scores at most 24 candidates: lower it"),
        (["study.random=3", "study.searched=2", "search=uniform"], r"=2, but search uniform scores at most 1 "),
        (["study.searched=5", "search.limit.evaluations=4"], r"study.searched=5, but .* scores at most 4 candidates"),
        (["study.searched=5", "search.limit.tokens=639"], r"study.searched=5, but .* scores at most 4 candidates"),
        (
            ["study.random=40", "space=coarse-uniform", "space.hold=[n_embd,n_query_groups,heads_per_group,head_size]"],
            r"study.random=40 .* 40 distinct sub-networks, but \d+ were found in the bin 70,000\.\.90,000: lower them",
        ),
    ],
)
def test_bad_input(tmp_path, overrides, sentence):
    with pytest.raises(SprigError, match=sentence):
        pipeline.run(smoke(tmp_path, *overrides, "plan=true"))


def test_a_search_that_ended_early_fails_before_anything_is_trained(tmp_path, smoke_outputs):
    """A limit in FLOPs: how many candidates it pays for is not known before."""
    shutil.copytree(smoke_outputs, tmp_path, symlinks=True, dirs_exist_ok=True)
    limited = ["study.searched=5", "search.limit.flops=80_000_000", "search.random_baseline=false"]
    before = set(tmp_path.glob("artifacts/*/*"))
    with pytest.raises(SprigError, match=r"study.searched=5, but the search has \d distinct candidates with a finite"):
        pipeline.run(smoke(tmp_path, *limited))
    assert {path.parent.name for path in set(tmp_path.glob("artifacts/*/*")) - before} == {"search"}


@WHOLE
@pytest.mark.parametrize(
    ("overrides", "trained"),
    [
        (["study.confidence=0.9", "study.resamples=30"], []),
        (["study.random=4"], [128, 4_096]),
        (["study.short=[128,256]"], [256] * 5),
        (["study.searched=0", "study.tokens=2048"], [2_048] * 3),
        (["distill.temperature=3", "study.short=[]"], [4_096] * 5),
    ],
)
def test_another_study_measures_only_what_is_new(outputs, tmp_path, monkeypatch, overrides, trained):
    shutil.copytree(outputs, tmp_path, symlinks=True, dirs_exist_ok=True)
    asked, started, begin = [], [], study.short.start

    def start(context, roots, sub):
        started.append(sub)
        return begin(context, roots, sub)

    def train(context, roots, sub, student, tokens, **_) -> float:
        assert sub == started[-1]
        asked.append(tokens)
        return float(tokens)

    monkeypatch.setattr(study.short, "start", start)
    monkeypatch.setattr(study.short, "train", train)
    pipeline.run(smoke(tmp_path, *STUDY, *overrides, "stages=[study]"))
    assert asked == trained and len(set(started)) == len(started)  # each is cut out and recovered once
    before = {point["subnetwork"]: point for point in points(outputs / "smoke/latest/artifacts/study")}
    for point in points(tmp_path / "smoke/latest/artifacts/study"):
        same = before.get(point["subnetwork"], point)
        assert all(value in (same.get(name, value), *map(str, map(float, trained))) for name, value in point.items())


def test_it_trains_in_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SprigError, match="study trains in one process, but 2 were started: start it without torchrun"):
        study.check(context_of())
    study.check(context_of(stages=["distill"]))


def test_the_plan_prices_every_training(tmp_path, capsys):
    pipeline.run(smoke(tmp_path, *STUDY, "plan=true"))
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "3 random + 2 searched sub-networks x 128 + 4,096 tokens" in said
    context = context_of()
    sub = whole(context.architecture)
    evaluated, trained, teacher = 3 * 4 * 32, 128 + 4_096, flops_per_token(context.architecture, length=32)
    assert study.flops(context, sub) == teacher * evaluated + (3 + 1) * teacher * trained + recover.flops(context, sub)


@pytest.mark.parametrize("size", [[], ["size=gpu"]])
def test_the_preset_is_planned(size, capsys):
    config = pipeline.compose(["experiment=study", *size, "plan=true"])
    pipeline.run(config)
    assert config.study.random == config.study.searched >= 12 and "sub-networks x" in capsys.readouterr().out


@pytest.mark.slow
def test_the_preset_runs_at_its_smoke_size(tmp_path):
    summary = pipeline.run(pipeline.compose(["experiment=study", "size=smoke", f"outputs={tmp_path}"]))
    assert summary["status"] == "completed" and len(summary["study"]["points"]) == 8
