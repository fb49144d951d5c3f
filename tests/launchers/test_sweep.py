"""Sweeps: what is refused before a job starts, what is skipped, and what the record says. Jobs run in this process."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from covering import slow
from hydra.core.utils import JobStatus
from runs import changed

from launchers.sweep import clusters, pool
from launchers.sweep.jobs import Job
from launchers.sweep.logs import last_lines
from launchers.sweep.prepare import prepare
from launchers.sweep.prices import prices
from launchers.sweep.record import Record
from launchers.sweep.sweepers import returned
from pipeline import cli
from pipeline.config import GRACE, LauncherConfig
from pipeline.errors import SprigError
from pipeline.plan import costs

SMOKE = ["experiment=smoke", "precision=fp32"]
SMALL = [*SMOKE, "data.block_size=16", "stages=[prepare,order]"]


def sweep(outputs: Path, *overrides: str, base: list[str] = SMOKE) -> None:
    cli.main(["-m", *changed([*base, f"outputs={outputs}"], *overrides)])


def refused(outputs: Path, *overrides: str, base: list[str] = SMOKE) -> str:
    with pytest.raises(SystemExit) as stopped:
        sweep(outputs, *overrides, base=base)
    assert isinstance(stopped.value.code, str) and "\n" not in stopped.value.code
    return stopped.value.code


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("seed=0,1 distill.tokens=4096,100", "Job seed=0 distill.tokens=100: distill.tokens=100 is below one batch"),
        ("teacher=tiny-random,nonsense", "There is no teacher=nonsense: the choices are"),
        ("distill.temperature=1", "The sweep has no axes"),
        (
            "seed=0,1 plan=measure",
            "plan=measure times one run, and this is a sweep: use plan=true, which ends with the command that plans",
        ),
        (
            "hydra/launcher=slurm plan=measure",
            "plan=measure times one run on this machine, and this one goes to Slurm: use plan=true, or leave",
        ),
        ("seed=range(3,3)", "Axis seed of the sweep has no values"),
        ("seed=range(0,3,0)", "seed=range(0,3,0) has a step of 0"),
        ("seed=range(0,1e9)", "seed=range(0,1e9) has 1,000,000,000 values, and a sweep can have at most 10,000 jobs"),
        ("seed=shuffle(range(0,2e6))", "has 2,000,000 values"),
        ("seed=range(0,200) data.block_size=range(1,99)", "These axes have 19,600 combinations"),
        ("seed=interval(0,1)", "seed=interval(0,1) lists no values, which a sweep of all combinations needs"),
        ("seed=choice(1,2),3", "seed=choice(1,2),3 holds a list of values within another"),
        ("data=glob(nonsense*)", "Axis data of the sweep has no values"),
        ("seed=0,1 data.workers=1,2", "Axis data.workers=1,2 changes no result of smoke"),
        ("search=random search.parents=2,3", "Axis search.parents=2,3 changes no result of smoke"),
        ("seed=0,1,1", "seed=0,1,1 names 1 twice: leave one of them out."),
        ("seed=1,01", "Axis seed=1,01 changes no result of smoke"),
        (
            "kd=temperature-2,temperature-4,off distill.temperature=3",
            "Axis kd=temperature-2,temperature-4,off: temperature-2 and temperature-4 give the same run. Keep one of",
        ),
        (
            "init=random_weights,searched distill.init=searched",
            "distill.init=searched replaces what the axis init=random_weights,searched chooses, distill.init="
            "random_weights and searched, so its labels would be untrue",
        ),
        ("distill.loss=js kd=on,off", "distill.loss=js replaces what the axis kd=on,off chooses"),
        ("seed=0,1 outputs=/tmp/a,b", """outputs=/tmp/a,b names 2 folders, and a sweep has one: name one. A path"""),
        ("run_name=a,b", "A sweep has one preset, but these axes give the run folders"),
        ("stages=[export] export.to=x seed=0,1", "Job seed=0: stages names export, which is for one run"),
        ("seed=0,1 hydra.launcher.jobs=0", "hydra.launcher.jobs=0 must lie in 1..10_000"),
        ("seed=0,1 hydra.launcher.job=2", "no configuration key hydra.launcher.job: did you mean hydra.launcher.jobs?"),
        (
            "seed=0,1 hydra.launcher.jobs=999 hydra.launcher.gpus_per_job=1",
            "hydra.launcher.jobs=999 with gpus_per_job=1 need 999 GPUs, but this machine has",
        ),
        (
            "seed=0,1 hydra.launcher.nodes=2",
            "hydra.launcher.nodes=2, but this machine is one node: use hydra/launcher=s",
        ),
        (
            "hydra/launcher=slurm hydra.launcher.nodes=2",
            "gpus_per_job=1 cannot be divided evenly among hydra.launcher.n",
        ),
        (
            "hydra/launcher=slurm hydra.launcher.slurm.cpus_per_task=null",
            "cpus_per_task=None gives a rank no cores: set",
        ),
        (
            "hydra/launcher=slurm hydra.launcher.slurm.time=5",
            "With hydra.launcher.slurm.time=5, in minutes, a job ends before it can save",
        ),
        ("hydra/launcher=slurm distill.tokens=100", "sprig: distill.tokens=100 is below one batch"),
        ("seed=0,1 hydra/launcher=slurm", "this machine has no Slurm (no sbatch on its PATH)"),
        ("seed=0,1 hydra/launcher=slurm precision=auto", "precision=auto would describe this machine"),
        ("seed=0,1 hydra/launcher=slurm hydra.launcher.dry_run=true +hydra.launcher.slurm.tme=5", "'tme'"),
    ],
)
def test_nothing_starts_where_something_is_wrong(tmp_path, overrides, said):
    assert said in refused(tmp_path, *overrides.split())
    assert not list(tmp_path.rglob("*.json"))


def test_a_search_may_be_given_less_to_do_than_its_choice_says(tmp_path, capsys):
    sweep(tmp_path, "search=evolution,local", "search.generations=1", "plan=true")
    assert "2 jobs" in capsys.readouterr().out


def test_combinations_that_are_one_run_are_named(tmp_path, caplog):
    sweep(tmp_path, "init=random_weights,searched", "recover=auto,off", "plan=true")
    [said] = [each.getMessage() for each in caplog.records if "combinations" in each.getMessage()]
    assert said == (
        "4 combinations are 3 runs: init=random_weights recover=off is the same as init=random_weights recover=auto"
    )


def test_a_sweep_over_presets_is_refused(tmp_path):
    assert "A sweep has one preset" in refused(tmp_path, base=["experiment=smoke,quickstart"])


def record(outputs: Path) -> dict:
    return json.loads((outputs / "sweeps/smoke/sweep.json").read_text())


def test_a_sweep_that_is_given_again_runs_what_failed_and_what_is_new(in_process, tmp_path, monkeypatch):
    """3,000 tokens of text are one document, which cannot be split; that shows only once it is tokenised."""
    few = ["data.max_tokens=20000,3000"]
    said = refused(tmp_path, *few, base=SMALL)
    assert "1 of 2 jobs failed, first data.max_tokens=3000" in said and "Data sotu has 1 document, and" in said
    first = record(tmp_path)
    assert [job["status"] for job in first["jobs"]] == ["completed", "failed"]
    assert first["schema"] == 1 and first["axes"] == {"data.max_tokens": ["20000", "3000"]}
    assert first["jobs"][0]["overrides"]["data.max_tokens"] == "20000"
    assert first["jobs"][1]["error"].startswith("Data sotu has 1 document, and")
    for job in first["jobs"]:
        run = tmp_path / "sweeps/smoke" / job["folder"]
        assert run.name == job["id"] and (run / ".hydra/config.yaml").exists()

    in_process.ran.clear()
    refused(tmp_path, *few, base=SMALL)
    assert [run[-1] for run in in_process.ran] == ["data.max_tokens=3000"]

    in_process.ran.clear()
    sweep(tmp_path, "data.max_tokens=20000,30000", base=SMALL)
    assert [run[-1] for run in in_process.ran] == ["data.max_tokens=30000"]
    joined = record(tmp_path)
    assert joined["axes"] == {"data.max_tokens": ["20000", "3000", "30000"]}
    assert [job["status"] for job in joined["jobs"]] == ["completed", "failed", "completed"]
    assert joined["jobs"][0] == first["jobs"][0]

    sweep(tmp_path, "seed=1,2", "data.max_tokens=20000", base=SMALL)
    assert "1 of 2 jobs failed, first data.max_tokens=3000:" in refused(tmp_path, *few, base=SMALL), "it names no seed"

    monkeypatch.setattr(clusters, "local", None)
    made = record(tmp_path)["command"]
    sweep(tmp_path, "data.max_tokens=20000,30000", "debug=true", base=SMALL)  # nothing to do: no machine is asked for
    assert record(tmp_path)["command"] == made, "what made the jobs"


def test_a_signal_ends_a_sweep_in_one_sentence(in_process, tmp_path, monkeypatch):
    run = in_process._run

    def told_at_the_second(task):
        if in_process.ran:
            os.kill(os.getpid(), signal.SIGTERM)
        return run(task)

    monkeypatch.setattr(in_process, "_run", told_at_the_second)
    said = refused(tmp_path, "data.max_tokens=20000,30000", base=SMALL)
    assert said == "sprig: SIGTERM ended this run: the same command resumes from here. 1 of 2 jobs are completed."
    assert [job["status"] for job in record(tmp_path)["jobs"]] == ["completed", "missing"]


def test_a_record_of_another_schema_says_how_to_remake_it(in_process, tmp_path):
    (folder := tmp_path / "sweeps/smoke").mkdir(parents=True)
    (folder / "sweep.json").write_text('{"schema": 0}')
    said = refused(tmp_path, "data.max_tokens=20000,30000", base=SMALL)
    assert (
        f"sweep.json is of schema 0, this is Sprig's 1: move {folder} away and give the sweep's command again" in said
    )
    assert not in_process.ran


def test_identical_jobs_are_one(tmp_path):
    lists = [[*SMALL, f"outputs={tmp_path}", f"seed={seed}", f"data.workers={n}"] for seed in (0, 1) for n in (1, 2)]
    jobs = prepare(lists, {"seed": ["0", "1"]}, ranks=1, elsewhere=False)
    assert [job.named["seed"] for job in jobs] == ["0", "1"] and jobs[0].id != jobs[1].id
    axes = {"search": ["evolution", "random"], "search.parents": ["2", "3"]}
    lists = [[*SMALL, f"outputs={tmp_path}", f"search={a}", f"search.parents={b}"] for a, b in product(*axes.values())]
    made = Record(tmp_path, "smoke", [], axes, prepare(lists, axes, ranks=1, elsewhere=False))
    *_, drawn = made.jobs.values()
    assert len(made.jobs) == 3 and drawn["overrides"]["search.parents"] == "2"
    assert [each["search.parents"] for each in drawn["same"]] == ["3"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=0,1"], []),
        (["seed=0,1", "search.parents=2"], []),
        (["seed=0,1", "search=uniform", "search.parents=2"], ["search.parents=2"]),
        (["seed=0,1", "data.subset=x", "distill.js_weight=0.3"], ["data.subset=x", "distill.js_weight=0.3"]),
        (["search=uniform,evolution", "search.parents=2"], []),  # one of the jobs reads it
        (["search=uniform,importance", "search.parents=2"], ["search.parents=2"]),
    ],
)
def test_an_override_that_no_job_reads_is_said_once(tmp_path, caplog, words, said):
    sweep(tmp_path, *words, "plan=true")
    named = [line.partition(" has no effect")[0] for line in caplog.messages if "has no effect" in line]
    assert named == said


def test_a_run_of_its_own_is_a_job_of_the_sweep(smoke_outputs):
    """The ids are the run folders', so neither is made where the other is there."""
    lists = [[*SMOKE, f"outputs={smoke_outputs}", f"seed={seed}"] for seed in (0, 1)]
    alone, new = prepare(lists, {"seed": ["0", "1"]}, ranks=1, elsewhere=False)
    assert alone.folder == (smoke_outputs / "smoke/latest").resolve() and alone.completed()
    assert not new.completed()


