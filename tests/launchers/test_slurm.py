"""Slurm is not here: what would be submitted is read, checked by bash, and run with stand-ins for Slurm's commands."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launchers.slurm import main, parse, script, submit
from pipeline.errors import SprigError

STAND_INS = {
    "srun": 'shift; exec "$@"',
    "scontrol": 'echo "$@" >> {calls}; case "$1 $2" in "show hostnames") echo localhost;; '
    '"show job") echo JobState=RUNNING;; esac',
    "sbatch": "cat > {calls}; echo Submitted batch job 7",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """Puts the stand-ins on the path; the file that notes what they were told."""
    calls = tmp_path / "calls"
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text("#!/bin/bash\n" + text.format(calls=calls) + "\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return calls


@pytest.fixture
def launch(monkeypatch):
    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["launchers.slurm", *arguments])
        main()

    return run


def test_a_dry_run_prints_a_script_that_bash_can_read(launch, capsys):
    own = ["nodes=2", "gpus=8", "time=24:00:00", "partition=gpu", "setup=module load cuda", "dry=true"]
    launch(*own, "experiment=smoke", "distill.global_batch=32", "run_name=a b")
    printed = capsys.readouterr().out
    for line in ("--nodes=2", "--gpus-per-node=8", "--time=24:00:00", "--partition=gpu", "--signal=USR1@300"):
        assert f"#SBATCH {line}\n" in printed
    assert "module load cuda\n" in printed
    assert "-m pipeline experiment=smoke distill.global_batch=32 'run_name=a b'\n" in printed
    assert subprocess.run(["bash", "-n"], input=printed, text=True).returncode == 0


def test_a_layout_that_does_not_fit_is_refused_before_it_is_queued(launch, capsys):
    with pytest.raises(SystemExit, match=r"global_batch=4, distill\.micro_batch=2 and 16 processes do not fit"):
        launch("nodes=2", "gpus=8", "dry=true", "experiment=smoke")
    assert capsys.readouterr().out == ""


def test_the_documented_command_prints_its_script(launch, capsys):
    page = (Path(__file__).parents[2] / "docs/cluster.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^python -m launchers\.slurm (.*dry=true.*)$", page, re.MULTILINE)
    launch(*command.split())
    assert "--gpus-per-node=8" in capsys.readouterr().out


def test_values_that_are_none():
    with pytest.raises(SprigError, match="gpus=many must be a number above 0"):
        parse(["gpus=many"])
    with pytest.raises(SprigError, match="dry=True must be true or false"):
        parse(["dry=True"])


def test_a_machine_without_slurm(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SprigError, match="sbatch is not on this machine: run this on a login node"):
        submit("")


def test_the_script_is_submitted(slurm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = script(*parse(["nodes=2", "gpus=1", "experiment=smoke"]))
    assert submit(text) == "Submitted batch job 7"
    assert slurm.read_text() == text and (tmp_path / "outputs/slurm").is_dir()


@pytest.mark.slow
def test_the_script_runs_is_preempted_and_goes_on(slurm, tmp_path):
    """One node with two processes: SIGUSR1 to torchrun alone, a checkpoint, a requeue, and the same script again."""
    overrides = ["experiment=smoke", "device=cpu", "precision=fp32", f"outputs={tmp_path}/out", "distill.micro_batch=1"]
    text = script(*parse(["gpus=2", *overrides, "distill.tokens=65536", "distill.control.enabled=false"]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "localhost"}
    metrics = tmp_path / "out/artifacts/distill"

    def begin():
        log = (tmp_path / "log").open("a")
        return subprocess.Popen(
            ["bash", "-c", text.replace("\nsrun", "\nexec srun")], env=environment, stdout=log, stderr=log
        )

    def wait(condition, process):
        deadline = time.monotonic() + 240
        while not condition():
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-4000:]
            time.sleep(0.1)

    process = begin()
    try:
        wait(lambda: any('"step": 3,' in path.read_text() for path in metrics.glob("*.partial/metrics.jsonl")), process)
        process.send_signal(10)
        assert process.wait(timeout=120) != 0
    finally:
        process.kill()
    assert "requeue 17" in slurm.read_text()
    (checkpoints,) = metrics.glob("*.partial/checkpoints")
    (newest,) = checkpoints.iterdir()
    assert "A signal (SIGUSR1) ended the training after step" in " ".join((tmp_path / "log").read_text().split())
    process = begin()
    try:
        wait(
            lambda: f"goes on after step {newest.name} of" in " ".join((tmp_path / "log").read_text().split()), process
        )
    finally:
        process.terminate()
        process.wait(timeout=120)
