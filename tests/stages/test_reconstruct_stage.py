"""Stage reconstruct: how it resumes, and its row in a plan."""

import shutil

import pytest
from runs import smoke

import pipeline
from pipeline.plan.table import table
from pipeline.stages import reconstruct
from pipeline.stages.context import Context

ALLOCATION = ["search=allocation", "space.hold=[n_embd,head_size]", "stages=[prepare,order,reconstruct]"]


def test_an_interrupted_pass_resumes_with_the_same_bytes(smoke_outputs, tmp_path, monkeypatch):
    class Cut(Exception):
        pass

    def run(name):
        for stage in ("prepare", "order"):
            shutil.copytree(smoke_outputs / "artifacts" / stage, tmp_path / name / "artifacts" / stage)
        pipeline.run(smoke(tmp_path / name, *ALLOCATION))

    def errors(name):
        [folder] = (tmp_path / name / "artifacts/reconstruct").glob("*/")
        return (folder / reconstruct.ERRORS).read_bytes()

    run("whole")
    keep, kept = reconstruct._keep, []

    def keep_two(state, passed):
        keep(state, passed)
        kept.append(passed.number)
        if len(kept) == 2:
            raise Cut

    monkeypatch.setattr(reconstruct, "_keep", keep_two)
    with pytest.raises(Cut):
        run("cut")
    pipeline.run(smoke(tmp_path / "cut", *ALLOCATION))
    assert kept == list(reversed(range(len(kept))))  # each layer once
    assert errors("cut") == errors("whole")


def test_the_plan_has_its_memory(tmp_path):
    def rows(*overrides):
        return dict(table(Context(smoke(tmp_path, *overrides), lambda line: None)))

    assert "memory per process, reconstruct" in rows(*ALLOCATION[:2])
    assert "memory per process, reconstruct" not in rows()
