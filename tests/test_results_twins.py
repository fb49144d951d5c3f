"""The embedded teacher's twin with recovery: results/README.md has the rows of its record."""

import csv
from pathlib import Path
from statistics import mean, stdev

RESULTS = Path(__file__).parent.parent / "results"
STARTS = {  # init, recover; random weights are not recovered
    "random weights": ("random_weights", "off"),
    "searched": ("searched", "off"),
    "searched, recovered": ("searched", "auto"),
}


def rows() -> list[str]:
    """Perplexity before recovery, after it and after training; total FLOPs."""
    lines = list(csv.DictReader((RESULTS / "twin-p0-recovered/runs.csv").open()))
    found = []
    for start, axes in STARTS.items():
        of_it = [line for line in lines if line["state"] == "completed" and (line["init"], line["recover"]) == axes]
        names = [f"student.{name}_perplexity" for name in ("untrained", "recovered", "final")]
        cells = [spread([line[name] for line in of_it]) for name in names]
        found.append(f"| {start} | {' | '.join(cells)} | {mean(float(line['total_flops']) for line in of_it):.3g} |")
    return found


def spread(values: list[str]) -> str:
    numbers = [float(value) for value in values if value]
    if len(numbers) < 2:
        return f"{numbers[0]:,.1f}" if numbers else ""
    return f"{mean(numbers):,.1f} ± {stdev(numbers):,.1f}"


def test_the_rows_are_in_the_records():
    text = (RESULTS / "README.md").read_text()
    assert [row for row in rows() if row not in text] == []
