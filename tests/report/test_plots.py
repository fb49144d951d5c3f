"""What the figures of a run show: axes, scales, series and their legend."""

import json
import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from runs import smoke

from pipeline.report import canvas, material, plots
from pipeline.stages import graph
from pipeline.stages.context import Context

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def gathered(smoke_outputs) -> material.Material:
    context = Context(smoke(smoke_outputs), print)
    return material.gather(context, graph.build(context))


@pytest.fixture(scope="module")
def figures(gathered) -> dict[str, Figure]:
    return {plot.name: plot.figure() for plot in plots.of(gathered)}


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def lines(figure: Figure) -> dict[str, list[tuple[float, float]]]:
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in figure.axes[0].get_lines()}


def test_every_axis_has_a_name_in_words(figures):
    assert list(figures) == ["training", "flops", "search", "bin", "anatomy"]
    named = {name: (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) for name, figure in figures.items()}
    assert named == {
        "training": ("training tokens", "validation perplexity"),
        "flops": ("total FLOPs, those before training included", "validation perplexity"),
        "search": ("evaluated tokens", "perplexity, untrained"),
        "bin": ("parameters", "perplexity, untrained"),
        "anatomy": ("attention, entries", "teacher's layer"),
    }
    assert figures["anatomy"].axes[1].get_xlabel() == "MLP, entries"


def test_training_shows_each_curve_and_the_teacher(figures, gathered):
    figure, shown = figures["training"], lines(figures["training"])
    assert legend(figure) == list(shown) == ["before recovery", "student", "control", "teacher"]
    assert shown["before recovery"] == [(0, gathered.summary["student"]["untrained_perplexity"])]
    for role in ("student", "control"):
        assert shown[role] == [(tokens, pytest.approx(math.exp(nll))) for tokens, nll in gathered.curves[role]]
    assert {perplexity for _, perplexity in shown["teacher"]} == {gathered.summary["teacher"]["perplexity"]}
    assert figure.axes[0].get_yscale() == "linear"


def test_flops_begin_where_the_students_costs_do(figures, gathered):
    summary, shown = gathered.summary, lines(figures["flops"])
    before = sum(summary["flops"][part] for part in ("order", "search", "recover"))
    student = summary["student"]["flops"]["student"] + summary["student"]["flops"]["teacher"]
    assert shown["student"][0][0] == before and shown["control"][0][0] == 0
    assert shown["student"][-1][0] == before + student
    crossings = [points for label, points in shown.items() if label == "crossing" or label.startswith("_")]
    assert [point for points in crossings for point in points] == [
        (each["flops"], each["perplexity"]) for each in summary["equal_flops"]["crossings"]
    ]


def test_the_search_shows_the_best_so_far_of_search_and_random(figures, gathered):
    figure, shown = figures["search"], lines(figures["search"])
    assert legend(figure) == list(shown) == ["search", "best of random"]
    best = [fitness for _, fitness in shown["search"]]
    assert best == sorted(best, reverse=True) and best[-1] == gathered.summary["search"]["best_fitness"]
    dots = [len(points.get_offsets()) for points in figure.axes[0].collections]
    assert dots == [24, 24]


def test_a_search_of_one_evaluation_has_no_figure(gathered):
    one = {role: lines[:1] for role, lines in gathered.candidates.items()}
    names = [plot.name for plot in plots.of(replace(gathered, candidates=one))]
    assert names == ["training", "flops", "anatomy"]


def test_the_winner_is_ringed_inside_the_bin(figures, gathered):
    axes = figures["bin"].axes[0]
    assert legend(figures["bin"]) == ["bin", "candidates, dark to light", "winner"]
    (ring,) = (points for points in axes.collections if points.get_label() == "winner")
    size, fitness = ring.get_offsets()[0]
    assert fitness == gathered.summary["search"]["best_fitness"]
    assert gathered.summary["bin"]["low"] <= size <= gathered.summary["bin"]["high"]


def test_the_anatomy_has_the_sizes_of_every_kept_layer(figures, gathered):
    sizes = gathered.summary["anatomy"]
    attention, mlp = figures["anatomy"].axes
    for axes, width in (
        (attention, lambda gene: gene["n_query_groups"] * gene["heads_per_group"] * gene["head_size"]),
        (mlp, lambda gene: gene["intermediate_size"]),
    ):
        teacher, student = axes.containers
        assert [bar.get_width() for bar in teacher] == [width(sizes["teacher"])] * sizes["n_layer"][0]
        assert [bar.get_width() for bar in student] == [width(gene) for gene in sizes["student"]]
        places = [round(bar.get_y() + bar.get_height() / 2) for bar in student]
        assert places == [gene["layer"] for gene in sizes["student"]]


