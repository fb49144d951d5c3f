"""A report in results/ is made again from the records that lie beside it, its tables and numbers to the byte."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import records
from pipeline.report import canvas
from pipeline.report.sweep.record import NAME
from pipeline.report.sweep.report import report

RESULTS = Path(__file__).parent.parent / "results"
KEPT = sorted(path.parent for path in RESULTS.rglob(records.ARCHIVE))
DRAWN = [each if each.name == "p3-search" else pytest.param(each, marks=pytest.mark.slow) for each in KEPT]


def name(folder: Path) -> str:
    return folder.relative_to(RESULTS).as_posix()


@pytest.mark.parametrize("folder", KEPT, ids=name)
def test_tables_and_numbers_are_made_again(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(canvas.Plot, "svg", lambda plot: "<svg />")
    made = records.unpack(folder, tmp_path)
    report(made, underway=False)
    for file in ("sweep.md", "runs.csv", "curves.csv"):
        assert (made / file).read_bytes() == (folder / file).read_bytes(), file


@pytest.mark.parametrize("folder", DRAWN, ids=name)
def test_figures_are_made_again(folder, tmp_path):
    made = records.unpack(folder, tmp_path)
    report(made, underway=False)
    kept, again = ({path.name: drawn(path) for path in each.glob("*.svg")} for each in (folder, made))
    assert kept and kept.keys() == again.keys()
    for figure, (elements, places) in kept.items():
        assert again[figure][0] == elements, figure
        assert again[figure][1] == pytest.approx(places, abs=1e-3), figure


def drawn(figure: Path) -> tuple[str, list[float]]:
    """What an SVG file draws, and where, in points. Processors differ in the last digit, and so in names of clip paths,
    which are hashes of places."""
    number = re.compile(r"-?\d+\.\d+")
    text = re.sub(r"\bp[0-9a-f]{10}\b", "clip", figure.read_text())
    return number.sub("0.0", text), [float(each) for each in number.findall(text)]


def test_records_hold_no_path_of_a_machine_and_are_the_same_again(tmp_path):
    for folder in KEPT:
        for file in records.unpack(folder, tmp_path / name(folder)).parents[1].rglob("*"):
            if file.is_file():
                assert re.search(r"""(^|[\s=,'"])/[a-z]""", file.read_text()) is None, file
    [first] = (tmp_path / name(KEPT[0])).glob("sweeps/*")
    records.keep(first, tmp_path / "again", {})
    assert (tmp_path / "again" / records.ARCHIVE).read_bytes() == (KEPT[0] / records.ARCHIVE).read_bytes()


def test_runs_that_are_added_join_those_that_are_kept(tmp_path):
    """The records of one sweep, taken apart by seeds and joined again."""
    whole = records.unpack(RESULTS / "lab/allocation-twenty", tmp_path / "whole")
    record = json.loads((whole / NAME).read_text())
    for seed in record["axes"]["seed"]:
        jobs = [job for job in record["jobs"] if job["overrides"]["seed"] == seed]
        (whole / NAME).write_text(json.dumps(record | {"axes": record["axes"] | {"seed": [seed]}, "jobs": jobs}))
        records.keep(whole, tmp_path / "kept", {}, add=(tmp_path / "kept").exists())
    records.remake(tmp_path / "kept")
    assert (tmp_path / "kept/sweep.md").read_text() == (RESULTS / "lab/allocation-twenty/sweep.md").read_text()
    assert [each.name for each in (tmp_path / "kept").glob("*records*")] == [records.ARCHIVE]
