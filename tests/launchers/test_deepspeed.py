import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.deepspeed import command, main, slots
from pipeline.errors import SprigError


def test_the_command_leaves_the_overrides_as_they_are(tmp_path):
    assert command([2], ["experiment=smoke", "seed=1"])[-4:] == ["--module", "pipeline", "experiment=smoke", "seed=1"]
    assert {"--no_local_rank", "--num_gpus=2"} <= set(command([2], []))
    assert f"--hostfile={tmp_path}" in command([8, 8], [], tmp_path)


def test_a_hostfile_is_read(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("# two machines\nnode-1 slots=8\n\nnode-2 slots=4 # the old one\n")
    assert slots(hosts) == [8, 4]


@pytest.mark.parametrize(
    "text, message",
    [("node-1\n", r'hosts has the line "node-1": write "name slots=number"'), ("\n", "hosts names no machine")],
)
def test_a_hostfile_that_says_nothing(text, message, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text(text)
    with pytest.raises(SprigError, match=message):
        slots(hosts)
    with pytest.raises(SprigError, match="neither a number of processes nor a hostfile"):
        slots(tmp_path / "none")


def test_the_documented_command_starts_on_the_machines_of_its_hostfile(tmp_path, monkeypatch):
    """All of it but the processes: the hostfile is read and the run checked as a rank on those machines would."""
    page = (Path(__file__).parents[2] / "docs/cluster.md").read_text(encoding="utf-8")
    (documented,) = re.findall(r"^python -m launchers\.deepspeed (.*)$", page, re.MULTILINE)
    (line,) = re.findall(r"`(node-1 slots=\d+)`", page)
    hosts, *overrides = documented.split()
    monkeypatch.chdir(tmp_path)
    Path(hosts).write_text(f"{line}\n{line.replace('node-1', 'node-2')}\n")
    monkeypatch.setattr(sys, "argv", ["launchers.deepspeed", *documented.split()])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    started = []
    monkeypatch.setattr(os, "execv", lambda program, words: started.append(words))
    main()
    assert f"--hostfile={hosts}" in started[0] and started[0][-len(overrides) :] == overrides


@pytest.mark.slow
def test_two_processes_make_a_run(tmp_path):
    overrides = ["experiment=smoke", "precision=fp32", "device=cpu", f"outputs={tmp_path}", "distill.tokens=512"]
    done = subprocess.run(
        [sys.executable, "-m", "launchers.deepspeed", "2", *overrides, "distill.micro_batch=1", "deepspeed=zero1"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "smoke/latest/summary.json").exists()
    # One process finds what two have made.
    again = subprocess.run([sys.executable, "-m", "pipeline", *overrides], capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and "begins" not in again.stdout
