"""report.html: one page that needs nothing else, and the report of a run that is not finished."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import half_trained, smoke

import pipeline
from pipeline.artifacts import MANIFEST
from pipeline.report import figures, html, material
from pipeline.stages.context import Context
from pipeline.subnetwork.value import SubNetwork, whole


class Page(HTMLParser):
    """The text that a reader sees, and what the page points at."""

    def __init__(self, path: Path):
        super().__init__()
        self.text, self.targets, self.ids, self._hidden = "", [], [], False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self._hidden = tag in ("script", "style")
        self.targets += [value for name, value in attributes if name in ("src", "href")]
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        self.text += "" if self._hidden else data


@pytest.fixture
def outputs(smoke_outputs, tmp_path) -> Path:
    shutil.copytree(smoke_outputs, tmp_path / "outputs", symlinks=True)
    return tmp_path / "outputs"


def test_the_page_says_the_result_and_points_at_nothing_outside_the_run(smoke_outputs):
    folder = smoke_outputs / "smoke/latest"
    page, summary = Page(folder / html.PAGE), json.loads((folder / "summary.json").read_text())
    for value in ("final_perplexity", "parameters", "tokens"):
        assert f"{summary['student'][value]:,.{2 if value == 'final_perplexity' else 0}f}" in page.text
    for word in ("sprig ", "run=", "seed: 0", "The purpose of education is", "Anatomy"):
        assert word in page.text
    assert page.ids == ["plot-0", "plot-1", "plot-2", "anatomy"]
    assert len(page.targets) == len(list((folder / "artifacts").iterdir())) - 1  # the report itself
    assert all((folder / target).is_dir() for target in page.targets)


def test_the_same_run_gives_the_same_bytes(smoke_outputs):
    path = smoke_outputs / "smoke/latest" / html.PAGE
    before = path.read_bytes()
    pipeline.run(smoke(smoke_outputs))
    assert path.read_bytes() == before


def test_the_anatomy_has_the_sizes_of_every_kept_layer(smoke_outputs):
    context = Context(smoke(smoke_outputs), print)
    sub = SubNetwork.from_dict(
        json.loads((smoke_outputs / "smoke/latest/artifacts/distilled_student/subnetwork.json").read_text())
    )
    layer = whole(context.architecture).genes[0]
    figure = figures.anatomy(layer, context.architecture.n_layer, sub)
    whole_heads, heads, whole_neurons, neurons = figure.data
    assert len(whole_heads.x) == len(whole_neurons.x) == context.architecture.n_layer
    assert list(heads.y) == list(neurons.y) == list(sub.layers)
    assert list(heads.x) == [gene.n_head * gene.head_size for gene in sub.genes]
    assert list(neurons.x) == [gene.intermediate_size for gene in sub.genes]
    dropped = next(layer for layer in range(context.architecture.n_layer) if layer not in sub.layers)
    assert whole_neurons.hovertext[dropped] == f"layer {dropped}: dropped, of {whole_neurons.x[dropped]} neurons"


def test_a_narrow_range_of_values_still_has_ticks():
    narrow, wide = (
        figures.training({"student": [(0, 5.5), (10, 5.4)]}, None),
        figures.training({"student": [(0, 9.0), (10, 2.0)]}, None),
    )
    assert narrow.layout.yaxis.type == "linear" and wide.layout.yaxis.type == "log"


def test_the_command_to_run_it_again_makes_all_of_it():
    """Also where the first one was for a part of it, or there was none."""
    folder, reopened = Path("outputs/smoke/0123"), "sprig run=outputs/smoke/0123"
    given = ["experiment=smoke", "stages=[prepare,score]", "sample.tokens=5", "evaluate.tasks=[piqa]"]
    assert html.commands(given, folder) == ["sprig experiment=smoke 'evaluate.tasks=[piqa]'", reopened]
    assert html.commands([], folder) == [reopened]


def test_a_run_that_is_still_going_shows_what_there_is_and_publishes_nothing(outputs):
    """As after a kill in the middle of the control's training."""
    folder = outputs / "smoke/latest"
    for role in ("evaluation", "report"):
        shutil.rmtree((folder / "artifacts" / role).resolve())
    half_trained(folder / "artifacts/distilled_control")
    (folder / "artifacts/speed").unlink()  # as where another command made it

    summary = pipeline.run(pipeline.compose([f"run={folder}", "stages=[report]"]))
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "running" and summary["saving"] is None
    assert summary["unfinished"] == {"distilled_control": "at 2,048 of 4,096 tokens", "evaluation": "not begun"}
    assert summary["student"]["tokens"] == 4096 and summary["control"]["tokens"] == 2048
    assert summary["student"]["final_perplexity"] is None
    for text in (Page(folder / html.PAGE).text, (folder / material.PAGE).read_text()):
        assert "not finished: distilled_control at 2,048 of 4,096 tokens; not begun: evaluation." in text
    targets = Page(folder / html.PAGE).targets
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
    summary = pipeline.run(pipeline.compose([f"run={folder}", "stages=[report]"]))
    assert summary["search"]["strategy"] == "evolution" and summary["search"]["evaluated"] is None
    assert summary["student"]["parameters"] is None and summary["teacher"]["parameters"] == 191_040
    assert Page(folder / html.PAGE).ids == ["plot-0", "plot-1"]  # the search and the bin


def test_a_run_of_which_nothing_is_made_yet(tmp_path):
    summary = pipeline.run(smoke(tmp_path, "stages=[report]"))
    assert summary["status"] == "running" and set(summary["unfinished"].values()) == {"not begun"}
    assert (tmp_path / "smoke/latest" / html.PAGE).exists() and not (tmp_path / "artifacts").exists()
