import os
import subprocess
import sys

import pytest

from launchers.deepspeed import command, slots
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
