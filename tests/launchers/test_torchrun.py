import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.run import parse_args

from launchers.torchrun import check, command
from pipeline import cli
from pipeline.errors import SprigError
from pipeline.plan import memory
from pipeline.stages import budget


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU of the test")
    for module in (budget, memory):
        monkeypatch.setattr(module, "device_memory", lambda device: 80 << 30)


def test_gpu_processes_must_have_a_gpu_each(two_gpus):
    overrides = ["experiment=smoke", "distill.micro_batch=1"]
    with pytest.raises(SprigError, match=r"4 processes on this machine but 2 GPUs: start at most 2, or set device=cpu"):
        check(4, overrides)
    check(2, overrides)
    check(4, [*overrides, "device=cpu"])


def test_ranks_that_do_not_divide_the_batch_are_refused_before_any_is_started():
    with pytest.raises(SprigError, match=r"distill\.global_batch=4, distill\.micro_batch=1 and 3 processes"):
        check(3, ["experiment=smoke", "distill.micro_batch=1", "device=cpu"])
    assert "WORLD_SIZE" not in os.environ


@pytest.mark.parametrize(
    "preset",
    [
        ["experiment=twin/p0-initialisation"],
        ["experiment=smoke", "hydra/launcher=slurm"],
        ["-m", "experiment=smoke", "seed=3,4"],
    ],
)
def test_ranks_of_a_sweep_are_refused_with_the_fix(preset, monkeypatch):
    with pytest.raises(SprigError, match=r"are a sweep, .* run sprig, .* set hydra\.launcher\.gpus_per_job=2 to give"):
        check(2, preset)
    ranks = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in ranks.items():  # as torchrun's own command and srun start them
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=r"^sprig: These overrides are a sweep, .* but 2 ranks of it were started"):
        cli.main(preset)


def test_torchruns_own_command_for_several_machines_is_one_that_it_reads():
    page = " ".join((Path(__file__).parents[2] / "docs/cluster.md").read_text(encoding="utf-8").split())
    (documented,) = re.findall(r"`torchrun (.* -m pipeline) \.\.\.`", page)
    read = parse_args([*documented.split(), "experiment=smoke"])
    assert (read.nnodes, read.nproc_per_node, read.module, read.training_script) == ("2", "8", True, "pipeline")


def test_the_command_hands_every_override_on():
    assert command(2, ["experiment=smoke", "seed=1"])[-4:] == ["-m", "pipeline", "experiment=smoke", "seed=1"]
    assert "--nproc-per-node=2" in command(2, [])


def test_a_missing_number_of_processes_is_said():
    finished = subprocess.run([sys.executable, "-m", "launchers.torchrun", "experiment=smoke"], capture_output=True)
    assert finished.returncode == 1
    assert b"usage: python -m launchers.torchrun PROCESSES" in finished.stderr
