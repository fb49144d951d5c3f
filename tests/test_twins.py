"""Every twin runs at its smoke size, through the sweep's own command; its jobs are made in this process."""

import csv

import pytest

from pipeline import cli
from pipeline.command_line.composition import CONF

pytestmark = pytest.mark.slow
TWINS = sorted(path.stem for path in (CONF / "experiment/twin").glob("*.yaml"))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """One store for all: what twins share is made once."""
    return tmp_path_factory.mktemp("twins")


@pytest.mark.parametrize("twin", TWINS)
def test_a_twin_runs_and_its_report_is_the_same_when_made_again(twin, outputs, in_process):
    cli.main([f"experiment=twin/{twin}", "size=smoke", f"outputs={outputs}"])
    folder = outputs / "sweeps" / f"twin-{twin}-smoke"
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    lines = list(csv.DictReader(written["runs.csv"].decode().splitlines()))
    assert {line["state"] for line in lines} == {"completed"} and len(lines) >= len(in_process.ran) > 0
    assert f"All {len(lines)} runs are finished." in written["sweep.md"].decode()
    cli.main([f"sweep={folder}", "stages=[report]"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written
