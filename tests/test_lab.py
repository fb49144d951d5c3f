"""The laboratory's presets run at their smoke size, through the sweep's own command; jobs are made in this process."""

import csv

import pytest

from pipeline import cli
from pipeline.composition import CONF

PRESETS = sorted(path.stem for path in (CONF / "experiment/lab").glob("p*.yaml"))
QUICK = "p0-initialisation"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """One store for all: what presets share is made once."""
    return tmp_path_factory.mktemp("lab")


@pytest.mark.parametrize(
    "preset", [pytest.param(each, marks=[] if each == QUICK else pytest.mark.slow) for each in PRESETS]
)
def test_a_preset_runs_and_its_report_is_the_same_when_made_again(preset, outputs, in_process):
    cli.main([f"experiment=lab/{preset}", "size=smoke", f"outputs={outputs}"])
    folder = outputs / "sweeps" / f"lab-{preset}-smoke"
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    lines = list(csv.DictReader(written["runs.csv"].decode().splitlines()))
    assert {line["state"] for line in lines} == {"completed"} and len(lines) >= len(in_process.ran) > 0
    cli.main([f"sweep={folder}", "stages=[report]"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written
