"""The main job on a tiny random teacher: the whole path, once, and what a second command makes of it."""

import json
import math
import shutil
from pathlib import Path
from xml.etree import ElementTree

import litgpt
import numpy as np
import pytest
import torch
from runs import smoke
from torch.nn import functional as F

import pipeline
from pipeline.artifacts import MANIFEST
from pipeline.config import STAGES
from pipeline.data.blocks import Blocks
from pipeline.errors import SprigError
from pipeline.models import checkpoint
from pipeline.search import journal
from pipeline.stages import distill, graph, prepare
from pipeline.stages.context import Context
from pipeline.subnetwork.counting import flops_per_token
from pipeline.subnetwork.value import SubNetwork

WSD = ["distill.schedule.warmup_tokens=256", "distill.validation_tokens=1024", "distill.tokens=8k"]


@pytest.fixture(scope="module")
def folder(smoke_outputs) -> Path:
    return smoke_outputs / "smoke" / "latest"


@pytest.fixture(scope="module")
def summary(folder) -> dict:
    return json.loads((folder / "summary.json").read_text())


def manifests(outputs: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime_ns for path in outputs.glob(f"artifacts/*/*/{MANIFEST}")}


def test_summary_has_the_schema_and_its_numbers_agree_with_the_artifacts(folder, summary):
    assert set(summary) >= {
        "schema", "status", "seed", "preset", "teacher", "bin", "space", "ordering", "search", "student", "control",
        "flops", "saving", "downstream",
    }  # fmt: skip
    assert summary["status"] == "completed" and summary["preset"] == "smoke"
    evaluated = journal.read(folder / "artifacts/search/journal.jsonl")
    assert summary["search"]["evaluated"] == len(evaluated) == 24
    assert summary["search"]["best_fitness"] == min(line["fitness"] for line in evaluated)
    drawn = journal.read(folder / "artifacts/random_search/journal.jsonl")
    assert len(drawn) == 24
    assert summary["search"]["random_best_fitness"] == min(line["fitness"] for line in drawn)
    low, high = summary["bin"]["low"], summary["bin"]["high"]
    assert all(low <= line["parameters"] <= high for line in evaluated + drawn)
    assert summary["student"]["tokens"] == summary["control"]["tokens"] == 4096
    assert summary["student"]["parameters"] == summary["control"]["parameters"]


@pytest.mark.parametrize("role", ["student", "control"])
def test_perplexity_is_what_a_dense_loss_on_the_same_blocks_gives(folder, summary, role):
    model = checkpoint.load(folder / f"artifacts/distilled_{role}", "cpu").eval()
    blocks = Blocks(folder / "artifacts/tokens", "validation")
    numbers = np.linspace(0, len(blocks), summary["data"]["validation_blocks"], endpoint=False).astype(int)
    tokens = blocks.take(numbers)
    assert torch.equal(tokens, blocks.evenly(len(numbers)))
    with torch.no_grad():
        logits = model(tokens[:, :-1])[..., :257].double()
    nll = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert summary[role]["final_perplexity"] == pytest.approx(math.exp(nll), rel=1e-5)
    written = (tokens[:, 1:] < 256).sum()  # the teacher's other tokens are bytes, 256 ends a document
    bits = nll * tokens[:, 1:].numel() / math.log(2) / written
    assert summary[role]["final_bits_per_byte"] == pytest.approx(bits.item(), rel=1e-5)
    assert sum(parameter.numel() for parameter in model.parameters()) == summary[role]["parameters"]


def test_the_untrained_student_has_the_winners_fitness_on_calibration_blocks(folder, summary):
    model = checkpoint.load(folder / "artifacts/extracted_student", "cpu").eval()
    tokens = Blocks(folder / "artifacts/tokens", "calibration").evenly(4)
    with torch.no_grad():
        logits = model(tokens[:, :-1])[..., :257].double()
    nll = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert summary["search"]["best_fitness"] == pytest.approx(math.exp(nll), rel=1e-5)


def test_control_starts_from_other_weights_of_the_same_shapes(folder):
    student, control = (
        checkpoint.load(folder / f"artifacts/extracted_{role}", "cpu").state_dict() for role in ("student", "control")
    )
    assert {name: tensor.shape for name, tensor in student.items()} == {
        name: tensor.shape for name, tensor in control.items()
    }
    assert not torch.equal(student["transformer.wte.weight"], control["transformer.wte.weight"])


def test_the_teacher_is_a_stock_litgpt_checkpoint(folder):
    config = litgpt.Config.from_file(folder / "artifacts/teacher/model_config.yaml")
    weights = torch.load(folder / "artifacts/teacher/lit_model.pth", weights_only=True)
    litgpt.GPT(config).load_state_dict(weights)


