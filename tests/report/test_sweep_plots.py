"""What the figures of a sweep show: axes, scales, series and their legend."""

from itertools import pairwise, product
from pathlib import Path

import pytest
from hand import job, make_run, make_sweep, row
from matplotlib.figure import Figure

from pipeline.report import canvas
from pipeline.report.sweep import plots, savings
from pipeline.report.sweep.report import report
from pipeline.report.sweep.runs import Sweep, read


def figures(made: Path) -> tuple[Sweep, dict[str, Figure]]:
    sweep = read(made, underway=False)
    return sweep, {plot.name: plot.figure() for plot in plots.of(sweep)}


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two starts on two texts, of which one run has a control of its own."""
    outputs = tmp_path_factory.mktemp("outputs")
    axes = {"data": ["a", "b"], "init": ["searched", "random_weights"]}
    jobs = []
    for text in axes["data"]:
        for init in axes["init"]:
            make_run(outputs / f"hand/job{len(jobs)}", init, control=(text, init) == ("a", "searched"))
            jobs.append(job(len(jobs), data=text, init=init))
    return make_sweep(outputs, axes, jobs)


def test_training_has_a_panel_for_each_other_axis_and_a_colour_for_each_start(made):
    sweep, drawn = figures(made)
    assert list(drawn) == ["training", "flops", "final", "savings", "anatomy", "best"]
    for name, label in (("training", "training tokens"), ("flops", "total FLOPs, those before training included")):
        upper, lower = drawn[name].axes
        assert (upper.get_title(), lower.get_title()) == ("data=a", "data=b")
        assert lower.get_xlabel() == label and upper.get_ylabel() == lower.get_ylabel() == "validation perplexity"
        assert legend(drawn[name]) == ["searched", "searched, control", "teacher", "random_weights"]
        colours = {line.get_label(): line.get_color() for axes in (upper, lower) for line in axes.get_lines()}
        assert colours["searched"] == colours["searched, control"] != colours["random_weights"]
    ends = {line.get_label(): line.get_xdata()[-1] for line in drawn["flops"].axes[0].get_lines()}
    run = sweep.runs[0]
    assert ends["searched"] == run.total_flops == 350
    assert ends["searched, control"] == sum(run.summary["control"]["flops"].values()) == 300


def test_titles_and_legends_of_many_axes_lie_within_the_picture(tmp_path):
    axes = {
        "init": ["searched", "random_weights"],
        "search.fitness": ["perplexity", "kl"],
        "distill.tokens": ["4", "8"],
    }
    axes |= {"search.strategy": ["evolution", "one_plus_lambda"], "ordering.strategy": ["importance"]}
    jobs = []
    for values in product(*axes.values()):
        make_run(tmp_path / f"hand/job{len(jobs)}", values[0], tokens=int(values[2]))
        jobs.append(job(len(jobs), **dict(zip(axes, values, strict=True))))
    drawn = figures(make_sweep(tmp_path, axes, jobs))[1]
    assert drawn["budgets"].legends
    for name, figure in drawn.items():
        figure.draw_without_rendering()
        titles = [panel.title for panel in figure.axes if panel.get_title()]
        for extent in (shown.get_window_extent() for shown in (*titles, *figure.legends)):
            assert extent.x0 >= 0 and extent.x1 <= figure.bbox.x1 and extent.y1 <= figure.bbox.y1, name


def test_final_has_a_row_for_each_setting(made):
    sweep, drawn = figures(made)
    (axes,) = drawn["final"].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [", ".join(cell.values) for cell in sweep.cells]
    assert axes.get_xlabel() == "perplexity (line: mean)"
    dots = [points.get_offsets()[0].tolist() for points in axes.collections if len(points.get_offsets())]
    assert [dot for dot in dots if dot[0]] == [[cell.perplexity, place] for place, cell in enumerate(sweep.cells)]


def test_anatomy_has_a_row_for_each_setting(made):
    _, drawn = figures(made)
    mlp, attention = drawn["anatomy"].axes[:2]
    assert len(mlp.get_yticklabels()) == 4 and mlp.get_title() == "share of MLP"
    for axes, share in ((mlp, 16 / 32), (attention, 8 / 16)):
        shares = axes.collections[0].get_array()
        assert shares.mask[:, 0].all() and (shares[:, 1] == share).all()  # the first layer was dropped


def test_published_figures_stand_in_the_table_and_as_stars(tmp_path):
    budgets = ["10000000000", "100000000000"]
    for number in range(2):
        make_run(tmp_path / f"hand/job{number}", "searched", control=True, preset="paper-p6-budget")
    made = make_sweep(tmp_path, {"distill.tokens": budgets}, [job(n, **{"distill.tokens": budgets[n]}) for n in (0, 1)])
    report(made)
    assert row(made, budgets[0])[-1].startswith("5.16x fewer FLOPs") and row(made, budgets[1])[-1].startswith("1.26x")
    _, drawn = figures(made)
    (axes,) = drawn["savings"].axes
    stars = [points for points in axes.collections if points.get_label() == plots.PUBLISHED]
    assert [tuple(points.get_offsets()[0]) for points in stars] == [(1e10, 5.16), (1e11, 1.26)]
    assert legend(drawn["savings"]) == [
        "tokens",
        "student FLOPs",
        "+ teacher",
        "+ order, search and recovery",
        "published, FLOPs",
    ]
    assert axes.get_xlabel() == "training tokens of the budget" and axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_ylabel() == "saving" and axes.get_title() == "hand"


def test_what_has_no_finite_value_is_drawn_above_all_others(tmp_path):
    """One seed was at the target before training, the other never got there."""
    for number, init in enumerate(("born", "lost")):
        make_run(tmp_path / f"hand/job{number}", init, seed=number, control=True)
    made = make_sweep(tmp_path, {"seed": ["0", "1"]}, [job(n, seed=str(n)) for n in (0, 1)])
    _, drawn = figures(made)
    (axes,) = drawn["savings"].axes
    dots = [(points.get_gid(), points.get_offsets()[0][0], len(points.get_facecolors())) for points in axes.collections]
    states = (savings.INFINITE, savings.BOUND), (savings.REACHED, savings.BOUND)
    assert [state for state, *_ in (*dots[:2], *dots[-2:])] == [*states[0], *states[1]]
    assert [value for _, value, _ in (*dots[:2], *dots[-2:])] == [9.0, 1.0, 6.0, 300 / 350]
    assert [bool(filled) for *_, filled in dots[:2]] == [True, False]  # a bound is hollow
    assert axes.get_xscale() == "log" and [label.get_text() for label in axes.get_yticklabels()] == ["hand"]


def test_the_fit_is_a_line_through_every_budget_with_a_band_over_seeds(tmp_path):
    budgets, jobs = (100, 200, 400), []
    for budget in budgets:
        for seed, init in enumerate(("searched", "slow")):
            make_run(tmp_path / f"hand/job{len(jobs)}", init, seed, control=True, tokens=budget)
            jobs.append(job(len(jobs), **{"distill.tokens": str(budget), "seed": str(seed)}))
    axes = {"distill.tokens": [str(budget) for budget in budgets], "seed": ["0", "1"]}
    sweep, drawn = figures(make_sweep(tmp_path, axes, jobs))
    (axes,) = drawn["savings"].axes
    fitted = [line for line in axes.get_lines() if len(line.get_xdata()) == 30]
    fits = savings.fits(sweep)
    assert len(fitted) == len(fits) == 4
    for line, fit in zip(fitted, fits, strict=True):
        assert line.get_xdata()[[0, -1]].tolist() == pytest.approx([100, 400])
        assert line.get_ydata()[0] == pytest.approx(fit.saving(100))
    (band,) = (each for each in axes.collections if each.get_label() == "its 95% interval")
    total = next(fit for fit in fits if fit.kind == "total_flops")
    edge = [y for x, y in band.get_paths()[0].vertices if x == pytest.approx(100)]
    assert (min(edge), max(edge)) == pytest.approx(total.interval(100))


def test_long_names_leave_half_of_the_figure(tmp_path):
    name = "importance, random_subnetwork, auto, sampled, 3538944"

    def draw(figure):
        axes = figure.subplots()
        axes.scatter([20, 300], [0, 1])
        canvas.rows(axes, [name, "short"])

    figure = canvas.Plot("final", "Final", "says", draw).figure()
    figure.canvas.draw()
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [name.replace(", auto", ",\nauto"), "short"]
    assert axes.get_position().width > 0.5 and figure.get_figheight() == 3.3


@pytest.mark.parametrize("settings", [2, 12])
def test_no_labels_of_the_anatomy_lie_over_each_other(tmp_path, settings):
    """As `sprig compare` names its rows: by preset, text, folder and numbers."""
    names = [f"smoke, tiny-random, text, {'/data/my-texts' * 4}, random_subnetwork, {n}" for n in range(settings)]
    for number in range(settings):
        make_run(tmp_path / f"hand/job{number}", "searched")
    made = make_sweep(tmp_path, {"data": names}, [job(number, data=name) for number, name in enumerate(names)])
    figure = figures(made)[1]["anatomy"]
    figure.draw_without_rendering()
    mlp, attention, _ = figure.axes
    rows = [label.get_window_extent() for label in reversed(mlp.get_yticklabels())]
    for lower, upper in pairwise(rows):
        assert lower.y1 <= upper.y0
    for left, right in ((mlp.title, attention.title), (mlp.xaxis.label, attention.xaxis.label)):
        assert left.get_window_extent().x1 < right.get_window_extent().x0
