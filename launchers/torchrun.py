"""`python -m launchers.torchrun 2 experiment=smoke ...` runs the pipeline as 2 processes on this machine.

Several machines: torchrun's own command starts the same thing, `torchrun --nnodes ... -m pipeline experiment=...`.
"""

import os
import sys

from pipeline.errors import SprigError


def command(processes: int, overrides: list[str]) -> list[str]:
    """The torchrun command of `processes` ranks of the pipeline on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*launcher, "-m", "pipeline", *overrides]


def check(processes: int, overrides: list[str], gpus: int) -> None:
    """Raises SprigError where the run would take GPUs and this machine has fewer than processes."""
    takes_gpus = "device=cuda" in overrides or (gpus > 0 and "device=cpu" not in overrides)
    if takes_gpus and processes > gpus:
        raise SprigError(f"{processes} processes but {gpus} GPUs here: start at most {gpus}, or add device=cpu.")


def main() -> None:
    if len(sys.argv) < 2 or not sys.argv[1].isdecimal() or int(sys.argv[1]) < 1:
        sys.exit("usage: python -m launchers.torchrun PROCESSES [override ...]")
    import torch

    processes, overrides = int(sys.argv[1]), sys.argv[2:]
    try:
        check(processes, overrides, torch.cuda.device_count())
    except SprigError as error:
        sys.exit(str(error))
    # torchrun would give each process one core unless told otherwise.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    os.execv(sys.executable, command(processes, overrides))


if __name__ == "__main__":
    main()
