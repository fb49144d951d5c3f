"""How long a command takes before it does anything: `python -m benchmarks.startup [--json FILE]`.

`sprig --help` and the smoke preset's plan, as ratios to `python -c "import torch"`, in turn, medians of three. CPU time
is steadier than wall-clock time on a machine that does other things.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.harness import arguments, machine

REPETITIONS = 3
LIMIT = 300  # seconds of one command, on a machine however busy
COMMANDS = {
    "import torch": ["-c", "import torch"],
    "sprig --help": ["-m", "pipeline", "--help"],
    "sprig experiment=smoke plan=true": ["-m", "pipeline", "experiment=smoke", "plan=true"],
}


def measure(command: list[str], folder: Path) -> tuple[float, float]:
    """CPU and wall-clock seconds of a Python process and its children."""
    before, start = os.times(), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    run = [sys.executable, *command]
    subprocess.run(run, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=LIMIT)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, time.perf_counter() - start


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS.values():
            measure(command, Path(folder))  # files come from the disk once
        for _ in range(REPETITIONS):
            for name, command in COMMANDS.items():
                seconds[name].append(measure(command, Path(folder)))
    figures: dict[str, float] = {}
    table = Table("command", "CPU seconds", "ratio", "wall seconds", "ratio", title=f"Start-up, {machine()}")
    reference = [median(column) for column in zip(*seconds["import torch"], strict=True)]
    for name, each in seconds.items():
        cpu, wall = (median(column) for column in zip(*each, strict=True))
        table.add_row(name, f"{cpu:.2f}", f"{cpu / reference[0]:.2f}", f"{wall:.2f}", f"{wall / reference[1]:.2f}")
        figures |= {f"{name}, CPU seconds": cpu, f"{name}, wall seconds": wall}
        figures |= {f"{name}, CPU ratio": cpu / reference[0], f"{name}, wall ratio": wall / reference[1]}
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
