"""The first table of results/vocabulary/README.md, from what its benchmark wrote."""

import json
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "results/vocabulary"


def test_every_row_of_the_table_is_in_the_figures():
    text, short, long = (
        (FOLDER / "README.md").read_text().replace("**", ""),
        *(json.loads((FOLDER / name).read_text()) for name in ("figures.json", "figures-20480.json")),
    )
    assert {name for name in short if short[name] != long[name]} == {"student_cut", "student_whole"}
    rows = {name: (short, name) for name in ("teacher", "untrained", "recovered")}
    rows |= {"student, after 10,240 tokens": (short, "student"), "student, after 20,480 tokens": (long, "student")}
    for label, (figures, name) in rows.items():
        cells = next(line for line in text.splitlines() if line.startswith(f"| {label} |")).split(" | ")
        assert [cells[2], cells[4].rstrip(" |")] == [f"{figures[f'{name}_{run}']:.3f}" for run in ("cut", "whole")]
