"""Budgets of one wsd schedule share the stable phase's artifact, and end where a run of that budget alone ends."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from runs import smoke

import pipeline
from pipeline import runner
from pipeline.artifacts.inventory import entries
from pipeline.stages import cache, graph
from pipeline.stages.context import Context
from pipeline.stages.roots import roots

WSD = ("distill=wsd", "distill.schedule.warmup_tokens=128", "distill.validation_tokens=256")
WSD += ("distill.control.enabled=false", "distill.schedule.decay=0.25")


def run(outputs: Path, tokens: int, *overrides: str) -> Path:
    """Distils on a budget; the run's artifacts."""
    stages = "stages=[prepare,order,search,extract,distill]"
    pipeline.run(smoke(outputs, *WSD, f"distill.tokens={tokens}", stages, *overrides))
    return outputs / "smoke/latest/artifacts"


def test_a_larger_budget_goes_on_from_the_stable_phase(smoke_outputs, tmp_path, caplog):
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    for outputs in (shared, alone):
        shutil.copytree(smoke_outputs, outputs, symlinks=True)
    run(shared, 512)
    assert "resumes from" not in caplog.text
    extended = run(shared, 1024).resolve() / "distilled_student"
    assert "The stable phase resumes from" in caplog.text and "after 384 tokens" in caplog.text
    again = run(shared, 1024, "distill.schedule.decay=0.25", "distill.schedule.floor=0.5")
    assert "The first 768 tokens reuse stable phase" in caplog.text, "another decay shares all of it"
    assert len(list(shared.glob("artifacts/stable/*/manifest.json"))) == 2
    lines = [json.loads(line) for line in (shared / "smoke/latest/metrics.jsonl").read_text().splitlines()]
    trained = [line["tokens"] for line in lines if line["role"] == "distilled_student" and "loss" in line]
    assert trained == [128 * (step + 1) for step in range(8)], "the whole run's metrics, each once"

    whole = run(alone, 1024) / "distilled_student"
    assert (extended / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    ours, theirs, other = (
        torch.load(folder / "lit_model.pth", weights_only=True)["lm_head.weight"]
        for folder in (extended, whole, again / "distilled_student")
    )
    assert torch.equal(ours, theirs) and not torch.equal(ours, other)


@pytest.mark.parametrize(
    "overrides, shared",
    [
        (("distill.tokens=1024",), False),  # a longer stable phase, which goes on from this one
        (("distill.schedule.floor=0.5",), True),
        (("distill.micro_batch=4", "deepspeed=zero2"), True),
        (("distill.lr=1e-4",), False),
        (("distill.schedule.warmup_tokens=64",), False),
        (("distill.temperature=2",), False),
    ],
)
def test_what_the_stable_phase_depends_on(overrides, shared, tmp_path):
    def phase(*more):
        config = smoke(tmp_path, *WSD, "distill.tokens=512", *more)
        return graph.build(Context(config, log=print))["distilled_student"].recipe.inputs["stable"]

    assert (phase(*overrides) == phase()) is shared


def test_a_run_that_is_cut_keeps_what_it_made_on_its_way(tmp_path):
    """A stable phase and a logits cache are there long before the training that was begun from them."""
    config = smoke(tmp_path, *WSD, "distill.tokens=512", "distill.cache.kind=sampled")
    context = Context(config, log=print)
    (run := tmp_path / "smoke/1/.hydra").mkdir(parents=True)
    (run / "config.yaml").touch()
    steps = graph.build(context)
    runner._claim(context, steps.values(), run.parent)
    for made in (cache.recipe(context, roots(context)), steps["distilled_student"].phase):
        context.store.obtain(made, lambda folder: None)
    assert [entry.needed_by for entry in entries(tmp_path)] == [("smoke/1",)] * 2


def test_other_schedules_have_none(tmp_path):
    recipe = graph.build(Context(smoke(tmp_path), log=print))["distilled_student"].recipe
    assert "stable" not in recipe.inputs and "decay" not in recipe.config["schedule"]
