"""report.html and report.md: two forms of one report, each with nothing outside the run's folder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pages import Page
from runs import half_trained, smoke

import pipeline
from pipeline.artifacts import MANIFEST
from pipeline.report import again, html, material, pages, sentences
from pipeline.stages import graph
from pipeline.stages.context import Context


@pytest.fixture
def outputs(smoke_outputs, tmp_path) -> Path:
    shutil.copytree(smoke_outputs, tmp_path / "outputs", symlinks=True)
    return tmp_path / "outputs"


@pytest.fixture(scope="module")
def gathered(smoke_outputs) -> material.Material:
    context = Context(smoke(smoke_outputs), print)
    return material.gather(context, graph.build(context))


def test_the_page_says_the_result_and_points_at_nothing_outside_the_run(smoke_outputs):
    folder = smoke_outputs / "smoke/latest"
    page, summary = Page(folder / html.PAGE), json.loads((folder / "summary.json").read_text())
    for value in ("final_perplexity", "parameters", "tokens"):
        assert f"{summary['student'][value]:,.{2 if value == 'final_perplexity' else 0}f}" in page.text
    for word in ("sprig ", "run=", "seed: 0", "The purpose of education is"):
        assert word in page.text
    assert page.headings[:2] == ["smoke", "One text, continued"]
    drawn = [heading for heading in page.headings if heading.startswith(("Perplexity", "Search", "Candid", "Anatomy"))]
    assert len(drawn) == len(page.figures) == 5
    links = [target for target in page.targets if not target.startswith("#")]  # inside a figure
    assert len(links) == len(list((folder / "artifacts").iterdir())) - 1  # the report itself
    assert all((folder / target).is_dir() for target in links)
    assert (folder / html.PAGE).stat().st_size < 300_000


def test_both_forms_have_the_same_figures_samples_second_and_the_command(smoke_outputs):
    folder = (smoke_outputs / "smoke/latest").resolve()
    text, page = (folder / material.PAGE).read_text(), (folder / html.PAGE).read_text()
    drawn = [path for path in folder.glob("*.svg") if f"]({path.name})" in text]
    assert len(drawn) == 5 and all(path.read_text()[-500:] in page for path in drawn)
    assert text.startswith("# smoke\n")
    assert next(line for line in text.splitlines() if line.startswith("## ")) == "## One text, continued"
    assert text.index("| model | start |") < text.index("## One text, continued")
    assert again.commands(folder) == [f"sprig run={folder}"]  # made from Python, without overrides
    assert f"```sh\nsprig run={folder}\n```" in text and f"<pre>sprig run={folder}</pre>" in page


def test_the_title_is_the_runs_name(outputs):
    pipeline.run(smoke(outputs, "run_name=first-try"))
    folder = outputs / "first-try/latest"
    assert (folder / material.PAGE).read_text().startswith("# first-try\n")
    assert Page(folder / html.PAGE).headings[0] == "first-try"


def test_the_same_run_gives_the_same_bytes(smoke_outputs):
    folder = (smoke_outputs / "smoke/latest").resolve()
    before = {path: path.read_bytes() for path in folder.iterdir() if path.suffix in (".html", ".md", ".svg", ".json")}
    shutil.rmtree((folder / "artifacts/report").resolve())
    pipeline.run(smoke(smoke_outputs))
    assert {path: path.read_bytes() for path in before} == before


def test_random_weights_are_called_meaningless_and_save_nothing(smoke_outputs, gathered, tmp_path):
    folder = smoke_outputs / "smoke/latest"
    assert gathered.summary["teacher"]["random_weights"] and gathered.summary["saving"] is not None
    log = (folder / "run.log").read_text()
    for text in ((folder / material.PAGE).read_text(), Page(folder / html.PAGE).text, log):
        assert sentences.RANDOM_WEIGHTS in text and "fewer tokens" not in text and "saving" not in text
    trained = {**gathered.summary, "teacher": {**gathered.summary["teacher"], "random_weights": False}}
    trained["saving"] = {**gathered.summary["saving"], "tokens": 2.0}  # finite, whatever the smoke run's is
    said = sentences.result(trained)
    assert "saving" in said and sentences.RANDOM_WEIGHTS not in said and len(sentences.tiles(trained)) == 4


@pytest.mark.parametrize(
    ("saving", "reached", "number", "what"),
    [
        (2.0, "in training", "2.00\u00d7", "fewer FLOPs"),
        (0.5, "before training", "2.00\u00d7", "more FLOPs"),
        (1.5, "not reached", "<\u20091.50\u00d7", "fewer FLOPs"),
        (0.25, "not reached", ">\u20094.00\u00d7", "more FLOPs"),
    ],
)
def test_a_saving_below_one_is_a_cost(gathered, saving, reached, number, what):
    saved = {**gathered.summary["saving"], "tokens": None, "total_flops": saving, "reached": reached}
    trained = {**gathered.summary, "teacher": {**gathered.summary["teacher"], "random_weights": False}, "saving": saved}
    (*_, (shown, said)) = sentences.tiles(trained)
    assert shown == number and said.startswith(what)


HOSTILE = "a|b <script>alert(1)</script> **c** `d` $e$ [f](http://g) _h_"


def test_names_and_prompts_are_shown_as_they_are(smoke_outputs, gathered, tmp_path):
    """Whatever they hold: neither form takes them for markup."""
    shutil.copytree((smoke_outputs / "smoke/latest").resolve(), tmp_path / "smoke/0123", symlinks=True)
    summary = {**gathered.summary, "teacher": {**gathered.summary["teacher"], "name": HOSTILE}}
    evaluation = {**gathered.evaluation, "prompt": f"# one\n- two\n{HOSTILE}"}
    pages.write(replace(gathered, summary=summary, evaluation=evaluation), folder := tmp_path / "smoke/0123")
    page, text = (folder / html.PAGE).read_text(), (folder / material.PAGE).read_text()
    assert "<script>" not in page and HOSTILE in Page(folder / html.PAGE).text
    escaped = r"a\|b \<script>alert(1)\</script> \*\*c\*\* \`d\` \$e\$ [f\](http://g) \_h\_"
    assert f"| teacher | {escaped} |" in text
    assert f"> \\# one\n> \\- two\n> {escaped}" in text


def test_the_command_to_run_it_again_makes_all_of_it():
    """Also where the first one was for a part of it, or there was none."""
    folder, reopened = Path("outputs/smoke/0123"), "sprig run=outputs/smoke/0123"
    given = ["experiment=smoke", "stages=[prepare,score]", "sample.tokens=5", "evaluate.tasks=[piqa]"]
    assert again.from_overrides(given, folder) == ["sprig experiment=smoke 'evaluate.tasks=[piqa]'", reopened]
    assert again.from_overrides([], folder) == [reopened]


def test_a_run_that_is_still_going_shows_what_there_is_and_publishes_nothing(outputs):
    """As after a kill in the middle of the control's training."""
    folder = outputs / "smoke/latest"
    for role in ("evaluation", "report"):
        shutil.rmtree((folder / "artifacts" / role).resolve())
    half_trained(folder / "artifacts/distilled_control")
    (folder / "artifacts/speed").unlink()  # as where another command made it
    (folder / "summary.json").unlink()

    summary = pipeline.run(pipeline.compose([f"run={folder}", "stages=[report]"]))
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "running" and summary["saving"] is summary["equal_flops"] is None
    assert summary["unfinished"] == {"distilled_control": "at 2,048 of 4,096 tokens", "evaluation": "not begun"}
    assert summary["student"]["tokens"] == 4096 and summary["control"]["tokens"] == 2048
    assert summary["student"]["final_perplexity"] is None
    said = "not finished: distilled_control at 2,048 of 4,096 tokens; not begun: evaluation."
    assert said in Page(folder / html.PAGE).text
    assert said in (folder / material.PAGE).read_text()
    targets = [target for target in Page(folder / html.PAGE).targets if not target.startswith("#")]
    assert "artifacts/speed/" in targets and all((folder / target).is_dir() for target in targets)
    assert not list(outputs.glob("artifacts/report/*/"))
    assert pipeline.run(pipeline.compose([f"run={folder}"]))["status"] == "completed"
    assert "not finished" not in Page(folder / html.PAGE).text