def test_report_metrics_and_configuration_are_in_the_run_folder(folder):
    page = (folder / "report.md").read_text()
    for plot in ("search", "bin", "training", "flops", "anatomy"):
        assert ElementTree.parse(folder / f"{plot}.svg").getroot().tag.endswith("svg")
        assert f"]({plot}.svg)" in page
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["role"] == "search" for line in lines) == 24
    assert sum(line["role"] == "distilled_student" and "loss" in line for line in lines) == 32
    assert (folder / ".hydra/config.yaml").exists() and "report" in (folder / "run.log").read_text()


def test_the_same_command_again_makes_nothing(smoke_outputs):
    before = manifests(smoke_outputs)
    pipeline.run(smoke(smoke_outputs))
    assert manifests(smoke_outputs) == before


def test_what_must_not_matter_makes_nothing(smoke_outputs):
    before = manifests(smoke_outputs)
    pipeline.run(smoke(smoke_outputs, "distill.micro_batch=4", "data.workers=1", "deepspeed=zero1", "run_name=other"))
    assert manifests(smoke_outputs) == before


def test_another_temperature_searches_no_second_time(smoke_outputs, tmp_path):
    outputs = tmp_path / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    before = manifests(outputs)
    short = ["distill.tokens=512", "distill.validations=1", "distill.control.enabled=false"]
    pipeline.run(smoke(outputs, "distill.temperature=2", *short))
    new = {path.parent.parent.name for path in manifests(outputs).keys() - before.keys()}
    assert new == {"distill", "evaluate", "report"}
    assert json.loads((outputs / "smoke/latest/summary.json").read_text())["control"] is None


@pytest.mark.parametrize(
    ("overrides", "finished"),
    [(["distill.tokens=8k"], True), (["distill.tokens=8k", "distill.lr=0.1"], False), (["distill=wsd", *WSD], False)],
)
def test_another_budget_of_a_cosine_schedule_is_a_training_of_its_own(smoke_outputs, overrides, finished):
    context = Context(smoke(smoke_outputs, *overrides), print)
    recipe = graph.build(context)["distilled_student"].recipe
    assert (4_096 in distill._finished_budgets(context, recipe)) == finished


def test_a_run_folder_is_opened_again_with_its_own_configuration(smoke_outputs, folder, monkeypatch, tmp_path):
    before, saved = manifests(smoke_outputs), (folder / ".hydra/config.yaml").read_text()
    monkeypatch.chdir(tmp_path)
    assert pipeline.run(pipeline.compose([f"run={folder}", "stages=[report]"]))["preset"] == "smoke"
    assert pipeline.compose([f"run={folder}"]).stages == list(STAGES)
    assert manifests(smoke_outputs) == before
    assert (folder / ".hydra/config.yaml").read_text() == saved


def test_a_run_that_is_reopened_is_no_newer_for_it(smoke_outputs, tmp_path):
    outputs = tmp_path / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    older = (outputs / "smoke/latest").resolve()
    pipeline.run(smoke(outputs, "distill.temperature=3", "stages=[prepare]"))
    newest = (outputs / "smoke/latest").resolve()
    assert newest != older
    pipeline.run(pipeline.compose([f"run={older}", "stages=[report]"]))
    assert (outputs / "smoke/latest").resolve() == newest


def test_a_kd_teacher_of_the_same_name_is_still_another(smoke_outputs, tmp_path):
    other = smoke(smoke_outputs, "teacher@kd_teacher=tiny-random", "kd_teacher.litgpt.n_layer=2")
    ours, theirs = (
        graph.build(Context(config, log=print))["distilled_student"].recipe.inputs
        for config in (smoke(smoke_outputs), other)
    )
    assert ours["start"] == theirs["start"] and ours["teacher"] != theirs["teacher"]


def test_a_kd_teacher_of_another_family_teaches_with_the_same_tokenizer(smoke_outputs, tmp_path):
    outputs = tmp_path / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    neox = ["mlp_class_name=GptNeoxMLP", "norm_class_name=LayerNorm", "bias=true", "parallel_residual=true"]
    kd = ["teacher@kd_teacher=tiny-random", "kd_teacher.litgpt.n_query_groups=4"]
    kd += [f"kd_teacher.litgpt.{each}" for each in neox]
    short = ["distill.tokens=512", "distill.validations=1", "distill.control.enabled=false", "stages=[prepare,distill]"]
    config = smoke(outputs, *kd, *short)
    context = Context(config, log=print)
    assert (context.architecture.family, context.kd_architecture.family) == ("llama", "gpt_neox")
    pipeline.run(config)
    lines = [json.loads(line) for line in (outputs / "smoke/latest/metrics.jsonl").read_text().splitlines()]
    step, validated = lines[-2:]
    assert step["tokens"] == validated["tokens"] == 512 and step["kl"] > 0 and validated["validation_nll"] < 6
    assert step["teacher_flops"] == 512 * flops_per_token(context.kd_architecture, length=32)


