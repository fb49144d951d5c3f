"""`python -m launchers.torchrun 2 experiment=smoke ...` runs the pipeline as 2 processes on this machine.

Several machines: torchrun's own command starts the same thing, `torchrun --nnodes ... -m pipeline experiment=...`.
"""

import os
import sys

from pipeline.composition import compose
from pipeline.errors import SprigError


def command(processes: int, overrides: list[str]) -> list[str]:
    """The torchrun command of `processes` ranks of the pipeline on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*launcher, "-m", "pipeline", *overrides]


def check(processes: int, overrides: list[str]) -> None:
    """Checks the run as one of that many ranks would, so that the sentence comes once and without torchrun's traceback.

    Raises:
        SprigError: as pipeline.stages.plan.check.
    """
    from pipeline.stages import plan
    from pipeline.stages.context import Context

    count = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    os.environ.update(count)
    try:
        plan.check(Context(compose(overrides), log=lambda line: None))
    finally:
        for name in count:
            del os.environ[name]


def main() -> None:
    if len(sys.argv) < 2 or not sys.argv[1].isdecimal() or int(sys.argv[1]) < 1:
        sys.exit("usage: python -m launchers.torchrun PROCESSES [override ...]")
    processes, overrides = int(sys.argv[1]), sys.argv[2:]
    try:
        check(processes, overrides)
    except SprigError as error:
        sys.exit(f"sprig: {error}")
    # torchrun would give each process one core unless told otherwise.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    os.execv(sys.executable, command(processes, overrides))


if __name__ == "__main__":
    main()
