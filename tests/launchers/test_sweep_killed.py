"""A sweep in processes of its own: killed, failed, extended, interrupted, on a Slurm that is a few scripts."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import fake_slurm
import psutil
import pytest
from runs import changed

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LIMIT = 900  # seconds that one process may take
SMALL = [
    *["experiment=smoke", "precision=fp32", "search.generations=1", "search.random_baseline=false"],
    *["distill.control.enabled=false", "distill.tokens=1024", "evaluate.sample_tokens=0"],
]


def command(outputs: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", "-m", *changed([*SMALL, f"outputs={outputs}"], *overrides)]


def begin(outputs: Path, *overrides: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(outputs, *overrides),
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(outputs: Path, *overrides: str, **environment: str) -> tuple[int, str]:
    process = begin(outputs, *overrides, **environment)
    try:
        said, _ = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    return process.returncode, " ".join(said.split())


def jobs(outputs: Path) -> dict[str, dict]:
    """The record's jobs by temperature; none while there is no record."""
    path = outputs / "sweeps/smoke/sweep.json"
    found = json.loads(path.read_text())["jobs"] if path.exists() else []
    return {job["overrides"]["distill.temperature"]: job for job in found}


def statuses(outputs: Path) -> list[str]:
    return [job["status"] for job in jobs(outputs).values()]


def made(outputs: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime_ns for path in outputs.glob("artifacts/*/*/manifest.json")}


def log(outputs: Path, temperature: str) -> str:
    return (outputs / "sweeps/smoke" / jobs(outputs)[temperature]["log"]).read_text()


def processes_of(outputs: Path) -> list[psutil.Process]:
    return [
        each for each in psutil.process_iter(["cmdline"]) if any(str(outputs) in a for a in each.info["cmdline"] or ())
    ]


def wait(condition: Callable[[], bool], process: subprocess.Popen | None = None, seconds: float = LIMIT) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sweep") / "outputs"


SIX = ["distill.temperature=1,2,3,4,5,6", "hydra.launcher.jobs=2"]