def test_teachers_of_one_tokenizer_share_the_text(smoke_outputs, folder):
    """A deeper random teacher, and the smoke run's student as the next teacher."""
    student = f"teacher.path={folder / 'artifacts/distilled_student'}"
    first, *others = (
        Context(smoke(smoke_outputs, *overrides), log=print)
        for overrides in ([], ["teacher.litgpt.n_layer=5"], ["teacher=local", "teacher.source=litgpt", student])
    )
    for other in others:
        assert prepare.tokens_recipe(other) == prepare.tokens_recipe(first)
        assert other.identity_of(other.config.teacher) != first.identity_of(first.config.teacher)


def test_a_kd_teacher_of_another_token_map_is_refused_before_the_search(smoke_outputs, tmp_path):
    outputs = tmp_path / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    tokenizer = outputs / "smoke/latest/artifacts/teacher"
    swapped = json.loads((tokenizer / "tokenizer.json").read_text())
    vocabulary = swapped["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(swapped))
    shutil.copy(tokenizer / "tokenizer_config.json", tmp_path)
    other = ["teacher@kd_teacher=tiny-random", f"kd_teacher.tokenizer={tmp_path}", "stages=[prepare,search]"]
    with pytest.raises(SprigError, match=r"differ in 2 tokens: 'a' is 97 in one, 98 in the other"):
        pipeline.run(smoke(outputs, *other))


def test_the_plan_says_how_often_the_text_is_gone_through(smoke_outputs, capsys):
    (index,) = (smoke_outputs / "artifacts/prepare").glob("*/index.json")
    text = 32 * json.loads(index.read_text())["splits"]["train"]["blocks"]
    pipeline.run(smoke(smoke_outputs, f"distill.tokens={3 * text}", "plan=true"))
    assert "the text is read 3.0 times" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_a_given_subnetwork_is_cut_without_a_search(smoke_outputs, folder, tmp_path):
    outputs = tmp_path / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    path = folder / "artifacts/search/subnetwork.json"
    pipeline.run(
        smoke(outputs, "search=given", f"search.path={path}", "search.random_baseline=false", "stages=[search]")
    )
    winner = SubNetwork.from_dict(json.loads((outputs / "smoke/latest/artifacts/search/subnetwork.json").read_text()))
    assert winner == SubNetwork.from_dict(json.loads(path.read_text()))


def test_a_stage_whose_input_was_never_made(tmp_path):
    with pytest.raises(SprigError, match=r"Stage search was never run .* stages=\[search"):
        pipeline.run(smoke(tmp_path, "stages=[prepare,order,extract]"))
    pipeline.run(smoke(tmp_path, "stages=[prepare,order]"))


def test_a_damaged_artifact_is_named_and_not_used(smoke_outputs, tmp_path):
    outputs = tmp_path / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    path = next((outputs / "smoke/latest").resolve().glob("artifacts/distilled_student/lit_model.pth"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SprigError, match=r"lit_model\.pth has [\d,]+ bytes"):
        pipeline.run(smoke(outputs))


def test_a_run_that_fails_says_why_in_its_log(tmp_path):
    """3,000 tokens of text are one document, which cannot be split; that shows only once it is tokenised."""
    with pytest.raises(SprigError, match="has 1 document, and") as failed:
        pipeline.run(smoke(tmp_path, "data.block_size=16", "data.max_tokens=3000", "stages=[prepare]"))
    (log,) = tmp_path.glob("smoke/*/run.log")
    assert log.read_text().splitlines()[-1].partition(" ERROR ")[2] == str(failed.value).rstrip(".")


def test_random_starts_and_no_distillation_need_no_search(tmp_path):
    overrides = ["distill.init=random_subnetwork", "distill.loss=ce", "distill.tokens=512"]
    result = pipeline.run(smoke(tmp_path, *overrides))
    assert result["search"]["strategy"] is None and result["flops"]["search"] == 0
    assert not (tmp_path / "artifacts/search").exists()
    assert result["student"]["init"] == "random_subnetwork" and result["student"]["kd"] is False
    assert result["student"]["flops"]["teacher"] == 0
    assert result["student"]["parameters"] == result["control"]["parameters"]
    assert result["bin"]["low"] <= result["student"]["parameters"] <= result["bin"]["high"]
