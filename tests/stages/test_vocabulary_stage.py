"""A whole run with a cut vocabulary, on a random teacher with the laboratory's tokenizer."""

import json
import math
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import smoke
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

import pipeline
from pipeline.data.blocks import Blocks
from pipeline.errors import SprigError
from pipeline.models import checkpoint
from pipeline.models.tokenizer import Tokenizer, write_bytes
from pipeline.plan import checks
from pipeline.plan.table import table
from pipeline.stages import graph
from pipeline.stages.context import Context

ROOT = Path(__file__).parents[2]
WHOLE, KEPT = 1024, 500
TEACHER = [f"teacher.tokenizer={ROOT / 'teachers/tokenizer'}", f"teacher.litgpt.vocab_size={WHOLE}"]
SHORT = [
    *("data=text", f"data.path={ROOT / 'LICENSE'}", "data.sample_by=paragraph", "data.max_tokens=null"),
    *("data.validation=0.2", "data.calibration=0.2"),
    *("bin.low=100_000", "bin.high=135_000", "search=first_layers", "space.layers=prefix", "evaluate.blocks=4"),
    *("search.random_baseline=false", "distill.tokens=256", "distill.validations=1", "distill.control.enabled=false"),
    *("evaluate.speed.prefill=8", "evaluate.speed.decode=2", "evaluate.speed.repetitions=1"),
]


def configured(outputs: Path, *overrides: str) -> pipeline.config.Config:
    return smoke(outputs, *TEACHER, *SHORT, f"space.vocabulary={KEPT}", *overrides)


def context(outputs: Path, *overrides: str) -> Context:
    return Context(configured(outputs, *overrides), log=lambda line: None)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    outputs = tmp_path_factory.mktemp("vocabulary") / "outputs"
    pipeline.run(configured(outputs))
    return outputs


@pytest.fixture(scope="module")
def run(outputs) -> Path:
    return (outputs / "smoke/latest").resolve()


@pytest.fixture(scope="module")
def summary(run) -> dict:
    return json.loads((run / "summary.json").read_text())


def manifest(artifact: Path) -> dict:
    return json.loads((artifact / "manifest.json").read_text())


def test_the_tokens_that_the_training_text_uses_stay(run):
    kept, whole = (
        set(Tokenizer(run / f"artifacts/{name}")._tokenizer.get_vocab()) for name in ("teacher", "uncut_teacher")
    )
    train = Blocks(run / "artifacts/uncut_tokens", "train")
    counts = train.counts(WHOLE)
    assert (len(kept), len(whole)) == (KEPT, WHOLE) and kept < whole
    assert counts.tolist() == np.bincount(train._tokens, minlength=WHOLE).tolist()
    uncut = Tokenizer(run / "artifacts/uncut_teacher")
    most = [uncut.token_of(int(number)) for number in np.argsort(-counts)[:100]]
    assert kept >= set(most)


def test_the_text_is_the_same_in_the_kept_tokens(run):
    texts = []
    for name in ("uncut_", ""):
        tokens = Blocks(run / f"artifacts/{name}tokens", "calibration")._tokens
        texts.append(Tokenizer(run / f"artifacts/{name}teacher").decode(tokens.tolist()))
    assert texts[0] == texts[1] and len(texts[0]) > 500


def test_evaluation_holds_no_more_models_than_a_plan_counts(outputs, tmp_path, monkeypatch):
    """A student next to the teacher, or the uncut teacher alone."""
    seen, loaded, load = [], {}, checkpoint.load

    def watched(folder, *arguments):
        seen.append({name for name, model in loaded.items() if model() is not None})
        model = load(folder, *arguments)
        loaded[f"{folder.parent.name}: {model.config.vocab_size} tokens"] = weakref.ref(model)
        return model

    monkeypatch.setattr(checkpoint, "load", watched)
    graph.build(context(outputs))["evaluation"].make(tmp_path)
    teacher = f"prepare: {KEPT} tokens"
    assert seen == [set(), {teacher}, {teacher}, set()]
    assert list(loaded)[-1] == f"prepare: {WHOLE} tokens"


