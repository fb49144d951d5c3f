"""What every launcher of one run does before it starts processes."""

import os

from pipeline.arguments import parse
from pipeline.composition import compose


def check(processes: list[int], overrides: list[str]) -> None:
    """Checks the run as one of its ranks would, so that the sentence comes once and without a launcher's traceback.

    Args:
        processes: how many on each machine. GPUs are counted where there is one machine, which is this one.

    Raises:
        SprigError: as pipeline.stages.plan.check.
    """
    from pipeline.stages import plan
    from pipeline.stages.context import Context

    elsewhere = ["plan=true"] if len(processes) > 1 else []
    count = {"WORLD_SIZE": str(sum(processes)), "LOCAL_WORLD_SIZE": str(max(processes))}
    os.environ.update(count)
    try:
        plan.check(Context(compose([*parse(overrides).words, *elsewhere]), log=lambda line: None))
    finally:
        for name in count:
            del os.environ[name]


def share_cores(processes: int) -> None:
    """Shares this machine's cores out, as launchers hand each process only one; OMP_NUM_THREADS has the last word."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
