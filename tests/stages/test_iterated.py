"""Iterated shrinking at smoke size: the smoke run's student, exported as it is, is the second round's teacher."""

import json

import pytest

import pipeline

SIZES = [
    "teacher@kd_teacher=tiny-random", "bin.center=null", "bin.low=52_000", "bin.high=60_000", "data.block_size=32",
    "data.max_tokens=300_000", "ordering.blocks=4", "search.blocks=2", "evaluate.blocks=8", "distill.tokens=1_024",
    "distill.control.enabled=false", "precision=fp32",
]  # fmt: skip


@pytest.mark.slow
def test_a_student_is_the_next_teacher(smoke_outputs, tmp_path):
    run, outputs = smoke_outputs / "smoke/latest", tmp_path / "outputs"
    path = tmp_path / "round-1"
    pipeline.run(pipeline.compose([f"run={run}", "stages=[export]", "export.form=own", f"export.to={path}"]))
    second = pipeline.run(
        pipeline.compose(["experiment=iterated", f"teacher.path={path}", f"outputs={outputs}", *SIZES])
    )
    first = json.loads((run / "summary.json").read_text())
    assert second["teacher"]["perplexity"] == pytest.approx(first["student"]["final_perplexity"], rel=1e-4)
    assert second["teacher"]["parameters"] > first["student"]["parameters"] > second["student"]["parameters"]
    assert (outputs / "iterated/latest/artifacts/kd_teacher").exists()