def test_parameters_are_those_of_the_exported_model(run, summary, tmp_path):
    reopened = pipeline.compose([f"run={run}", "stages=[export]", f"export.to={tmp_path / 'student'}"])
    pipeline.run(reopened)
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "student"), Tokenizer(run / "artifacts/teacher")
    text = "Fellow citizens, naïve 🙂 2026"
    assert theirs.encode(text) == ours.encode(text) and len(theirs) == KEPT
    assert theirs.decode(theirs.encode(text)) == text
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert model.num_parameters() == summary["student"]["parameters"]
    assert model.config.vocab_size == KEPT and model.config.eos_token_id == ours.eos_id
    card = (tmp_path / "student/README.md").read_text()
    assert "| vocabulary | 500 of 1,024 tokens |" in card and "bits per byte" in card


def test_counts_are_in_the_bin_and_noted_with_the_sub_network(run, summary):
    noted = json.loads((run / "artifacts/distilled_student/subnetwork.json").read_text())["about"]
    assert noted["vocabulary"] == {"kept": KEPT, "teacher": WHOLE}
    assert noted["parameters"] == summary["student"]["parameters"]
    assert summary["bin"]["low"] <= summary["student"]["parameters"] <= summary["bin"]["high"]
    for role, name in (("teacher", "teacher"), ("uncut_teacher", "uncut_teacher")):
        model = checkpoint.load(run / f"artifacts/{name}", "cpu")
        assert sum(each.numel() for each in model.parameters()) == summary[role]["parameters"]
    assert summary["uncut_teacher"]["parameters"] - summary["teacher"]["parameters"] == (WHOLE - KEPT) * 64
    assert (summary["uncut_teacher"]["vocabulary"], summary["uncut_teacher"]["kept"]) == (WHOLE, KEPT)


def test_both_teachers_are_scored_on_the_same_bytes(run, summary):
    blocks = Blocks(run / "artifacts/tokens", "validation").evenly(summary["data"]["validation_blocks"])
    cut, uncut = (Tokenizer(run / f"artifacts/{name}") for name in ("teacher", "uncut_teacher"))
    model = checkpoint.load(run / "artifacts/uncut_teacher", "cpu").eval()
    nats, size, tokens = 0.0, 0, 0
    for block in blocks.tolist():
        text = cut.decode(block[1:])  # "<|endoftext|>" between documents
        ids = uncut.encode(cut.decode(block[:1]))[-1:] + uncut.encode(text)
        with torch.no_grad():
            logits = model(torch.tensor([ids[:-1]]))[0, :, :WHOLE].double()
        nats += F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum").item()
        size, tokens = size + len(text.replace("<|endoftext|>", "").encode()), tokens + len(ids) - 1
    found = summary["uncut_teacher"]
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    per_token = math.log(summary["teacher"]["perplexity"]) / math.log(2) * blocks[:, 1:].numel() / size
    assert summary["teacher"]["bits_per_byte"] == pytest.approx(per_token, rel=1e-6)


def test_every_perplexity_has_its_bits_per_byte(run, summary):
    student = summary["student"]
    ratio = summary["teacher"]["bits_per_byte"] / math.log(summary["teacher"]["perplexity"])
    for name in ("untrained", "recovered", "final"):
        per_byte = ratio * math.log(student[f"{name}_perplexity"])
        assert student[f"{name}_bits_per_byte"] == pytest.approx(per_byte, rel=1e-6)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if "validation_nll" in line]
    assert [line["bits_per_byte"] for line in validations] == pytest.approx(
        [ratio * line["validation_nll"] for line in validations], rel=1e-6
    )
    page = (run / "report.md").read_text()
    assert "| uncut teacher |" in page and "| bits per byte |" in page and "500 of 1,024 tokens" in page


def test_a_lost_teacher_is_cut_to_the_same_bytes_again(outputs, tmp_path):
    copied = tmp_path / "outputs"
    shutil.copytree(outputs, copied, symlinks=True)
    teacher = (copied / "smoke/latest/artifacts/teacher").resolve()
    before = manifest(teacher)["files"]
    times = {path: path.stat().st_mtime_ns for path in copied.glob("artifacts/*/*/manifest.json")}
    del times[teacher / "manifest.json"]
    shutil.rmtree(teacher)
    pipeline.run(configured(copied))
    assert manifest(teacher)["files"] == before
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_the_plan_counts_the_kept_tokens(tmp_path):
    rows = dict(table(context(tmp_path)))
    assert rows["vocabulary"] == "500 of 1,024 tokens; the whole teacher has 238,144 parameters"
    assert rows["teacher's parameters"].startswith("204,608 ")


