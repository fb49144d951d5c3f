"""What teacher and student cost to run, in the smoke run's summary and report."""

import json
import shutil
from pathlib import Path

import pytest
from runs import smoke

import pipeline
from pipeline.models import checkpoint
from pipeline.stages import graph
from pipeline.stages.context import Context


@pytest.fixture(scope="module")
def folder(smoke_outputs) -> Path:
    return smoke_outputs / "smoke" / "latest"


def test_the_summary_says_what_the_models_cost(folder):
    summary = json.loads((folder / "summary.json").read_text())
    page, costs = (folder / "report.md").read_text(), summary["efficiency"]
    for name, role in (("teacher", "teacher"), ("student", "distilled_student")):
        model = checkpoint.load(folder / "artifacts" / role, "cpu")
        assert costs[name]["parameters"] == sum(parameter.numel() for parameter in model.parameters())
        cached = sum(2 * block.config.n_query_groups * block.config.head_size * 4 for block in model.transformer.h)
        assert costs[name]["kv_bytes_per_token"] == cached
        for way in ("prefill", "decode"):
            assert costs[name][f"{way}_tokens_per_second"] > 0
            assert f"{costs[name][f'{way}_tokens_per_second']:,.1f} tokens/s" in page
    assert costs["teacher"]["prefill_tokens_per_second"] > costs["teacher"]["decode_tokens_per_second"]
    assert costs["prefill"] == 32 and f"Measured on {costs['hardware']}, in fp32: 32 tokens" in page


def test_a_report_that_is_made_again_has_the_same_bytes(smoke_outputs, tmp_path):
    """Speed is measured once, and read from its artifact."""
    outputs = tmp_path / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    run = outputs / "smoke/latest"
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.suffix in (".json", ".md")}
    assert len(before) == 2
    shutil.rmtree((run / "artifacts/report").resolve())
    pipeline.run(pipeline.compose([f"run={run}", "stages=[report]"]))
    moved = {name: made.replace(bytes(smoke_outputs), bytes(outputs)) for name, made in before.items()}
    assert moved == {name: (run / name).read_bytes() for name in before}


def test_weights_that_train_in_another_way_are_not_timed_again(tmp_path):
    recipes = [
        graph.build(Context(smoke(tmp_path, *overrides), print))["speed"].recipe.fingerprint
        for overrides in ([], ["distill.temperature=2", "evaluate.blocks=4"], ["evaluate.speed.decode=8"])
    ]
    assert recipes[0] == recipes[1] != recipes[2]
