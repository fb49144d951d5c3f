"""The embedded teacher's twin with recovery: results/README.md has the rows of its record."""

from statistics import mean, stdev

from test_results_lab import LAB, column, grouped

STARTS = {  # init, recover; random weights are not recovered
    "random weights": ("random_weights", "off"),
    "searched": ("searched", "off"),
    "searched, recovered": ("searched", "auto"),
}


def rows() -> list[str]:
    """Perplexity before recovery, after it and after training; total FLOPs."""
    runs = grouped("../twin-p0-recovered", "init", "recover")
    found = []
    for start, axes in STARTS.items():
        names = [f"student.{name}_perplexity" for name in ("untrained", "recovered", "final")]
        cells = [spread([line[name] for line in runs[axes]]) for name in names]
        found.append(f"| {start} | {' | '.join(cells)} | {mean(column(runs[axes], 'total_flops')):.3g} |")
    return found


def spread(values: list[str]) -> str:
    numbers = [float(value) for value in values if value]
    if len(numbers) < 2:
        return f"{numbers[0]:,.1f}" if numbers else ""
    return f"{mean(numbers):,.1f} ± {stdev(numbers):,.1f}"


def test_the_rows_are_in_the_records():
    text = (LAB.parent / "README.md").read_text()
    assert [row for row in rows() if row not in text] == []