def test_without_the_option_no_recipe_knows_of_it(tmp_path):
    config = smoke(tmp_path)
    assert config.space.vocabulary is None
    steps = graph.build(Context(config, log=lambda line: None))
    assert not any("uncut" in role or "vocabulary" in json.dumps(step.recipe.config) for role, step in steps.items())


def test_another_size_shares_what_is_prepared_with_the_whole_vocabulary(tmp_path):
    few, many = (graph.build(context(tmp_path, f"space.vocabulary={size}")) for size in (400, 600))
    for role in ("uncut_teacher", "uncut_tokens"):
        assert few[role].recipe == many[role].recipe
    for role in ("teacher", "tokens", "ordering", "extracted_student", "evaluation"):
        assert few[role].recipe.fingerprint != many[role].recipe.fingerprint


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["space.vocabulary=1025"], "space.vocabulary=1,025, but teacher tiny-random has 1,024 tokens: lower it"),
        (["space.vocabulary=256"], "256, but 257 tokens always stay: .* one that ends a text. Set it to 257 or more"),
        (["teacher@kd_teacher=tiny-deep"], "kd_teacher tiny-deep has a vocabulary of 257 and teacher tiny-random"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(tmp_path, overrides, said):
    with pytest.raises(SprigError, match=said):
        checks.check(context(tmp_path, *overrides))


def test_a_kd_teacher_of_the_same_tokenizer_is_cut_alike(outputs, run):
    kd = [f"kd_teacher.{each.removeprefix('teacher.')}" for each in TEACHER]
    made = kd_teacher(context(outputs, "teacher@kd_teacher=tiny-deep", *kd))
    assert (made / "tokenizer.json").read_bytes() == (run / "artifacts/teacher/tokenizer.json").read_bytes()
    assert checkpoint.load(made, "cpu").lm_head.weight.shape[0] == KEPT


def test_a_kd_teacher_of_as_many_other_tokens_is_refused(outputs, tmp_path):
    write_bytes(tmp_path)
    plain = json.loads((tmp_path / "tokenizer.json").read_text())
    plain["model"]["vocab"] |= {f"{first}{second}": 256 + number for number, (first, second) in _pairs()}
    plain["model"]["merges"] = [list(pair) for _, pair in _pairs()]
    plain["added_tokens"][0]["id"] = WHOLE - 1
    (tmp_path / "tokenizer.json").write_text(json.dumps(plain))
    kd = [f"kd_teacher.tokenizer={tmp_path}", f"kd_teacher.litgpt.vocab_size={WHOLE}"]
    with pytest.raises(SprigError, match=r"The tokenizers of .* differ in .* tokens"):
        kd_teacher(context(outputs, "teacher@kd_teacher=tiny-deep", *kd))


def kd_teacher(started: Context) -> Path:
    """Made from the teacher and the text of the finished run."""
    steps = graph.build(started)
    started.store.obtain(steps["uncut_kd_teacher"].recipe, steps["uncut_kd_teacher"].make)
    return started.store.obtain(steps["kd_teacher"].recipe, steps["kd_teacher"].make)


def _pairs():
    letters = "abcdefghijklmnopqrstuvwxyzABCDEF"
    return list(enumerate((first, second) for first in letters for second in letters))[: WHOLE - 257]


@pytest.mark.parametrize("vocabulary", ["null", "400"])
def test_a_student_of_another_vocabulary_does_not_start_a_run(run, tmp_path, vocabulary):
    trained = ["distill.init=trained", f"distill.from_run={run}", f"space.vocabulary={vocabulary}", "bin.high=170_000"]
    with pytest.raises(SprigError, match=f"has space.vocabulary=500, but this run has {vocabulary}: give it the same"):
        checks.check(context(tmp_path, *trained))


def test_a_student_of_the_same_vocabulary_is_trained_further(outputs, run):
    started = context(outputs, "distill.init=trained", f"distill.from_run={run}")
    checks.check(started)
    before = manifest((run / "artifacts/distilled_student").resolve())["fingerprint"]
    assert graph.build(started)["extracted_student"].recipe.inputs["student"] == before
