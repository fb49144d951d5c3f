"""The report of a sweep on hand-made run folders, whose numbers are known."""

import csv
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from pipeline import cli
from pipeline.errors import SprigError
from pipeline.report.summary import SCHEMA
from pipeline.report.sweep import html as sweep_html
from pipeline.report.sweep import plots as sweep_plots
from pipeline.report.sweep.report import report
from pipeline.report.sweep.runs import read
from pipeline.subnetwork.value import LayerGenes, SubNetwork

TOKENS = 100
CURVES = {"random_weights": (4.0, 2.0), "searched": (3.0, 1.0), "lost": (3.0, 2.5), "born": (1.5, 1.0)}


def model(init: str, teacher: int = 100) -> dict:
    return {
        "init": init,
        "kd": True,
        "parameters": 1000,
        "n_layer": 1,
        "untrained_perplexity": math.exp(3),
        "final_perplexity": math.exp(CURVES[init][-1]) if init in CURVES else 1.0,
        "tokens": TOKENS,
        "lr": 1e-3,
        "flops": {"student": 2 * TOKENS, "teacher": teacher},
    }


def make_run(
    folder: Path, init: str, seed: int = 0, control: bool = False, preset: str = "hand", add: float = 0
) -> None:
    artifacts = folder / "artifacts"
    for role, curve in (("student", CURVES[init]), *([("control", CURVES["random_weights"])] if control else [])):
        lines = [{"tokens": at, "validation_nll": nll + add} for at, nll in zip((0, TOKENS), curve, strict=True)]
        (path := artifacts / f"distilled_{role}").mkdir(parents=True)
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sub = SubNetwork(layers=(1,), n_embd=8, genes=(LayerGenes(1, 2, 4, 16),))
    (artifacts / "distilled_student/subnetwork.json").write_text(json.dumps(sub.to_dict()))
    for name in ("teacher", "tokens"):
        (artifacts / name).mkdir()
    sizes = {"n_layer": 2, "n_head": 4, "head_size": 4, "intermediate_size": 32, "n_query_groups": 2, "n_embd": 16}
    (artifacts / "teacher/model_config.yaml").write_text(json.dumps(sizes))
    (artifacts / "tokens/index.json").write_text(json.dumps({"block_size": 10, "dtype": "uint16"}))
    np.zeros(51, dtype=np.uint16).tofile(artifacts / "tokens/train.bin")
    student = model(init) | {"final_perplexity": math.exp(CURVES[init][-1] + add)}
    summary = {
        "schema": SCHEMA,
        "status": "completed",
        "preset": preset,
        "seed": seed,
        "precision": "fp32",
        "teacher": {"name": "hand", "perplexity": 2.0},
        "data": {"name": "hand", "block_size": 10},
        "student": student | {"init": "random_weights" if init == "random_weights" else "searched"},
        "control": model("random_weights") if control else None,
        "flops": {"order": 10, "search": 40, "random_search": 7},
        "saving": None,
        "downstream": {},
    }
    (folder / "summary.json").write_text(json.dumps(summary))


def job(number: int, status: str = "completed", error: str | None = None, **overrides: str) -> dict:
    return {
        "id": f"job{number}",
        "overrides": overrides,
        "status": status,
        "folder": f"../../hand/job{number}",
        "seconds": 1.0,
        "error": error,
    }


def make_sweep(outputs: Path, axes: dict[str, list[str]], jobs: list[dict], schema: int = 1) -> Path:
    (folder := outputs / "sweeps/hand").mkdir(parents=True)
    record = {"schema": schema, "name": "hand", "axes": axes, "command": ["sprig", "-m", "init=a"], "jobs": jobs}
    (folder / "sweep.json").write_text(json.dumps(record))
    return folder


def row(folder: Path, *starts: str) -> list[str]:
    """The cells of the page's first table row that begins so."""
    lines = [line.strip("| ").split(" | ") for line in (folder / "sweep.md").read_text().splitlines() if "|" in line]
    return next(line for line in lines if line[: len(starts)] == list(starts))


