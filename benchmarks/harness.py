"""What every benchmark shares: the --json flag, the machine's name, alternating repetitions, and a table."""

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from pipeline.hardware import processor


def arguments(description: str, *folders: str, **numbers: int) -> argparse.Namespace:
    """`folders` are positional paths, `numbers` options with their defaults."""
    parser = argparse.ArgumentParser(description=description)
    for name in folders:
        parser.add_argument(name, type=Path)
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{default:,} by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one flat dictionary")
    return parser.parse_args()


def machine() -> str:
    """Processor, cores that this process may use, and Python."""
    return f"{processor()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def alternate(methods: dict[str, Callable[[], float]], repetitions: int) -> dict[str, float]:
    """Medians of what the methods return, run in turn so that a slow spell of the machine falls on all of them."""
    figures: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repetitions):
        for name, method in methods.items():
            figures[name].append(method())
    return {name: median(values) for name, values in figures.items()}


def synchronize(device: torch.device) -> None:
    """Waits for what a GPU has been given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(work: Callable[[], object], device: torch.device) -> int:
    """The most bytes that `work` held above what there was before: allocated on a GPU, resident in Linux otherwise."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def report(title: str, columns: list[str], rows: list[list[str]], figures: dict, path: Path | None) -> None:
    """Prints a table and the machine; writes `figures`, one flat dictionary, where a path is given."""
    table = Table(title=title, title_justify="left", caption=machine(), caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
    if path:
        path.write_text(json.dumps({"machine": machine()} | figures, indent=1) + "\n")