def test_what_was_removed_is_not_completed(smoke_outputs, tmp_path):
    outputs = tmp_path / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    lists = [[*SMOKE, f"outputs={outputs}", f"seed={seed}"] for seed in (0, 1)]
    job = prepare(lists, {"seed": ["0", "1"]}, ranks=1, elsewhere=False)[0]
    assert job.completed()
    report = (job.folder / "summary.json").read_bytes()
    (job.folder / "summary.json").write_bytes(report[: len(report) // 2])
    assert not job.completed() and returned([], job, None).status == JobStatus.FAILED
    (job.folder / "summary.json").write_bytes(report)
    assert returned([], job, None).status == JobStatus.COMPLETED
    shutil.rmtree((job.folder / "artifacts/distilled_control").resolve())
    assert not job.completed()


def test_a_sweep_is_priced_with_what_is_shared_once(tmp_path, smoke_outputs, capsys):
    """Temperatures share all but their trainings, seeds share the text alone, and what is made costs nothing."""
    lists = [[*SMOKE, f"outputs={tmp_path}", f"distill.temperature={t}"] for t in (1, 2)]
    jobs = prepare(lists, {"distill.temperature": ["1", "2"]}, ranks=1, elsewhere=False)
    (alone, steps, left), (alone_too, more, rest) = prices(jobs)
    flops = costs.flops(jobs[0].context)
    assert alone == alone_too == left == sum(flops.values())
    assert rest == flops["distilled_student"] + flops["distilled_control"]
    assert (steps, more) == (len(jobs[0].steps), 4)  # two trainings, their evaluation and the report
    made = prepare([[*SMOKE, f"outputs={smoke_outputs}", "seed=0"]], {"seed": ["0"]}, ranks=1, elsewhere=False)
    assert prices(made)[0][1:] == (0, 0)
    sweep(tmp_path, "distill.temperature=1,2", "plan=true")
    assert f"{left + rest:.3g}" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_sweep_says_how_to_plan_its_most_expensive_job(tmp_path, capsys):
    slurm = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_job=2"]
    sweep(tmp_path, "distill.tokens=4096,8192", "plan=true", *slurm)
    command = capsys.readouterr().out.splitlines()[-1].strip()
    said = f"outputs={tmp_path} distill.tokens=8192 hydra.mode=RUN deepspeed.world_size=2 device=cuda plan=true"
    assert command == f"sprig {' '.join(SMOKE)} {said}"
    cli.main(shlex.split(command)[1:])
    assert "2 on cuda" in capsys.readouterr().out


def test_a_single_run_for_slurm_is_planned_as_one(tmp_path, capsys):
    slurm = ["distill.micro_batch=1", "hydra/launcher=slurm", "hydra.launcher.nodes=2", "hydra.launcher.gpus_per_job=4"]
    cli.main([*SMOKE, *slurm, f"outputs={tmp_path}", "plan=true"])
    said = capsys.readouterr().out
    assert "What this run would do" in said and "4 blocks of 32 tokens: 4 processes x 1 block" in unboxed(said)
    assert said.splitlines()[-1].strip() == f"sprig {' '.join([*SMOKE, *slurm])} outputs={tmp_path}"


def unboxed(printed: str) -> str:
    return " ".join(printed.replace("│", " ").split())


def test_a_budget_is_priced_from_the_stable_phase_on(tmp_path):
    """The twin of P6: 1,024 tokens go on from the first 128 of 256 tokens' budget, student and control alike, for which
    they wait, in whatever order they are given."""
    base = ["experiment=twin/p6-budget", "size=smoke", "seed=0", f"outputs={tmp_path}"]
    budgets = {"distill.tokens": ["1024", "256"]}
    lists = [[*base, f"distill.tokens={tokens}"] for tokens in budgets["distill.tokens"]]
    small, large = jobs = prepare(lists, budgets, ranks=1, elsewhere=False)
    assert pool._ready(jobs, [], free=2) == [small] and pool._ready([large], [], free=2) == [large]
    trained = costs.flops(large.context)["distilled_student"]
    assert trained == costs.flops(large.context)["distilled_control"]
    (alone, _, first), (_, _, second) = prices(jobs)
    assert first == alone and second == 2 * trained * 7 // 8
    # Once the stable phase of the large budget is in the store, its decay alone is left.
    phase = next(step.phase for step in large.steps if step.role == "distilled_student")
    large.context.store.obtain(phase, lambda folder: None)
    ((alone, _, left),) = prices(jobs[1:])
    assert left == alone - trained * 3 // 4
    for step in (step for step in small.steps if step.phase is not None):
        (phase := small.context.store.path(step.phase)).mkdir()
        (phase / "manifest.json").touch()
    assert pool._ready(jobs, [], free=2) == jobs


@pytest.fixture
def four_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    return [SimpleNamespace(context=SimpleNamespace(device=torch.device("cuda")))] * 8


def test_gpus_are_shared_out(four_gpus, monkeypatch):
    def visible(**settings):
        return [slot["CUDA_VISIBLE_DEVICES"] for slot in clusters._slots(LauncherConfig(**settings), four_gpus)]

    assert visible() == ["0", "1", "2", "3"]
    assert visible(jobs=3) == ["0", "1", "2"]
    assert visible(gpus_per_job=2) == ["0,1", "2,3"]
    with pytest.raises(SprigError, match=r"jobs=3 with gpus_per_job=2 need 6 GPUs, but this machine has 4: lower"):
        visible(jobs=3, gpus_per_job=2)
    with pytest.raises(SprigError, match="gpus_per_job=0, but the jobs run on GPUs: leave it out, or set device=cpu"):
        visible(gpus_per_job=0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,7,5")
    assert visible(gpus_per_job=2) == ["GPU-a,GPU-b", "7,5"]


def test_cores_are_shared_out(four_gpus, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    jobs = [SimpleNamespace(context=SimpleNamespace(device=torch.device("cpu")))] * 8
    slots = clusters._slots(LauncherConfig(jobs=3), jobs)
    assert slots == [{"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"}] * 3
    assert clusters._slots(LauncherConfig(jobs=3), jobs[:1])[0]["OMP_NUM_THREADS"] == "8"


def test_the_last_words_of_ranks_are_not_torchruns(tmp_path):
    """As torchrun writes them, its forty lines cut short."""
    failed = (
        "E1122 10:23:37.747000 17 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: {}) rank: 0"
    )
    closing = (
        "W1122 10:23:37.746000 17 torch/distributed/elastic/multiprocessing/api.py:1010] Sending process 18 closing"
    )
    after = "Traceback (most recent call last):\nRuntimeError: torchrun ended with exit code 1\n"
    log = tmp_path / "log"
    for code, words in (("1", "sprig: too short."), ("-9", failed.format("-9"))):
        log.write_text("\n".join(["step 3", "sprig: too short.", closing, failed.format(code), after]))
        assert last_lines(log)[-1] == words


def test_slurm_is_shown_where_there_is_none(tmp_path, capsys):
    sweep(
        tmp_path,
        "seed=0,1,2",
        *["hydra/launcher=slurm", "hydra.launcher.dry_run=true", "hydra.launcher.jobs=2"],
        *["hydra.launcher.slurm.partition=long", "hydra.launcher.gpus_per_job=2"],
    )
    script = capsys.readouterr().out
    for line in ("--array=0-2%2", "--partition=long", "--gpus-per-node=2", "--time=240", "--job-name=sprig-smoke"):
        assert f"#SBATCH {line}" in script
    for line in ("--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=8"):
        assert f"#SBATCH {line}\n" in script
    assert f"#SBATCH --requeue\n#SBATCH --signal=USR1@{GRACE}\n#SBATCH" in script
    (srun,) = (line for line in script.splitlines() if line.startswith("srun "))
    assert " --cpus-per-task=8 --kill-on-bad-exit=1 " in srun and "-m submitit.core._submit" in srun
    assert "wckey" not in script
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("done", [["0"], ["0", "1", "2"]])
def test_what_slurm_would_not_run_again_is_told(tmp_path, capsys, caplog, monkeypatch, done):
    caplog.set_level("INFO", "sprig")
    monkeypatch.setattr(Job, "completed", lambda job: job.named["seed"] in done)
    sweep(tmp_path, "seed=0,1,2", "hydra/launcher=slurm", "hydra.launcher.dry_run=true")
    assert f"smoke: {len(done)} of 3 jobs are completed, and not submitted" in caplog.text
    script = capsys.readouterr().out
    assert ("--array=0-1%" in script) == (len(done) == 1) and ("#!/bin/bash" in script) == (len(done) == 1)


def test_a_preset_that_is_a_sweep_starts_as_one(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("launchers.sweep.launcher.start", started.append)
    cli.main(["experiment=smoke", "hydra.mode=MULTIRUN", "seed=0,1"])
    assert started == [["experiment=smoke", "hydra.mode=MULTIRUN", "seed=0,1"]]


def test_one_run_goes_to_several_nodes_of_slurm(tmp_path, capsys):
    wide = ["hydra.launcher.nodes=2", "hydra.launcher.gpus_per_job=8", "hydra.launcher.slurm.cpus_per_task=6"]
    cli.main([*SMOKE, f"outputs={tmp_path}", "hydra/launcher=slurm", "hydra.launcher.dry_run=true", *wide, *WIDE])
    script = capsys.readouterr().out
    for line in ("--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--cpus-per-task=6"):
        assert f"#SBATCH {line}\n" in script
    assert "--array" not in script and "srun --unbuffered" in script


WIDE = ["distill.global_batch=16", "distill.micro_batch=2"]
DOCS = Path(__file__).parents[2] / "docs"
PAGE = "".join((DOCS / name).read_text(encoding="utf-8") for name in ("cluster.md", "reproduce-the-paper.md"))
ON_SLURM = {re.sub(r" \S*dry_run=true", "", each) for each in re.findall(r"^ *sprig (.*launcher=slurm.*)$", PAGE, re.M)}


@pytest.mark.parametrize("command", [min(ON_SLURM), *slow([[each] for each in sorted(ON_SLURM)[1:]])])
def test_every_job_that_the_docs_give_to_slurm_has_its_script(command, tmp_path, capsys):
    cli.main([*shlex.split(command), f"outputs={tmp_path}", "hydra.launcher.dry_run=true"])
    script = capsys.readouterr().out
    assert ("#SBATCH --array=0-" in script) == ("seed=0,1" in command or "experiment=paper" in command)
    if "nodes=2" in command:
        assert "#SBATCH --nodes=2\n" in script and "#SBATCH --gpus-per-node=8\n" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
