"""`python -m launchers.slurm nodes=2 gpus=8 experiment=... ` submits one run on several nodes to Slurm.

`dry=true` prints the script that would be submitted, on any machine. Further keys: `time`, `partition`, `account`,
`qos`, `constraint`, `mem` as sbatch takes them, `cpus` (a node), `setup` (a line of shell before the run); everything
else is the run's (docs/cluster.md).
"""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from launchers.layout import check
from launchers.torchrun import PREEMPTION
from pipeline.errors import SprigError

PASSED_ON = {"time": "time", "partition": "partition", "account": "account", "qos": "qos", "mem": "mem"}
PASSED_ON |= {"constraint": "constraint", "cpus": "cpus-per-task"}
KEYS = {"nodes", "gpus", "dry", "setup", *PASSED_ON}
LOGS = Path("outputs/slurm")

# Slurm sends USR1 five minutes before the time is up: the run then writes a checkpoint and asks for a requeue, and the
# same script goes on from there. One task a node, torchrun, starts the node's processes and hands signals on to them.
SCRIPT = """#!/bin/bash
#SBATCH --job-name=sprig
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
{options}#SBATCH --chdir={folder}
#SBATCH --output={logs}/%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@300
{setup}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 {python} -m torch.distributed.run \\
  --nnodes={nodes} --nproc-per-node={gpus} {preemption} \\
  --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$first:$((20000 + SLURM_JOB_ID % 20000))" \\
  -m pipeline {overrides}
"""


def script(options: dict[str, str], overrides: list[str]) -> str:
    """The sbatch script of a run whose own keys are `options`."""
    passed = "".join(f"#SBATCH --{name}={options[key]}\n" for key, name in PASSED_ON.items() if key in options)
    return SCRIPT.format(
        nodes=options["nodes"],
        gpus=options["gpus"],
        options=passed,
        folder=Path.cwd(),
        logs=LOGS,
        setup=options.get("setup", ""),
        python=shlex.quote(sys.executable),
        preemption=" ".join(PREEMPTION),
        overrides=shlex.join(overrides),
    )


def parse(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Slurm's keys, nodes and gpus among them, and the run's overrides.

    Raises:
        SprigError: nodes or gpus is no number above 0, or dry neither true nor false.
    """
    pairs = [argument.partition("=") for argument in arguments]
    options = {"nodes": "1", "gpus": "1", "dry": "false"} | {key: value for key, _, value in pairs if key in KEYS}
    for key in ("nodes", "gpus"):
        if not options[key].isdecimal() or int(options[key]) < 1:
            raise SprigError(f"{key}={options[key]} must be a number above 0.")
    if options["dry"] not in ("true", "false"):
        raise SprigError(f"dry={options['dry']} must be true or false.")
    return options, [argument for argument in arguments if argument.partition("=")[0] not in KEYS]


def submit(text: str) -> str:
    """What sbatch says.

    Raises:
        SprigError: there is no Slurm here, or it refuses.
    """
    if shutil.which("sbatch") is None:
        raise SprigError(
            "Slurm's sbatch is not on this machine: run this on a login node of the cluster, or add dry=true to see "
            "the script, or use python -m launchers.torchrun here."
        )
    LOGS.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["sbatch"], input=text, capture_output=True, text=True)
    if done.returncode:
        raise SprigError(f"sbatch refuses: {done.stderr.strip()}")
    return done.stdout.strip()


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: python -m launchers.slurm nodes=N gpus=M [dry=true] [key=value ...] [override ...]")
    try:
        options, overrides = parse(sys.argv[1:])
        # Always as elsewhere: a login node says nothing of the GPUs of the others.
        check([int(options["gpus"])] * int(options["nodes"]), [*overrides, "plan=true"])
        text = script(options, overrides)
        print(text if options["dry"] == "true" else submit(text))
    except SprigError as error:
        sys.exit(f"sprig: {error}")


if __name__ == "__main__":
    main()