def test_a_search_that_is_still_going_is_drawn(outputs):
    folder = outputs / "smoke/latest"
    for stage in ("search", "extract", "distill", "evaluate", "report"):
        for artifact in (outputs / "artifacts" / stage).iterdir():
            if artifact.resolve() == (folder / "artifacts/search").resolve():
                (artifact / MANIFEST).unlink()
                artifact.rename(artifact.with_name(artifact.name + ".partial"))
            elif artifact.is_dir():
                shutil.rmtree(artifact)
    (folder / "summary.json").unlink()
    summary = pipeline.run(pipeline.compose([f"run={folder}", "stages=[report]"]))
    assert summary["search"]["strategy"] == "evolution" and summary["search"]["evaluated"] is None
    assert summary["student"]["parameters"] is None and summary["teacher"]["parameters"] == 191_040
    assert [name for name in Page(folder / html.PAGE).headings if name in ("Search", "Candidates in the bin")] == [
        "Search",
        "Candidates in the bin",
    ]
    assert len(Page(folder / html.PAGE).figures) == 2


def test_a_run_of_which_nothing_is_made_yet(outputs):
    shutil.rmtree(outputs / "artifacts")
    folder = outputs / "smoke/latest"
    (folder / "summary.json").unlink()
    summary = pipeline.run(pipeline.compose([f"run={folder}", "stages=[report]"]))
    assert summary["status"] == "running" and set(summary["unfinished"].values()) == {"not begun"}
    assert (folder / html.PAGE).exists()
    assert not list((outputs / "artifacts").glob("*/*"))
