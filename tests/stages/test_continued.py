"""A finished run's student is trained further by a run of its own."""

import json
import shutil

import pytest
import torch
from runs import smoke

import pipeline
from pipeline.errors import SprigError
from pipeline.plan.table import table
from pipeline.report import sentences
from pipeline.stages.context import Context
from pipeline.stages.distill import curve


def further(outputs, run, *overrides):
    return smoke(outputs, "init=trained", f"distill.from_run={run}", "distill.tokens=1_024", *overrides)


def test_a_finished_student_is_trained_further(smoke_outputs, tmp_path):
    run = (smoke_outputs / "smoke/latest").resolve()
    before = json.loads((run / "summary.json").read_text())["student"]
    rows = dict(table(Context(further(tmp_path, run, "plan=true"), log=lambda _: None)))
    assert rows["space"] == f"none: the student of {run}" and "bin" not in rows
    assert rows["search"] == "none" and f"about {before['parameters']:,} parameters" in rows["student"]
    summary = pipeline.run(further(tmp_path, run))
    after, artifacts = summary["student"], tmp_path / "smoke/latest/artifacts"
    assert after["init"] == "trained" and after["parameters"] == before["parameters"] and after["tokens"] == 1_024
    ends, begins = (curve(folder / "distilled_student") for folder in (run / "artifacts", artifacts))
    assert begins[0] == (0, pytest.approx(ends[-1][1], abs=1e-5)), "it starts where the other ended"
    begun, ended = (
        torch.load(folder / "lit_model.pth", weights_only=True)
        for folder in (artifacts / "extracted_student", run / "artifacts/distilled_student")
    )
    assert begun.keys() == ended.keys() and all(torch.equal(begun[name], ended[name]) for name in begun)
    assert not [role for role in ("search", "recovered_student", "distilled_control") if (artifacts / role).exists()]
    assert summary["saving"] is None
    assert sentences.result({**summary, "teacher": {**summary["teacher"], "random_weights": False}}) == (
        "The student had been trained before, and these totals do not include that training."
    )


def test_the_student_of_a_copied_run_is_trained_further(smoke_outputs, tmp_path):
    copied = shutil.copytree(smoke_outputs / "smoke/latest", tmp_path / "copied")
    pipeline.run(further(tmp_path / "outputs", copied, "stages=[prepare,order,extract]"))


@pytest.mark.parametrize(
    "overrides, sentence",
    [
        (
            ["init=trained"],
            r"distill\.init=trained with distill\.from_run=None: to train the student of a finished run",
        ),
        (["distill.from_run=x"], r"distill\.init=searched with distill\.from_run=.*x: to train the student of"),
        (
            ["init=trained", "distill.from_run=x", "distill.control.enabled=true"],
            r"set distill\.control\.enabled=false",
        ),
        (["distill.control.init=trained"], r"distill\.control\.init=trained, but a control begins a training"),
        (
            ["init=trained", "distill.from_run=nothing"],
            r"nothing does not exist, and no run of that name is in .*: name a finished run",
        ),
        (["init=trained", "distill.from_run=."], r"has no trained student: name the folder of a finished"),
    ],
)
def test_what_cannot_be_trained_further(tmp_path, overrides, sentence):
    with pytest.raises(SprigError, match=sentence):
        pipeline.run(smoke(tmp_path, *overrides))


def test_a_student_of_another_teacher_is_refused(smoke_outputs, tmp_path):
    """By name, or by fingerprint where two teachers have one name."""
    run = (smoke_outputs / "smoke/latest").resolve()
    with pytest.raises(SprigError, match="cut out of teacher tiny-random, but this run has tiny-deep: give it"):
        pipeline.run(further(tmp_path, run, "teacher=tiny-deep"))
    same = r"cut out of teacher tiny-random \([0-9a-f]{16}\), but this run has tiny-random \([0-9a-f]{16}\): give it"
    with pytest.raises(SprigError, match=same):
        pipeline.run(further(tmp_path, run, "teacher=tiny-deep", "teacher.name=tiny-random"))
