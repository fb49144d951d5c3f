"""`python -m launchers.deepspeed 2 experiment=smoke ...` runs the pipeline as 2 processes under DeepSpeed's starter.

`python -m launchers.deepspeed HOSTFILE experiment=...` runs it on the machines of a hostfile, over ssh: a line for
each, such as "node-1 slots=8" (docs/cluster.md).
"""

import os
import socket
import sys
from pathlib import Path

from launchers.layout import check, share_cores
from pipeline.errors import SprigError


def command(processes: list[int], overrides: list[str], hostfile: Path | None = None) -> list[str]:
    """DeepSpeed's command of the pipeline, with so many processes on each machine."""
    # The argument that it would put before the overrides, --local_rank, is none that Hydra can read.
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--no_local_rank", f"--master_port={_free_port()}"]
    where = [f"--num_gpus={processes[0]}"] if hostfile is None else [f"--hostfile={hostfile}", "--force_multi"]
    return [*launcher, *where, "--module", "pipeline", *overrides]


def _free_port() -> int:
    """Its fixed port would be taken by a second run on the same machine."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def slots(hostfile: Path) -> list[int]:
    """Processes on each machine of a hostfile.

    Raises:
        SprigError: it is not there, or a line is not "name slots=number".
    """
    if not hostfile.is_file():
        raise SprigError(f"{hostfile} is neither a number of processes nor a hostfile that is there.")
    lines = [line.split("#")[0].split() for line in hostfile.read_text(encoding="utf-8").splitlines()]
    counts = []
    for line in filter(None, lines):
        number = line[1].removeprefix("slots=") if len(line) == 2 else ""
        if not number.isdecimal() or int(number) < 1:
            raise SprigError(f'{hostfile} has the line "{" ".join(line)}": write "name slots=number".')
        counts.append(int(number))
    if not counts:
        raise SprigError(f'{hostfile} names no machine: write a line "name slots=number" for each.')
    return counts


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] == "0":
        sys.exit("usage: python -m launchers.deepspeed PROCESSES|HOSTFILE [override ...]")
    where, overrides = sys.argv[1], sys.argv[2:]
    try:
        hostfile = None if where.isdecimal() else Path(where)
        processes = [int(where)] if hostfile is None else slots(hostfile)
        check(processes, overrides)
    except SprigError as error:
        sys.exit(f"sprig: {error}")
    share_cores(max(processes))
    os.execv(sys.executable, command(processes, overrides, hostfile))


if __name__ == "__main__":
    main()
