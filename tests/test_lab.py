"""The laboratory's presets run at their smoke size, through the sweep's own command; jobs are made in this process."""

import csv
import json
import math

import pytest

from pipeline import cli
from pipeline.command_line.composition import CONF

PRESETS = sorted(path.stem for path in (CONF / "experiment/lab").glob("p*.yaml"))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """One store for all: what presets share is made once."""
    return tmp_path_factory.mktemp("lab")


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_runs_at_its_smoke_size(preset, outputs, in_process):
    command = [f"experiment=lab/{preset}", "size=smoke", f"outputs={outputs}"]
    cli.main(command)
    folder = outputs / "sweeps" / f"lab-{preset}-smoke"
    lines = list(csv.DictReader((folder / "runs.csv").open()))
    assert {line["state"] for line in lines} == {"completed"} and len(lines) >= len(in_process.ran) > 0
    for axis, values in json.loads((folder / "sweep.json").read_text())["axes"].items():
        assert {line[axis] for line in lines} == set(values)
    assert all(math.isfinite(float(line["student.final_perplexity"])) for line in lines)
    jobs = len(in_process.ran)
    cli.main(command)
    assert len(in_process.ran) == jobs, "the second time does no work"
