"""`python -m launchers.torchrun 2 experiment=smoke ...` runs the pipeline as 2 processes on this machine.

Several machines: `launchers.slurm`, `launchers.deepspeed` with a hostfile, or torchrun's own command on each,
`torchrun --nnodes ... -m pipeline experiment=...`; docs/cluster.md.
"""

import os
import sys

from launchers.layout import check, share_cores
from pipeline.errors import SprigError

# torchrun hands these signals on to its processes, and gives them the time that a step and a checkpoint take; by itself
# it would die of SIGUSR1, and kill them after 30 seconds.
PREEMPTION = ("--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1", "--shutdown-timeout=280")


def command(processes: int, overrides: list[str]) -> list[str]:
    """The torchrun command of `processes` ranks of the pipeline on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*launcher, *PREEMPTION, "-m", "pipeline", *overrides]


def main() -> None:
    if len(sys.argv) < 2 or not sys.argv[1].isdecimal() or int(sys.argv[1]) < 1:
        sys.exit("usage: python -m launchers.torchrun PROCESSES [override ...]")
    processes, overrides = int(sys.argv[1]), sys.argv[2:]
    try:
        check([processes], overrides)
    except SprigError as error:
        sys.exit(f"sprig: {error}")
    share_cores(processes)
    os.execv(sys.executable, command(processes, overrides))


if __name__ == "__main__":
    main()