@pytest.fixture
def undrawn(monkeypatch):
    """Plots take seconds, and most tests look at none."""
    monkeypatch.setattr(sweep_plots, "draw", lambda folder, sweep: {})
    monkeypatch.setattr(sweep_html, "write", lambda *_: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two starts, two values of kd, two seeds; one job failed, one cell was never begun."""
    outputs = tmp_path_factory.mktemp("outputs")
    for number, (init, seed, add) in enumerate(
        [("random_weights", 0, 0.0), ("searched", 0, 0.0), ("searched", 1, 0.5), ("searched", 0, 0.0)]
    ):
        make_run(outputs / f"hand/job{number}", init, seed, add=add)
    axes = {"init": ["random_weights", "searched"], "kd": ["on", "off"], "seed": ["0", "1"]}
    jobs = [
        job(0, init="random_weights", kd="on", seed="0"),
        job(1, init="searched", kd="on", seed="0"),
        job(2, init="searched", kd="on", seed="1"),
        job(3, init="searched", kd="off", seed="0"),
        job(4, "failed", "a log\nout of | memory", init="searched", kd="off", seed="1"),
    ]
    made = make_sweep(outputs, axes, jobs)
    report(made)
    return made


def test_mean_and_spread_over_seeds_and_what_is_missing(folder):
    finals = [math.exp(1.0), math.exp(1.5)]
    said = row(folder, "searched", "on")
    assert said[2] == "2" and said[5] == f"**{np.mean(finals):.2f} ± {np.std(finals, ddof=1):.2f}**"
    assert row(folder, "searched", "off")[2] == "1, 1 failed"
    assert row(folder, "random_weights", "off")[2] == "missing"
    page = (folder / "sweep.md").read_text()
    assert "4 runs are finished, 2 have no result." in page and "out of \\| memory" in page
    assert "| epochs over it | 2 to 2 |" in page


def test_total_flops_and_perplexity_at_the_smallest_total(folder):
    assert row(folder, "random_weights", "on")[7] == "300"  # no order, no search
    assert row(folder, "searched", "off")[7] == "350"
    # At 300 in all, 50 of them spent before, 250 / 3 tokens of the 100 that bring 3 nats down to 1.
    assert row(folder, "searched", "off")[8] == f"{math.exp(3 - 2 * (250 / 3) / 100):.2f}"


def test_a_saving_over_the_sweeps_run_from_random_weights(folder):
    """Target 2 nats, reached at 50 tokens; seed 1 has no such run, nor has kd=off."""
    said = row(folder, "searched", "on", "0")
    assert said[3:] == ["random weights", f"{math.exp(2):.2f}", "2.00x", "2.00x", "2.00x", f"{300 / (50 + 150):.2f}x"]
    lines = (folder / "sweep.md").read_text().split("## Savings")[1].splitlines()
    missing = [line.strip("| ").split(" | ")[:4] for line in lines if "missing" in line]
    assert missing == [["searched", kd, seed, "missing"] for kd, seed in (("on", "1"), ("off", "0"))]


@pytest.mark.parametrize(
    ("init", "tokens", "total"),
    [("searched", "2.00x", "1.50x"), ("lost", "< 1.00x", "< 0.86x"), ("born", "no finite value", "6.00x")],
)
def test_a_runs_own_control_comes_first(undrawn, tmp_path, init, tokens, total):
    make_run(tmp_path / "hand/job0", init, control=True)
    made = make_sweep(tmp_path, {"distill.tokens": ["100"]}, [job(0, **{"distill.tokens": "100"})])
    report(made)
    assert row(made, "100", "0")[2:] == ["own", f"{math.exp(2):.2f}", tokens, tokens, tokens, total]
    sweep = read(made)
    (run,) = sweep.runs
    figure = sweep_html._plots(sweep)[1][1]
    assert [trace.name for trace in figure.data] == ["distill.tokens=100", "distill.tokens=100, control"]
    assert [trace.x[-1] for trace in figure.data] == [run.total_flops, sum(run.summary["control"]["flops"].values())]


@pytest.mark.parametrize(
    ("inits", "tokens", "total"),
    [
        (("searched", "searched"), "2.00x", "1.50x"),
        (("searched", "lost"), "< 1.50 ± 0.71x", f"< {(1.5 + 300 / 350) / 2:.2f} ± {(1.5 - 300 / 350) / 2**0.5:.2f}x"),
        (("searched", "born"), "1 of 2 have no finite value", "3.75 ± 3.18x"),
        (("born", "born"), "no finite value", "6.00x"),
    ],
)
def test_what_all_seeds_save(undrawn, tmp_path, inits, tokens, total):
    for number, init in enumerate(inits):
        make_run(tmp_path / f"hand/job{number}", init, seed=number, control=True)
    axes = {"kd": ["on"], "seed": ["0", "1"]}
    report(made := make_sweep(tmp_path, axes, [job(n, kd="on", seed=str(n)) for n in (0, 1)]))
    assert row(made, "on", "all 2")[4:] == [tokens, tokens, tokens, total]


def test_tasks_of_all_models_beside_the_published_ones(undrawn, tmp_path):
    """Two seeds of one cell, one run of another that was not scored, and a cell that was never begun."""
    teacher = {"piqa": {"acc": 0.75, "acc_stderr": 0.01}}
    for number, (seed, accuracy) in enumerate([(0, 0.5), (1, 0.6), (0, None)]):
        student = {} if accuracy is None else {"piqa": {"acc": accuracy, "acc_stderr": 0.02 + 0.02 * seed}}
        make_run(folder := tmp_path / f"hand/job{number}", "searched", seed=seed, preset="paper-p7-downstream")
        summary = json.loads((folder / "summary.json").read_text())
        summary["downstream"] = {"teacher": teacher, "student": student}
        (folder / "summary.json").write_text(json.dumps(summary))
    axes = {"init": ["searched", "random_weights"], "bin": ["pythia-410m", "pythia-1b"], "seed": ["0", "1"]}
    cells = [("searched", "pythia-410m", "0"), ("searched", "pythia-410m", "1"), ("random_weights", "pythia-410m", "0")]
    jobs = [job(n, **dict(zip(axes, values, strict=True))) for n, values in enumerate(cells)]
    report(made := make_sweep(tmp_path, axes, jobs))
    assert row(made, "model") == ["model", "piqa acc"]
    tasks = (made / "sweep.md").read_text().split("## ")[1].splitlines()
    assert [line.split(" | ")[0] for line in tasks if "teacher" in line or "missing" in line] == [
        "| teacher hand",
        "| searched pythia-1b",
        "| random_weights pythia-410m",
        "| random_weights pythia-1b",
    ]
    assert row(made, "teacher hand")[1] == "0.750 ± 0.010"
    assert row(made, "searched pythia-410m")[1] == "0.550 ± 0.030 (0.071)"
    assert row(made, "random_weights pythia-410m")[1] == row(made, "searched pythia-1b")[1] == "missing"
    assert row(made, "published: Pythia-410M, 300B tokens")[1] == "0.668"


def test_every_number_is_in_the_csv(folder):
    lines = list(csv.DictReader((folder / "runs.csv").open()))
    assert [line["state"] for line in lines].count("completed") == 4 and len(lines) == 6
    first = next(line for line in lines if line["run"] == "job1")
    assert float(first["saving.total_flops"]) == 1.5 and first["student.flops.teacher"] == "100"
    curves = list(csv.DictReader((folder / "curves.csv").open()))
    assert {line["run"] for line in curves} == {"job0", "job1", "job2", "job3"}
    assert float(curves[-1]["nll"]) == 1.0 and float(curves[-1]["student_flops"]) == 200


def test_a_run_stands_in_every_cell_that_it_is(undrawn, tmp_path):
    make_run(tmp_path / "hand/job0", "searched")
    axes = {"search": ["random"], "search.parents": ["2", "3"]}
    one = job(0, **{"search": "random", "search.parents": "2"})
    one["same"] = [{"search": "random", "search.parents": "3"}, {"search": "random", "search.parents": "3"}]
    report(made := make_sweep(tmp_path, axes, [one]))
    assert row(made, "random", "3")[2:] == row(made, "random", "2")[2:] and row(made, "random", "3")[2] == "1"
    assert "1 runs are finished: all." in (made / "sweep.md").read_text()


def test_an_axis_and_a_number_of_one_name(undrawn, tmp_path):
    make_run(tmp_path / "hand/job0", "searched")
    report(made := make_sweep(tmp_path, {"precision": ["full", "half"]}, [job(0, precision="full")]))
    assert [line["precision"] for line in csv.DictReader((made / "runs.csv").open())] == ["full", "half"]


def test_the_page_says_the_best_setting_and_leads_to_the_pages_of_the_runs(folder):
    page = (folder / "sweep.html").read_text()
    finals = (math.exp(1), math.exp(1.5))
    assert f"The lowest validation perplexity of 3 settings is {math.exp(1):,.2f}, the mean of 1 run with" in page
    assert f"{sum(finals) / 2:,.2f} ±" in page and "out of | memory" in page and "**" not in page.split("</script>")[-1]
    for number in range(4):
        assert f'href="../../hand/job{number}/report.html"' in page
    assert "The student keeps 1 of 2 layers at width 8 of 16." in page


def test_made_again_it_has_the_same_bytes(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name.split(".")[-1] for name in before} == {"json", "md", "html", "csv", "svg", "png"}
    report(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_published_figures_stand_beside_the_cells_that_reproduce_them(undrawn, tmp_path):
    budgets = ["10000000000", "100000000000"]
    for number in range(2):
        make_run(tmp_path / f"hand/job{number}", "searched", control=True, preset="paper-p6-budget")
    made = make_sweep(tmp_path, {"distill.tokens": budgets}, [job(n, **{"distill.tokens": budgets[n]}) for n in (0, 1)])
    report(made)
    assert row(made, budgets[0])[-1].startswith("5.16x fewer FLOPs") and row(made, budgets[1])[-1].startswith("1.26x")
    sweep_plots._savings(axes := Figure().subplots(), sweep := read(made))
    marked = [tuple(each.get_offsets()[0]) for each in axes.collections if each.get_zorder() == 3]
    assert marked == [(1e10, 5.16), (1e11, 1.26)]
    stars = [trace for trace in sweep_html._savings(sweep).data if trace.marker.symbol == "star"]
    assert [(*trace.x, *trace.y) for trace in stars] == marked


def test_what_has_no_finite_value_is_drawn_above_all_others(undrawn, tmp_path):
    for number, init in enumerate(("born", "lost")):
        make_run(tmp_path / f"hand/job{number}", init, seed=number, control=True)
    made = make_sweep(tmp_path, {"kd": ["on"], "seed": ["0", "1"]}, [job(n, kd="on", seed=str(n)) for n in (0, 1)])
    figure = sweep_html._savings(read(made))
    tokens, total = figure.data[0], figure.data[-1]
    assert tokens.marker.symbol == ("triangle-up", "circle-open") and total.marker.symbol == ("circle", "circle-open")
    assert tokens.y == (9.0, 1.0) and total.y == (6.0, 300 / 350)
    assert tokens.text[0] == "no finite value: reached before training"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("none", "has no finished run among its 2 jobs: `sprig -m init=a` goes on"),
        ("presets", r"has runs of the presets hand \(job0\) and other \(job1\): a table is of one"),
        ("summary", rf"job1/summary.json is of schema 0, this is Sprig's {SCHEMA}: move .* away and give the sweep's"),
        ("record", "sweep.json is of schema 0, this is Sprig's 1: move .* away and give the sweep's command again"),
        ("folder", "is no sweep's folder .*sweep.json is not there.*: name one of outputs/sweeps"),
    ],
)
def test_what_makes_no_table(tmp_path, change, said):
    status = "interrupted" if change == "none" else "completed"
    for number in range(2):
        make_run(
            tmp_path / f"hand/job{number}", "searched", preset="other" if change == "presets" and number else "hand"
        )
    jobs = [job(number, status, init=str(number)) for number in range(2)]
    made = make_sweep(tmp_path, {"init": ["0", "1"]}, jobs, schema=0 if change == "record" else 1)
    if change == "summary":
        path = tmp_path / "hand/job1/summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 0}))
    if change == "folder":
        (made / "sweep.json").unlink()
    with pytest.raises(SprigError, match=said):
        report(made)
    assert not (made / "sweep.md").exists()


def test_the_command_line_reports_on_a_sweep_and_does_nothing_else(undrawn, monkeypatch, folder, capsys):
    monkeypatch.setattr(sys, "argv", ["sprig", f"sweep={folder}", "stages=[report]"])
    cli.main()
    assert "random_weights" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["sprig", f"sweep={folder}", "seed=1"])
    with pytest.raises(SystemExit, match="reports on a sweep and does nothing else"):
        cli.main()
