"""The disk row of plans, against numbers that were worked out by hand and against what a run has written."""

import json

import pytest
from runs import smoke, write_texts

import pipeline
from pipeline.plan import costs, disk
from pipeline.stages.context import Context
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.value import SubNetwork

PLAN = ["device=cuda", "precision=bf16-mixed", "plan=true", "hydra.mode=RUN"]


def parts(*overrides) -> tuple[int, dict[str, int]]:
    """The student's parameters, and what the plan says."""
    found = Context(pipeline.compose([*overrides, *PLAN]), lambda line: None)
    typical = costs.typical(found)
    return typical.size, disk.need(found, typical.middle, typical.size).parts


def test_p6_by_hand():
    """102.5 billion tokens of 2 bytes; the teacher in bf16; student and control, each cut and trained, in fp32; the
    state of each at the end of its stable phase; two checkpoints, and the one that is being written."""
    size, found = parts("experiment=paper/p6-budget")
    assert {name: bytes for name, bytes in found.items() if bytes} == {
        "teachers": 2 * 6_857_302_016,
        "text": 2 * 102_500_000_000,
        "students": 2 * 2 * 4 * size,
        "stable phases": 2 * 12 * size,
        "temporary in distill": (2 + 1) * 12 * size,
    }


def test_a_cut_vocabulary_keeps_teachers_and_text_in_both_versions():
    cut = 2 * (50_432 - 1024) * 4096
    _, found = parts("experiment=paper/p6-budget", "space.vocabulary=1024")
    assert found["teachers"] == 2 * (6_857_302_016 + 6_857_302_016 - cut)
    assert found["text"] == 2 * 2 * 102_500_000_000


def test_another_kd_teacher_and_a_cache_are_counted():
    """A sampled cache holds 16 ids of 2 bytes for a token, and the counts and the sum that go with them."""
    _, found = parts("experiment=paper/p0-initialisation", "teacher@kd_teacher=pythia-2.8b", "kd=sampled")
    assert found["teachers"] == 2 * (6_857_302_016 + 2_775_208_960)
    assert found["logits cache"] >= 16 * 2 * 10_000_000_000


@pytest.mark.parametrize(
    ("override", "stage", "each"),
    [
        ("distill.checkpoint.keep=1", "distill", 2 * 12),
        ("search.rerank.candidates=4", "distill", 3 * 12),  # a rerank keeps one, and they are gone by then
    ],
)
def test_the_stage_that_copies_most_counts(override, stage, each):
    size, found = parts("experiment=paper/p0-initialisation", "init=searched", override)
    assert found[f"temporary in {stage}"] == each * size


def test_a_data_set_that_the_hub_copies_is_counted_as_text():
    _, found = parts("experiment=paper/p0-initialisation", "data.streaming=false")
    assert found["temporary in prepare"] == 4 * 10_300_000_000


def test_a_text_in_files_counts_as_a_whole_and_once_however_often_it_is_read(tmp_path):
    write_texts(tmp_path / "texts")
    texts = [f"outputs={tmp_path}", "data=text", f"data.path={tmp_path / 'texts'}", "data.repeat=true"]
    size = sum(file.stat().st_size + 1 for file in (tmp_path / "texts").iterdir())
    for budget in ("4_096", "10B"):
        _, found = parts("experiment=smoke", *texts, f"distill.tokens={budget}")
        assert found["text"] == 2 * (size // 4)


def test_a_prepared_text_counts_as_it_is(smoke_outputs):
    (index,) = smoke_outputs.glob("artifacts/prepare/*/index.json")
    tokens = 32 * json.loads(index.read_text())["splits"]["train"]["blocks"]
    _, found = parts("experiment=smoke", f"outputs={smoke_outputs}", "distill.tokens=10B", "data.repeat=true")
    assert found["text"] == 2 * tokens


def test_a_run_has_written_what_stays(smoke_outputs):
    store = smoke_outputs / "artifacts"

    def size_of(pattern: str) -> int:
        return sum(file.stat().st_size for file in store.glob(pattern))

    found = Context(smoke(smoke_outputs), lambda line: None)
    sub = SubNetwork.from_dict(json.loads(next(store.glob("extract/*/subnetwork.json")).read_text()))
    need = disk.need(found, sub, parameters(found.architecture, sub)).parts
    assert size_of("prepare/*/lit_model.pth") == pytest.approx(need["teachers"], rel=0.1)
    assert size_of("[edr]*/*/lit_model.pth") == pytest.approx(need["students"], rel=0.1)
    assert need["text"] <= size_of("prepare/*/*.bin") < 1.1 * need["text"]
