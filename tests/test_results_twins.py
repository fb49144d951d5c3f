"""The embedded teacher's twins with recovery, and its study: results/README.md has the rows of their records."""

import csv
from math import exp
from statistics import mean, stdev

import pytest
from scipy import stats
from test_results_lab import LAB, column, grouped

STARTS = {  # init, recover; random weights are not recovered
    "random weights": ("random_weights", "off"),
    "searched": ("searched", "off"),
    "searched, recovered": ("searched", "auto"),
}
FITNESSES = {
    "perplexity": "perplexity, untrained",
    "kl": "KL, untrained",
    "recovered": "perplexity after recovery",
    "short-4096": "loss after 4,096 tokens",
}


def rows_of_starts() -> list[str]:
    """Perplexity before recovery, after it and after training; total FLOPs."""
    runs = grouped("../twin-p0-recovered", "init", "recover")
    found = []
    for start, axes in STARTS.items():
        names = [f"student.{name}_perplexity" for name in ("untrained", "recovered", "final")]
        cells = [spread([line[name] for line in runs[axes]]) for name in names]
        found.append(f"| {start} | {' | '.join(cells)} | {mean(column(runs[axes], 'total_flops')):.3g} |")
    return found


def rows_of_searches() -> list[str]:
    """Parameters; perplexity before recovery, after it, after training; total FLOPs, and perplexity at the smallest."""
    found = []
    for (search,), lines in grouped("../twin-p3-recovered", "search").items():
        names = [f"student.{name}_perplexity" for name in ("untrained", "recovered", "final")]
        cells = [spread([line[name] for line in lines]) for name in names]
        equal = spread([str(exp(value)) for value in column(lines, "nll_at_equal_flops")])
        parameters, flops = (mean(column(lines, name)) for name in ("student.parameters", "total_flops"))
        found.append(f"| {search} | {parameters:,.0f} | {' | '.join(cells)} | {flops:.3g} | {equal} |")
    return found


def rows_of_fitnesses() -> list[str]:
    """Spearman's correlation with the loss reached, of all and of the random ones; how much higher the fitness's first
    choice ends than the best, and its place."""
    points = list(csv.DictReader((LAB.parent / "study/points.csv").open()))
    rows, reached = [], sorted(column(points, "reached"))
    for name, label in FITNESSES.items():
        parts = [points, [point for point in points if point["from"] == "random"]]
        found = [stats.spearmanr(column(part, name), column(part, "reached")).statistic for part in parts]
        first = float(min(points, key=lambda each: float(each[name]))["reached"])
        place = f"{reached.index(first) + 1} of {len(points)}"
        rows.append(f"| {label} | {found[0]:.2f} | {found[1]:.2f} | {first - reached[0]:.3f} | {place} |")
    return rows


def spread(values: list[str]) -> str:
    numbers = [float(value) for value in values if value]
    if len(numbers) < 2:
        return f"{numbers[0]:,.1f}" if numbers else ""
    return f"{mean(numbers):,.1f} ± {stdev(numbers):,.1f}"


def test_the_plain_cut_at_equal_flops_is_in_the_records():
    plain = [run for runs in grouped("../twin-p0-equal", "seed").values() for run in runs]
    recovered = grouped("../twin-p0-recovered", "init", "recover")["searched", "auto"]
    assert [run["seed"] for run in plain] == [run["seed"] for run in recovered] == ["0", "1", "2"]
    costs = zip(column(plain, "total_flops"), column(recovered, "total_flops"), strict=True)
    assert all(1 < ours / theirs < 1.01 for ours, theirs in costs)
    ends = [run["student.final_perplexity"] for run in plain]
    ahead = [float(end) - each for end, each in zip(ends, column(recovered, "student.final_perplexity"), strict=True)]
    assert abs(ahead[0]) < 0.05
    text = (LAB.parent / "README.md").read_text()
    assert f"the plain cut ends at {spread(ends)}." in text
    assert f"on seed 0 and {ahead[1]:.1f} and {ahead[2]:.1f} points below it on seeds 1 and 2" in text


@pytest.mark.parametrize("rows", [rows_of_starts, rows_of_searches, rows_of_fitnesses])
def test_the_rows_are_in_the_records(rows):
    text = (LAB.parent / "README.md").read_text()
    made = rows()
    assert made and [row for row in made if row not in text] == []