def test_a_killed_sweep_leaves_no_process_and_goes_on(outputs):
    """SIGKILL to the parent when one job is done and two run; one later job is made to fail."""
    process = begin(outputs, *SIX)
    try:
        wait(lambda: "completed" in statuses(outputs) and statuses(outputs).count("interrupted") == 2, process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait(lambda: not processes_of(outputs), seconds=20)
    before, done = made(outputs), [t for t, job in jobs(outputs).items() if job["status"] == "completed"]
    logs = {temperature: log(outputs, temperature) for temperature in done}
    assert done and "missing" in statuses(outputs)

    # A file where a training would be put: the job that wants it cannot go on.
    planned = {path.name for path in (outputs / "artifacts/distill").iterdir()}
    lists = [[*SMALL, f"outputs={outputs}", "distill.temperature=6"]]
    from launchers.sweep.prepare import prepare

    (last,) = prepare(lists, {"distill.temperature": ["6"]}, ranks=1, elsewhere=False)
    training = next(step for step in last.steps if step.stage == "distill").recipe.fingerprint
    assert training not in planned
    obstacle = outputs / f"artifacts/distill/{training}.partial"
    obstacle.write_text("")
    code, said = finish(outputs, *SIX)
    assert code == 1 and "1 of 6 jobs failed, first distill.temperature=6:" in said and "is not a folder" in said
    assert statuses(outputs) == ["completed"] * 5 + ["failed"]
    assert before.items() <= made(outputs).items(), "what was there was made again"
    assert {temperature: log(outputs, temperature) for temperature in done} == logs, "a completed job was run again"
    assert not processes_of(outputs)

    obstacle.unlink()
    finished = made(outputs)
    code, said = finish(outputs, *SIX)
    assert code == 0, said
    assert statuses(outputs) == ["completed"] * 6
    assert said.count(" started; its log") == 1 and finished.items() <= made(outputs).items()
    stages = [path.parent.parent.name for path in made(outputs)]
    shared = {stage: stages.count(stage) for stage in ("order", "search", "extract", "distill", "report")}
    assert shared == {"order": 1, "search": 1, "extract": 1, "distill": 6, "report": 6} and stages.count("prepare") == 2
    for job in jobs(outputs).values():
        summary = json.loads((outputs / "sweeps/smoke" / job["folder"] / "summary.json").read_text())
        assert summary["status"] == "completed"


def test_a_seventh_value_runs_alone(outputs):
    before = made(outputs)
    code, said = finish(outputs, "distill.temperature=1,2,3,4,5,6,7", "hydra.launcher.jobs=2")
    assert code == 0 and said.count(" started; its log") == 1
    assert statuses(outputs) == ["completed"] * 7
    new = sorted(path.parent.parent.name for path in made(outputs).keys() - before.keys())
    assert new == ["distill", "evaluate", "report"]
    assert (outputs / "sweeps/smoke/sweep.md").exists()


def test_a_job_alone_finds_what_the_sweep_made(outputs):
    before = made(outputs)
    alone = [sys.executable, "-m", "pipeline", *SMALL, f"outputs={outputs}", "distill.temperature=3"]
    said = subprocess.run(alone, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=True).stdout
    assert "begins" not in said and made(outputs) == before
    assert (outputs / "smoke/latest").resolve().name == jobs(outputs)["3"]["id"]


FOUR_GPUS = "import sys, torch; torch.cuda.device_count = lambda: 4; from pipeline.cli import main; main(sys.argv[1:])"


def test_ranks_of_a_job_see_its_gpus_and_its_cores(tmp_path):
    """A machine that says it has four: two jobs at a time with two ranks each, as their processes were started."""
    texts = ["data.max_tokens=20000,30000,40000", "data.block_size=16", "stages=[prepare]", "device=cpu"]
    overrides = ["-m", *SMALL, f"outputs={tmp_path}", *texts, "distill.micro_batch=2", "hydra.launcher.gpus_per_job=2"]
    set_by_others = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "LOCAL_RANK")  # DeepSpeed sets the last in this process
    environment = {key: os.environ[key] for key in os.environ if key not in set_by_others}
    command = [sys.executable, "-c", FOUR_GPUS, *overrides, "hydra.launcher.jobs=2"]
    process, seen = subprocess.Popen(command, cwd=ROOT, env=environment), set()
    try:
        deadline = time.monotonic() + LIMIT
        while process.poll() is None and time.monotonic() < deadline:
            for each in processes_of(tmp_path):
                with suppress(psutil.Error):
                    if "LOCAL_RANK" in (has := each.environ()):
                        seen.add((has["CUDA_VISIBLE_DEVICES"], has["LOCAL_RANK"], has["OMP_NUM_THREADS"]))
            time.sleep(0.2)
    finally:
        process.kill()
    assert process.returncode == 0
    threads = str(max(1, len(os.sched_getaffinity(0)) // 4))
    assert seen == {(gpus, rank, threads) for gpus in ("0,1", "2,3") for rank in ("0", "1")}


@pytest.mark.parametrize(
    ("send", "number", "how"),  # Ctrl-C goes to all processes of the terminal
    [(os.killpg, signal.SIGINT, "Interrupted: "), (os.kill, signal.SIGTERM, "SIGTERM ended this run: ")],
)
def test_an_interrupt_ends_the_jobs(tmp_path, send, number, how):
    process = begin(tmp_path, "distill.temperature=1,2,3", "hydra.launcher.jobs=2", "distill.tokens=1048576")
    try:
        wait(lambda: len(list(tmp_path.glob("smoke/*/run.log"))) == 2, process)
        send(process.pid, number)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    said = " ".join(said.split())
    assert process.returncode == 1 and f"{how}the same command resumes from here. 0 of 3 jobs are completed." in said
    assert "Traceback" not in said
    assert not processes_of(tmp_path)
    assert statuses(tmp_path) == ["interrupted", "interrupted", "missing"]


def test_fail_fast_ends_the_others(tmp_path):
    """A job of 3,000 tokens fails when its text is one document."""
    axes = ["distill.temperature=1,2", "data.max_tokens=3000,300000"]
    code, said = finish(tmp_path, *axes, "hydra.launcher.jobs=2", "hydra.launcher.fail_fast=true")
    assert code == 1 and "jobs failed, first distill.temperature=1 data.max_tokens=3000: Data sotu has 1 " in said
    found = json.loads((tmp_path / "sweeps/smoke/sweep.json").read_text())["jobs"]
    assert {job["status"] for job in found[2:]} == {"missing"} and found[1]["status"] == "interrupted"
    assert not processes_of(tmp_path)


def test_jobs_on_slurm_outlive_the_sweep_and_are_requeued(tmp_path):
    """The parent is killed, one job is told that its time is up; the same command takes both over."""
    slurm, outputs = tmp_path / "slurm", tmp_path / "outputs"
    (tmp_path / "state").mkdir()
    fake_slurm.install(slurm)
    environment = {"PATH": f"{slurm}:{os.environ['PATH']}", "FAKE_SLURM": str(tmp_path / "state")}
    axes = ["distill.temperature=1,2", "hydra/launcher=slurm", "hydra.launcher.gpus_per_job=0", "device=cpu"]
    axes += ["distill.tokens=32768"]
    process = begin(outputs, *axes, **environment)
    try:
        wait(lambda: len(list(outputs.glob("artifacts/distill/*.partial/metrics.jsonl"))) == 2, process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        pids = {path.stem: int(path.read_text()) for path in (tmp_path / "state").glob("*.pid")}
        assert len(pids) == 2 and all(map(psutil.pid_exists, pids.values()))
        os.kill(pids["10000"], signal.SIGUSR1)
        code, said = finish(outputs, *axes, **environment)
    finally:
        process.kill()
        for left in processes_of(tmp_path):
            left.kill()
    assert code == 0, said
    assert statuses(outputs) == ["completed", "completed"]
    assert len(list((tmp_path / "state").glob("*.array"))) == 1, "the jobs were submitted a second time"
    assert "SIGUSR1" in log(outputs, "1") and "Training resumes after step" in log(outputs, "1")
    assert "SIGUSR1" not in log(outputs, "2")


def test_one_run_on_two_nodes_of_slurm_is_preempted_and_goes_on(tmp_path):
    """A rank on each node, started by srun; both get the signal, and the requeued job ends as one process would."""
    slurm, outputs = tmp_path / "slurm", tmp_path / "outputs"
    (tmp_path / "state").mkdir()
    fake_slurm.install(slurm)
    environment = {"PATH": f"{slurm}:{os.environ['PATH']}", "FAKE_SLURM": str(tmp_path / "state")}
    words = changed(SMALL, f"outputs={outputs}", "distill.tokens=16384", "device=cpu")
    run = [sys.executable, "-m", "pipeline", *words]
    wide = ["hydra/launcher=slurm", "hydra.launcher.nodes=2", "hydra.launcher.gpus_per_job=0"]
    process = subprocess.Popen(
        [*run, *wide, "distill.micro_batch=1"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait(lambda: list(outputs.glob("artifacts/distill/*.partial/checkpoints/*")) != [], process)
        pids = [int(path.read_text()) for path in (tmp_path / "state").glob("*.pid")]
        assert len(pids) == 2
        for pid in pids:
            os.kill(pid, signal.SIGUSR1)
        said, _ = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
        for left in processes_of(tmp_path):
            left.kill()
    assert process.returncode == 0, said
    (job,) = json.loads((outputs / "sweeps/smoke/sweep.json").read_text())["jobs"]
    shown = (outputs / "sweeps/smoke" / job["log"]).read_text()
    assert job["status"] == "completed" and "SIGUSR1" in shown and "Training resumes after step" in shown
    again = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=True).stdout
    assert ": starting" not in again, "one process finds what two ranks made"
