"""The report of a sweep on hand-made run folders, whose numbers are known."""

import csv
import io
import json
import math
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hand import job, make_run, make_sweep, row
from omegaconf import OmegaConf
from pages import Page
from rich.console import Console

from pipeline import cli, compose
from pipeline.config import to_plain
from pipeline.errors import SprigError
from pipeline.report import marks
from pipeline.report.schema import SCHEMA
from pipeline.report.sweep import plots as sweep_plots
from pipeline.report.sweep import savings, tables
from pipeline.report.sweep.record import LOCK, forget
from pipeline.report.sweep.report import in_terminal, report
from pipeline.report.sweep.runs import SAVINGS, read


@pytest.fixture
def undrawn(monkeypatch):
    """Plots take seconds, and most tests look at none."""
    monkeypatch.setattr(sweep_plots, "of", lambda sweep: [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two starts, two values of kd, two seeds; one job failed, one was never begun."""
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
        job(5, "missing", init="random_weights", kd="off", seed="0"),
    ]
    made = make_sweep(outputs, axes, jobs)
    report(made)
    return made


def test_mean_and_spread_over_seeds_and_what_is_missing(folder):
    finals = [math.exp(1.0), math.exp(1.5)]
    said = row(folder, "searched", "on")
    assert said[2] == "2" and said[5] == f"{np.mean(finals):.2f} ± {np.std(finals, ddof=1):.2f}"
    assert said[6] == f"0.625 ± {0.25 / math.sqrt(2):.3f}"  # bits per byte of 1.0 and 1.5 nats, two bytes per token
    assert row(folder, "searched", "off")[2] == "1, 1 failed"
    assert row(folder, "random_weights", "off")[2] == "1 missing"
    page = (folder / "sweep.md").read_text()
    assert "4 runs are finished; without a result: 1 failed, 1 missing." in page and "out of \\| memory" in page
    assert "| epochs over it | 2 |" in page


def test_total_flops_and_perplexity_at_the_smallest_total(folder):
    assert row(folder, "random_weights", "on")[8] == "300"  # no order, no search
    assert row(folder, "searched", "off")[8] == "350"
    # At 300 in all, 50 of them spent before, 250 / 3 tokens of the 100 that bring 3 nats down to 1.
    assert row(folder, "searched", "off")[9] == f"{math.exp(3 - 2 * (250 / 3) / 100):.2f}"


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
    assert row(made, "0")[1:] == ["own", f"{math.exp(2):.2f}", tokens, tokens, tokens, total]


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
    report(made := make_sweep(tmp_path, {"seed": ["0", "1"]}, [job(n, seed=str(n)) for n in (0, 1)]))
    assert row(made, "all 2")[3:] == [tokens, tokens, tokens, total]


def test_tasks_of_all_models_beside_the_published_ones(undrawn, tmp_path):
    """Two seeds of one cell, one run of another that was not scored, and two that were never begun."""
    teacher = {"piqa": {"acc": 0.75, "acc_stderr": 0.01}}
    for number, (seed, accuracy) in enumerate([(0, 0.5), (1, 0.6), (0, None)]):
        student = {} if accuracy is None else {"piqa": {"acc": accuracy, "acc_stderr": 0.02 + 0.02 * seed}}
        make_run(folder := tmp_path / f"hand/job{number}", "searched", seed=seed, preset="paper-p7-downstream")
        summary = json.loads((folder / "summary.json").read_text())
        summary["downstream"] = {"teacher": teacher, "student": student}
        (folder / "summary.json").write_text(json.dumps(summary))
    axes = {"init": ["searched", "random_weights"], "bin": ["pythia-410m", "pythia-1b"], "seed": ["0", "1"]}
    cells = [("searched", "pythia-410m", "0"), ("searched", "pythia-410m", "1"), ("random_weights", "pythia-410m", "0")]
    cells += [("searched", "pythia-1b", "0"), ("random_weights", "pythia-1b", "0")]
    states = [*["completed"] * 3, "missing", "missing"]
    jobs = [job(n, states[n], **dict(zip(axes, values, strict=True))) for n, values in enumerate(cells)]
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


def test_a_sweep_over_seeds_alone_has_no_lowest(undrawn, tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"hand/job{seed}", "searched", seed)
    axes = {"kd": ["on"], "seed": ["0", "1"]}
    report(made := make_sweep(tmp_path, axes, [job(n, kd="on", seed=str(n)) for n in (0, 1)]))
    said = f"The validation perplexity is {math.exp(1):.2f} (mean of 2 runs); the teacher's is 2.00."
    assert said in (made / "sweep.md").read_text()


def test_a_run_stands_in_every_cell_that_it_is(undrawn, tmp_path):
    make_run(tmp_path / "hand/job0", "searched")
    axes = {"search": ["random"], "search.parents": ["2", "3"]}
    one = job(0, **{"search": "random", "search.parents": "2"})
    one["same"] = [{"search": "random", "search.parents": "3"}, {"search": "random", "search.parents": "3"}]
    report(made := make_sweep(tmp_path, axes, [one]))
    assert row(made, "3")[1:] == row(made, "2")[1:] and row(made, "3")[1] == "1"
    assert "1 run is finished." in (page := (made / "sweep.md").read_text())
    assert "| the same in all runs | `search=random` |" in page
    assert [line["search"] for line in csv.DictReader((made / "runs.csv").open())] == ["random", "random"]


def test_a_control_stands_in_every_cell_that_it_is(undrawn, tmp_path):
    for number, init in enumerate(("random_weights", "searched", "searched")):
        make_run(tmp_path / f"hand/job{number}", init)
    axes = {"init": ["random_weights", "searched"], "recover": ["auto", "off"]}
    control = job(0, init="random_weights", recover="auto")
    control["same"] = [{"init": "random_weights", "recover": "off"}]
    students = [job(number, init="searched", recover=recover) for number, recover in ((1, "auto"), (2, "off"))]
    report(made := make_sweep(tmp_path, axes, [control, *students]))
    lines = [line for line in csv.DictReader((made / "runs.csv").open()) if line["init"] == "searched"]
    assert [line["saving.control"] for line in lines] == ["random weights", "random weights"]


def started(run: Path, overrides: list[str], config: dict) -> None:
    """Notes of a run the command that started it and its configuration."""
    (run / ".hydra").mkdir()
    for name, content in {"config": config, "overrides": overrides}.items():
        OmegaConf.save(OmegaConf.create(content), run / f".hydra/{name}.yaml")


def of_three_commands(outputs: Path, axes: dict[str, list[str]], configs: list[dict], *given: dict[str, str]) -> Path:
    """A sweep with a run of each configuration, whose command named the given axes alone."""
    for number, config in enumerate(configs):
        make_run(outputs / f"hand/job{number}", "searched", number)
        started(outputs / f"hand/job{number}", [f"experiment={config['preset']}"], config)
    report(folder := make_sweep(outputs, axes, [job(number, **each) for number, each in enumerate(given)]))
    return folder


def test_a_job_of_earlier_axes_has_the_value_that_its_run_had(undrawn, tmp_path):
    axes = {"distill.temperature": ["1", "2"], "data.block_size": ["4_096"], "seed": ["0", "1", "2"]}
    texts = [{"preset": "hand", "seed": 0, "distill": {"temperature": 1.0}, "data": {"block_size": 4096}}] * 3
    other = {"distill.temperature": "2", "data.block_size": "4_096"}
    folder = of_three_commands(tmp_path, axes, texts, {"seed": "1"}, other | {"seed": "0"}, {"seed": "2"})
    assert row(folder, "1")[1] == "2" and row(folder, "2")[1] == "1"
    assert read(folder, underway=False).fixed == {"data.block_size": "4_096"}, "the same value in all jobs"


def test_a_value_that_no_command_names_is_an_axis_beside_the_one_that_is_named(undrawn, tmp_path):
    configs = [{"preset": "hand", "seed": 0, "distill": {"temperature": each}} for each in (1.0, 2.0, 2.0)]
    given = {"seed": "0"}, {"seed": "1", "distill.temperature": "2"}, {"seed": "2", "distill.temperature": "2.0"}
    axes = {"distill.temperature": ["2", "2.0"], "seed": ["0", "1", "2"]}
    folder = of_three_commands(tmp_path, axes, configs, *given)
    assert row(folder, "2")[1] == "2" and row(folder, "1")[1] == "1"


def test_rows_are_of_what_commands_asked_for_and_know_their_values_without_a_run(undrawn, tmp_path):
    """The first command gave temperatures, the second another rate, which failed; the folders of its runs are gone."""
    axes = {"distill.temperature": ["1", "2"], "distill.lr": ["1e9"], "seed": ["0", "7"]}
    for number, temperature in enumerate((1.0, 2.0)):
        make_run(run := tmp_path / f"hand/job{number}", "searched")
        started(run, [], {"preset": "hand", "seed": 0, "distill": {"temperature": temperature, "lr": 0.001}})
    jobs = [job(number, **{"distill.temperature": str(number + 1), "seed": "0"}) for number in (0, 1)]
    wild = {"experiment": "smoke", "distill.lr": "1e9", "seed": "7"}
    report(folder := make_sweep(tmp_path, axes, [*jobs, job(2, "failed", "not finite", **wild)]))
    lines = [line.split(" | ")[:3] for line in (folder / "sweep.md").read_text().splitlines()[6:11]]
    assert lines[2:] == [["| 1", "1e9", "1 failed"], ["| 1", "0.001", "1"], ["| 2", "0.001", "1"]]
    forget(folder, {(tmp_path / "hand/job2").resolve()})
    report(folder)
    assert row(folder, "distill.temperature")[:2] == ["distill.temperature", "seeds"]
    assert "All 2 runs are finished." in (folder / "sweep.md").read_text()
    forget(folder, {(tmp_path / f"hand/job{number}").resolve() for number in (0, 1)})
    with pytest.raises(SprigError, match="has no job left, as the runs of all were removed: give its command again"):
        report(folder)


def test_a_groups_choice_is_the_presets_unless_that_composes_to_something_else(undrawn, tmp_path):
    config = to_plain(compose(["experiment=smoke"]))
    changed = config | {"search": config["search"] | {"strategy": "random"}}
    given = {"seed": "0"}, {"seed": "1", "search": "evolution"}, {"seed": "2"}
    axes = {"search": ["evolution"], "seed": ["0", "1", "2"]}
    folder = of_three_commands(tmp_path, axes, [config, config, changed], *given)
    cells = read(folder, underway=False).cells
    assert [(cell.values, len(cell.runs)) for cell in cells] == [(("evolution",), 2), (("",), 1)]


def test_an_axis_and_a_number_of_one_name(undrawn, tmp_path):
    make_run(tmp_path / "hand/job0", "searched")
    jobs = [job(0, precision="full"), job(1, "missing", precision="half")]
    report(made := make_sweep(tmp_path, {"precision": ["full", "half"]}, jobs))
    assert [line["precision"] for line in csv.DictReader((made / "runs.csv").open())] == ["full", "half"]


def test_the_page_says_the_best_setting_and_leads_to_the_pages_of_the_runs(folder):
    page, text = Page(folder / "sweep.html"), (folder / "sweep.html").read_text()
    finals = (math.exp(1), math.exp(1.5))
    said = f"The lowest validation perplexity of 3 settings is {math.exp(1):,.2f} (one run; another seed may"
    assert said in page.text and said in (folder / "sweep.md").read_text()
    assert f"{sum(finals) / 2:,.2f} ±" in page.text and "out of | memory" in page.text
    assert "**" not in text and "<script" not in text
    assert [f"../../hand/job{number}/report.html" in page.targets for number in range(4)] == [True] * 4
    assert "The student keeps 1 of 2 layers and 8 of 16 embedding entries." in page.text


def winners(outputs: Path, seeds: int, teacher: str = "hand") -> Path:
    """A sweep of two starts, each with that many seeds."""
    axes = {"init": ["searched", "lost"], "seed": [str(seed) for seed in range(seeds)]}
    jobs = []
    for init in axes["init"]:
        for seed in range(seeds):
            number = len(jobs)
            make_run(outputs / f"hand/job{number}", init, seed, control=True, add=seed / 10, teacher=teacher)
            jobs.append(job(number, init=init, seed=str(seed)))
    return make_sweep(outputs, axes, jobs)


def test_a_winner_is_bold_only_over_several_seeds(undrawn, tmp_path):
    report(one := winners(tmp_path / "one", 1))
    assert "**" not in (one / "sweep.md").read_text() and "<b>" not in (one / "sweep.html").read_text()
    report(two := winners(tmp_path / "two", 2))
    assert row(two, "searched")[4].startswith("**") and not row(two, "lost")[4].startswith("**")
    assert f"><b>{row(two, 'searched')[4].strip('*')}</b></td>" in (two / "sweep.html").read_text()


def test_runs_of_a_teacher_with_random_weights_mean_nothing(undrawn, tmp_path, capsys, caplog):
    made = winners(tmp_path, 2)
    for number in range(4):
        path = tmp_path / f"hand/job{number}/summary.json"
        summary = json.loads(path.read_text())
        summary["teacher"]["random_weights"] = True
        path.write_text(json.dumps(summary))
    with caplog.at_level("INFO"):
        report(made)
    said = "The teacher has random weights: the numbers mean nothing."
    for text in ((made / "sweep.md").read_text(), Page(made / "sweep.html").text, caplog.text):
        assert said in text and "saving" not in text.lower()
    assert "**" not in (made / "sweep.md").read_text() and "saving." not in (made / "runs.csv").read_text()


def test_jobs_of_a_sweep_that_is_running_are_running(undrawn, tmp_path):
    """They stand as interrupted in the record, so that it is true after a kill; a process holds the folder's lock."""
    make_run(tmp_path / "hand/job0", "searched")
    jobs = [job(0, init="a"), job(1, "interrupted", init="b")]
    made = make_sweep(tmp_path, {"init": ["a", "b"]}, jobs)
    report(made)
    assert row(made, "b")[1] == "1 interrupted"
    with FileLock(made / LOCK):
        report(made)
        assert row(made, "b")[1] == "1 running" and "without a result: 1 running" in (made / "sweep.md").read_text()
        report(made, underway=False)  # the process that holds it, at its end
        assert row(made, "b")[1] == "1 interrupted"


def test_what_tells_settings_apart_is_whole_in_80_columns(undrawn, tmp_path):
    starts = ["searched", "random_subnetwork_of_the_bin"]
    axes = {"distill.init": starts, "distill.schedule.warmup": ["0.0125", "0.05"]}
    axes |= {"space.max_flops_per_token": ["123456789", "null"], "teacher": ["pythia-410m-deduped-v0", "pythia-1b"]}
    jobs = []
    for number, values in enumerate(product(*axes.values())):
        make_run(tmp_path / f"hand/job{number}", "searched", preset="paper-p1-bins")
        jobs.append(job(number, **dict(zip(axes, values, strict=True))))
    made = make_sweep(tmp_path, axes, jobs)
    report(made)
    sweep = read(made, underway=False)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(in_terminal(sweep, tables.tables(sweep)[0]))
    shown = console.export_text()
    for each in (*starts, "0.0125", "123456789", "pythia-410m-deduped-v0", *axes):
        assert each in shown
    assert f"{math.exp(1):.2f}" in shown


def test_names_are_escaped_in_every_format(undrawn, tmp_path):
    hostile = "=1+2|<i>x</i>"
    make_run(tmp_path / "hand/job0", "searched", teacher=hostile)
    report(made := make_sweep(tmp_path, {"data": [hostile]}, [job(0, data=hostile)]))
    assert "<i>" not in (made / "sweep.html").read_text() and hostile in Page(made / "sweep.html").text
    assert f"| {marks.escaped(hostile)} |" in (made / "sweep.md").read_text()
    (line,) = csv.DictReader((made / "runs.csv").open())
    assert line["data"] == line["teacher.name"] == f"'{hostile}"


def test_savings_are_fitted_over_budgets_with_an_interval_over_seeds(undrawn, tmp_path):
    """Of two seeds one reaches the target of 2 nats after half of every budget, the other after two thirds."""
    budgets = (100, 200, 400)
    axes = {"distill.tokens": [str(budget) for budget in budgets], "seed": ["0", "1"]}
    jobs = []
    for budget in budgets:
        for seed, init in enumerate(("searched", "slow")):
            make_run(tmp_path / f"hand/job{len(jobs)}", init, seed, control=True, tokens=budget)
            jobs.append(job(len(jobs), **{"distill.tokens": str(budget), "seed": str(seed)}))
    report(made := make_sweep(tmp_path, axes, jobs))
    sweep = read(made, underway=False)
    by_kind = {fit.kind: fit for fit in savings.fits(sweep)}
    assert list(by_kind) == list(SAVINGS) and all(len(fit.lines) == 2 for fit in by_kind.values())
    means = math.sqrt(2 * 1.5)
    half = 12.7062 * math.log(2 / 1.5) / 2  # t at 0.975 with one degree of freedom, times the standard error
    tokens = by_kind["tokens"]
    for budget in budgets:
        assert tokens.saving(budget) == pytest.approx(means)
        low, high = tokens.interval(budget)
        assert (low, high) == pytest.approx((means * math.exp(-half), means * math.exp(half)), 1e-4)
    assert tokens.per_doubling == pytest.approx(1)
    logs = np.log(np.array([[3 * n / (50 + 3 * n * share) for n in budgets] for share in (1 / 2, 2 / 3)]))
    slopes = [np.polyfit(np.log2(budgets), each, 1)[0] for each in logs]
    assert by_kind["total_flops"].per_doubling == pytest.approx(math.exp(np.mean(slopes)))
    assert row(made, "hand", "tokens")[2:4] == ["2", f"{means:.2f}x [{low:.2f}, {high:.2f}] at 100"]


def test_one_budget_or_one_seed(undrawn, tmp_path):
    assert savings.fits(read(winners(tmp_path / "one", 2), underway=False)) == []
    for number, budget in enumerate((100, 200)):
        make_run(tmp_path / f"two/hand/job{number}", "searched", control=True, tokens=budget)
    jobs = [job(number, **{"distill.tokens": budget}) for number, budget in enumerate(("100", "200"))]
    made = make_sweep(tmp_path / "two", {"distill.tokens": ["100", "200"]}, jobs)
    (fit, *_) = savings.fits(read(made, underway=False))
    assert fit.interval(100) is None and fit.saving(100) == pytest.approx(2)
    report(made)
    assert row(made, "hand", "tokens")[2:4] == ["1", "2.00x (one seed) at 100"]


def test_made_again_it_has_the_same_bytes(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name.split(".")[-1] for name in before} == {"json", "md", "html", "csv", "svg"}
    report(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("none", "has no finished run with a report among 2 jobs: `sprig -m init=a` resumes it"),
        ("no summary", "jobs: leave stages= out of `sprig -m init=a`, which names no report"),
        ("presets", r"has runs of the presets hand \(job0\) and other \(job1\): a table is of one"),
        ("summary", rf"job1/summary.json is of schema 0, this is Sprig's {SCHEMA}: move .* away and give the sweep's"),
        ("record", "sweep.json is of schema 0, this is Sprig's 1: move .* away and give the sweep's command again"),
        ("damaged summary", "has no finished run with a report among 2 jobs: `sprig -m init=a` resumes it"),
        ("empty record", r"sweep.json is not JSON \(.*\): move .* away and give the sweep's command again"),
        ("record {}", r"sweep.json cannot be read \(KeyError: 'schema'\): move .* away and give the sweep's command"),
        ("record of half a job", r"sweep.json cannot be read \(KeyError: 'folder'\): move .* away"),
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
    for number in range(2) if change in ("damaged summary", "no summary") else ():
        summary = tmp_path / f"hand/job{number}/summary.json"
        summary.unlink() if change == "no summary" else summary.write_bytes(b"\0" * 100)
    if change in ("empty record", "record {}"):
        (made / "sweep.json").write_text("" if change == "empty record" else "{}")
    if change == "record of half a job":
        record = json.loads((made / "sweep.json").read_text())
        del record["jobs"][1]["folder"]
        (made / "sweep.json").write_text(json.dumps(record))
    with pytest.raises(SprigError, match=said):
        report(made)
    assert not (made / "sweep.md").exists()


def test_the_command_line_reports_on_a_sweep_and_does_nothing_else(undrawn, monkeypatch, folder, capsys):
    monkeypatch.setattr(sys, "argv", ["sprig", f"sweep={folder}", "stages=[report]"])
    cli.main()
    assert "random_weights" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="reports on a sweep and does nothing else"):
        cli.main([f"sweep={folder}", "seed=1"])


def test_a_sweep_is_given_by_its_name(undrawn, folder, tmp_path, capsys):
    outputs = tmp_path / "others"
    (outputs / "sweeps").mkdir(parents=True)
    (outputs / "sweeps/mine").symlink_to(folder)
    for name in ("mine", "sweeps/mine"):
        cli.main([f"sweep={name}", f"outputs={outputs}"])
        assert "random_weights" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=rf"sweep=other is not .* in {outputs}/sweeps; .*{outputs}/sweeps/other or"):
        cli.main(["sweep=other", f"outputs={outputs}"])
