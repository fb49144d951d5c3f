import subprocess
import sys

import pytest

from launchers.torchrun import check, command
from pipeline.errors import SprigError


def test_gpu_processes_must_have_a_gpu_each():
    with pytest.raises(SprigError, match=r"3 processes but 2 GPUs here: start at most 2, or add device=cpu"):
        check(3, ["experiment=smoke"], gpus=2)
    with pytest.raises(SprigError, match=r"2 processes but 0 GPUs"):
        check(2, ["device=cuda"], gpus=0)


@pytest.mark.parametrize("overrides, gpus", [([], 0), (["device=cpu"], 2), (["device=cuda"], 4), ([], 4)])
def test_what_fits_is_let_through(overrides, gpus):
    check(4, overrides, gpus)


def test_the_command_hands_every_override_on():
    assert command(2, ["experiment=smoke", "seed=1"])[-4:] == ["-m", "pipeline", "experiment=smoke", "seed=1"]
    assert "--nproc-per-node=2" in command(2, [])


def test_a_missing_number_of_processes_is_said():
    finished = subprocess.run([sys.executable, "-m", "launchers.torchrun", "experiment=smoke"], capture_output=True)
    assert finished.returncode == 1
    assert b"usage: python -m launchers.torchrun PROCESSES" in finished.stderr
