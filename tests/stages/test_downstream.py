"""Downstream tasks in a run: scored once for each model, found again, side by side in the summary and the reports."""

import json
import math
import shutil
from pathlib import Path

import pytest
from datasets import Dataset
from runs import smoke

import pipeline
from pipeline.errors import SprigError
from pipeline.evaluation import tasks, tasks_data
from pipeline.on_request import score
from pipeline.report import tables
from pipeline.stages import downstream, graph
from pipeline.stages.context import Context

MODELS = ("teacher", "student", "control")


@pytest.fixture
def few_examples(monkeypatch):
    """Six questions of one's own stand for the data that an optional package brings."""
    docs = [
        {
            "question": f"What is {number} plus one?",
            "choices": {"text": [str(number), str(number + 1)], "label": ["A", "B"]},
            "answerKey": "B",
        }
        for number in range(6)
    ]
    monkeypatch.setattr(tasks_data, "installed", lambda: "six questions")
    monkeypatch.setattr(tasks_data, "documents", lambda name: Dataset.from_list(docs))


@pytest.fixture
def outputs(smoke_outputs, tmp_path) -> Path:
    shutil.copytree(smoke_outputs, tmp_path / "outputs", symlinks=True)
    return tmp_path / "outputs"


def evaluations(outputs: Path) -> set[Path]:
    return set(outputs.glob("artifacts/*/*/manifest.json"))


def test_every_model_is_scored_side_by_side_and_a_further_task_costs_itself_alone(few_examples, outputs):
    before = evaluations(outputs)
    summary = pipeline.run(smoke(outputs, "evaluate.tasks=[arc_easy]", "evaluate.limit=5"))
    assert tuple(summary["downstream"]) == MODELS
    new = evaluations(outputs) - before
    assert len(new) == 4, "three scores and a report"
    folder = outputs / "smoke/latest"
    for model in MODELS:
        scored = folder / f"artifacts/downstream/{model}/arc_easy"
        examples = [json.loads(line) for line in (scored / "examples.jsonl").read_text().splitlines()]
        assert len(examples) == 5
        right = [first[0] < second[0] for first, second in (each["responses"] for each in examples)]
        values = summary["downstream"][model]["arc_easy"]
        assert values["acc"] == sum(right) / 5 and values["acc_stderr"] >= 0 and "acc_norm" in values
        error = values["acc_stderr"]  # of five examples: tenths, or nothing where all are right or wrong
        line = f"{values['acc']:.2f} ± {error:.2f}" if error else f"{values['acc']:g}"
        assert line in (folder / "report.md").read_text() and line in (folder / "report.html").read_text()
    again = pipeline.run(smoke(outputs, "evaluate.tasks=[arc_easy,arc_challenge]", "evaluate.limit=5"))
    assert len(evaluations(outputs) - before - new) == 4
    assert again["downstream"]["student"]["arc_easy"] == summary["downstream"]["student"]["arc_easy"]


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (0.64309, 0.01117, "0.643 ± 0.011"), (0.5, 0.00996, "0.5000 ± 0.0100"), (36.1234, 1.52, "36.1 ± 1.5"),
        (5153.2, 151, "5,153 ± 151"), (1, 0, "1"), (0.51234, None, "0.5123"), (0.5, math.nan, "0.5"), (None, None, ""),
    ],
)  # fmt: skip
def test_a_value_has_the_digits_that_its_standard_error_leaves_it(value, error, said):
    assert tables.measured(value, error) == said


def test_a_kill_costs_the_task_that_was_running_alone(few_examples, outputs, monkeypatch):
    scored, original = [], tasks.score

    def killed_third(*arguments):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(tasks, "score", killed_third)
    command = smoke(outputs, "evaluate.tasks=[arc_easy]")
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(command)
    monkeypatch.setattr(tasks, "score", lambda *arguments: scored.append(arguments) or original(*arguments))
    assert tuple(pipeline.run(command)["downstream"]) == MODELS
    assert len(scored) == 3


def test_a_teacher_is_scored_alone_and_a_whole_run_finds_its_scores(few_examples, outputs, tmp_path, capsys):
    command = [f"outputs={tmp_path / 'new'}", "precision=fp32", "experiment=smoke", "evaluate.tasks=[arc_easy]"]
    pipeline.run(pipeline.compose([*command, "stages=[prepare,score]"]))
    assert "arc_easy" in capsys.readouterr().out
    stages = {path.parents[1].name for path in evaluations(tmp_path / "new")}
    assert stages == {"prepare", "evaluate"} and len(evaluations(tmp_path / "new")) == 3
    shutil.copytree(tmp_path / "new/artifacts/evaluate", outputs / "artifacts/evaluate", dirs_exist_ok=True)
    before = evaluations(outputs)
    summary = pipeline.run(smoke(outputs, "evaluate.tasks=[arc_easy]"))
    assert len(evaluations(outputs) - before) == 3, "student, control and a report"
    (scored,) = (tmp_path / "new/artifacts/evaluate").glob("*/metrics.json")
    assert summary["downstream"]["teacher"]["arc_easy"] == json.loads(scored.read_text())


def test_a_run_that_is_finished_is_scored_without_its_other_stages(few_examples, outputs):
    run = outputs / "smoke/latest"
    context = Context(pipeline.compose([f"run={run}", "stages=[score]", "evaluate.tasks=[arc_easy]"]), log=print)
    assert tuple(score.run(context, graph.build(context))) == MODELS


@pytest.mark.parametrize(("stages", "reached"), [("[prepare,order]", False), ("[prepare,score]", True)])
def test_data_is_fetched_only_where_a_task_is_to_be_scored(stages, reached, smoke_outputs, monkeypatch):
    asked = []
    monkeypatch.setattr(tasks, "check", lambda names, fetch: asked.append(fetch))
    context = Context(smoke(smoke_outputs, "evaluate.tasks=[copa]", f"stages={stages}"), log=print)
    downstream.check(context, graph.build(context))
    assert asked == [reached]


def test_what_the_scores_are_of_is_said():
    runs = [{"data": {}}, {"data": {"task_examples": 5}}]
    assert tables.downstream_note(*runs).startswith("Of the first 5 examples or all examples of a task")
    assert tables.downstream_note(runs[0]).startswith("Of all examples of a task, ")


def test_a_score_needs_tasks(tmp_path):
    with pytest.raises(SprigError, match=r"stages names score, but evaluate.tasks is empty: name the tasks"):
        smoke(tmp_path, "stages=[score]")


def test_without_lm_eval_the_cure_is_named(monkeypatch, tmp_path):
    def missing(name):
        raise tasks.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(tasks.metadata, "version", missing)
    with pytest.raises(SprigError, match=r"needs lm-eval, which is not installed: pip install 'sprig-lm\[tasks\]'"):
        pipeline.run(smoke(tmp_path, "evaluate.tasks=[arc_easy]"))


def test_a_task_named_twice(tmp_path):
    with pytest.raises(SprigError, match="names a task twice"):
        smoke(tmp_path, "evaluate.tasks=[piqa,piqa]")