def test_a_narrow_range_of_values_still_has_ticks(gathered):
    for curve, scale in (([(0, 5.5), (10, 5.4)], "linear"), ([(0, 9.0), (10, 2.0)], "log")):
        plots.training(axes := Figure().subplots(), {"student": curve}, gathered.summary)
        assert axes.get_yscale() == scale


def test_a_recovered_student_starts_at_its_recovered_point_next_to_its_cut(gathered):
    student = {**gathered.summary["student"], "untrained_perplexity": 900.0, "recovered_perplexity": 400.0}
    curve = [(0, math.log(400.0)), (10, math.log(300.0))]
    plots.training(axes := Figure().subplots(), {"student": curve}, {**gathered.summary, "student": student})
    shown = {line.get_label(): line.get_data() for line in axes.get_lines()}
    assert [list(values) for values in shown["before recovery"]] == [[0], [900.0]]
    assert shown["student"][1][0] == pytest.approx(400.0)


def test_a_file_is_self_contained_text_that_stays_text(gathered):
    (plot,) = (plot for plot in plots.of(gathered) if plot.name == "search")
    svg = plot.svg()
    root = ElementTree.fromstring(svg)
    said = {"".join(text.itertext()) for text in root.iter(f"{SVG}text")}
    assert {"evaluated tokens", "perplexity, untrained", "search", "best of random"} <= said
    assert svg == plot.svg() and "<image" not in svg and "date" not in svg.lower()
    assert "http" not in svg.replace("http://www.w3.org/", "")
    assert root.get("aria-label") == plot.says
    assert canvas.inline(svg).startswith("<svg ")


def test_a_name_with_dollars_is_no_formula(gathered, tmp_path):
    def draw(figure: Figure) -> None:
        figure.subplots().set_xlabel("$a_1$ <b>")

    plot = canvas.Plot("odd", "Odd", 'say "<this>"', draw)
    canvas.write([plot], tmp_path)
    root = ElementTree.parse(tmp_path / "odd.svg").getroot()
    assert "$a_1$ <b>" in {"".join(text.itertext()) for text in root.iter(f"{SVG}text")}
    assert root.get("aria-label") == 'say "<this>"'


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (0.25, "0.25"), (4096, "4,096"), (20_000, "20k"), (1_500_000, "1.5M"), (1e10, "10B"), (3e18, "3e+18")],
)
def test_counts_on_an_axis(value, said):
    assert canvas.short(value) == said


def test_flops_on_an_axis():
    assert canvas.scientific(2e9) == "2e9" and canvas.scientific(1.25e18) == "1.25e18"


def test_the_summary_of_a_recovered_run_has_a_row_for_it(smoke_outputs):
    from pipeline.report import tables

    summary = json.loads((smoke_outputs / "smoke/latest/summary.json").read_text())
    plain = summary | {"recover": None, "student": summary["student"] | {"recovered_perplexity": None}}
    assert [row[0] for row in tables.rows(plain)] == ["teacher", "untrained", "student", "control"]
    summary["student"]["recovered_perplexity"] = 123.456
    summary["recover"], summary["flops"]["recover"] = {"tokens": 512, "seconds": 1.5}, 1e9
    rows = tables.rows(summary)
    assert [row[0] for row in rows] == ["teacher", "untrained", "recovered", "student", "control"]
    summary["student"]["recovered_bits_per_byte"] = 6.5432
    recovered = tables.rows(summary)[2]
    assert recovered[1:] == ["searched", "70,880", "123.46", "6.543", "512", "1e+09"]
    assert rows[3][1] == "searched + recovery + KD" and rows[4][1] == "random_weights + KD"
    facts = dict(tables.facts(summary))
    assert facts["recovery"] == "512 training tokens, 1.5 s"
    assert facts["FLOPs of ordering, search, recovery"].endswith(", 1e+09")
    summary["recover"]["helped"] = False
    assert tables.rows(summary)[3][1] == "searched + KD", "the student starts as it was cut"
    assert dict(tables.facts(summary))["recovery"].endswith(
        "; the held-out loss did not fall, so the student is as cut"
    )
    summary["flops"]["search"] = 3e8
    summary["student"] |= {"tokens": 1_000, "flops": {"student": 8e8, "teacher": 4e8}}
    assert dict(tables.facts(summary))["instead of the search"] == "250 more training tokens, 25.0% of the student's"
    summary["flops"]["search"] = 0
    assert "instead of the search" not in dict(tables.facts(summary))
