"""`python -m launchers.torchrun 2 experiment=smoke ...` runs the pipeline as 2 processes on this machine.

Several machines: `hydra/launcher=slurm`, or torchrun's own command on each, `torchrun --nnodes ... -m pipeline
experiment=...`; docs/cluster.md.
"""

import os
import sys

from pipeline.command_line.arguments import parse
from pipeline.command_line.composition import compose, starts_jobs
from pipeline.config import GRACE
from pipeline.errors import SprigError

# torchrun hands these signals on to its processes, and gives them the time that a step and a checkpoint take; by itself
# it would die of SIGUSR1, and kill them after 30 seconds.
PREEMPTION = ("--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1", f"--shutdown-timeout={GRACE}")


def check(processes: int, overrides: list[str]) -> None:
    """Checks the run as one of its ranks would, so that the sentence comes once and without torchrun's traceback.

    Raises:
        SprigError: the overrides are a sweep; else as pipeline.plan.checks.check.
    """
    given = parse(overrides)
    words = given.words
    if given.multirun or starts_jobs(words):
        raise SprigError(
            f"These overrides are a sweep, which starts processes itself: run sprig, not {processes} ranks of it, and "
            f"set hydra.launcher.gpus_per_job={processes} to give each job {processes} ranks."
        )
    from pipeline.plan import checks
    from pipeline.stages.context import Context

    count = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
    os.environ.update(count)
    try:
        checks.check(Context(compose(words), log=lambda line: None))
    finally:
        for name in count:
            del os.environ[name]


def command(processes: int, overrides: list[str]) -> list[str]:
    """The torchrun command of `processes` ranks of the pipeline on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*launcher, *PREEMPTION, "-m", "pipeline", *overrides]


def share_cores(processes: int) -> None:
    """Shares this machine's cores out, since torchrun gives each process only one; OMP_NUM_THREADS takes precedence."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))


def main() -> None:
    if len(sys.argv) < 2 or not sys.argv[1].isdecimal() or int(sys.argv[1]) < 1:
        sys.exit("usage: python -m launchers.torchrun PROCESSES [override ...]")
    processes, overrides = int(sys.argv[1]), sys.argv[2:]
    try:
        check(processes, overrides)
    except SprigError as error:
        sys.exit(f"sprig: {error}")
    share_cores(processes)
    os.execv(sys.executable, command(processes, overrides))


if __name__ == "__main__":
    main()
