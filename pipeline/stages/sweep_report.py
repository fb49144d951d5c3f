"""The report of a sweep: its jobs in one table, with mean and spread over seeds."""

import json
from pathlib import Path
from statistics import mean, stdev

from pipeline.artifacts import write_atomically
from pipeline.stages.report import SUMMARY

PAGE = "sweep.md"


def report(folder: Path) -> None:
    """Writes sweep.md from sweep.json and the summaries of the run folders that it names."""
    sweep = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    axes = [key for key in sweep["axes"] if key != "seed"]
    cells: dict[tuple, list[float]] = {}
    for job in sweep["jobs"]:
        final = cells.setdefault(tuple(job["overrides"].get(axis, "") for axis in axes), [])
        path = folder / job["folder"] / SUMMARY
        if job["status"] == "completed" and path.exists():
            final.append(json.loads(path.read_text(encoding="utf-8"))["student"]["final_perplexity"])
    header = [*axes, "seeds", "perplexity", "standard deviation"]
    rows = [
        [
            *values,
            str(len(final)),
            f"{mean(final):,.2f}" if final else "-",
            f"{stdev(final):,.2f}" if final[1:] else "-",
        ]
        for values, final in cells.items()
    ]
    lines = [header, ["---"] * len(header), *rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    write_atomically(folder / PAGE, f"# {sweep['name']}\n\n{table}")
