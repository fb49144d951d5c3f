"""The commands that come after a plan."""

import shlex
from collections.abc import Sequence

from pipeline.command_line.overrides import given_by, key_of
from pipeline.config import Config, Device, Precision

RUN = "run it: a line for each step, then a table of perplexities and the report"
NODE = 8  # GPUs of a machine, at most, as most clusters have them
LAUNCHER = "hydra/launcher"


def commands(config: Config, overrides: list[str]) -> list[tuple[str, str]]:
    """Rows of purpose and command, from the words of the plan; none for a plan from Python."""
    processes = config.deepspeed.world_size or 1
    words = _without(overrides, "plan", "debug")
    if not words:
        return []
    if launcher := given_by(words).get(LAUNCHER):
        whole = shlex.join(["sprig", *_without(words, "hydra.launcher.dry_run")])
        return [(RUN if launcher == "local" else "submit it", whole)]
    started = _without(words, "deepspeed.world_size")
    run = ["sprig", *words] if processes == 1 else ["python", "-m", "launchers.torchrun", str(processes), *started]
    rows = [(RUN, shlex.join(run))]
    if processes > NODE and config.device != Device.cpu:
        machines = next(each for each in range(-(-processes // NODE), processes + 1) if processes % each == 0)
        rows = [
            (f"run it on one machine with {processes} GPUs", shlex.join(run)),
            (f"or on {machines} machines of Slurm (docs/cluster.md)", shlex.join(_on_slurm(config, started, machines))),
        ]
    if config.plan is True:
        rows.append(("time a few steps on this device first", shlex.join(["sprig", *words, "plan=measure"])))
    return rows


def _without(words: Sequence[str], *keys: str) -> list[str]:
    return [word for word in words if key_of(word) not in keys]


def _on_slurm(config: Config, words: list[str], machines: int) -> list[str]:
    """Its jobs run on other machines, whose precision Sprig cannot detect."""
    words = [word for word in words if word != "precision=auto"]
    precision = ["precision=bf16-mixed"] if config.precision == Precision.auto else []
    size = [f"hydra.launcher.nodes={machines}", f"hydra.launcher.gpus_per_job={config.deepspeed.world_size}"]
    return ["sprig", *words, *precision, f"{LAUNCHER}=slurm", *size]


def alone(overrides: Sequence[str], processes: int, elsewhere: bool) -> str:
    """The command that plans one job of a sweep; `elsewhere`: for the GPUs of other machines."""
    words = _without(overrides, "plan", "debug")
    given = given_by(words)
    layout = [f"deepspeed.world_size={processes}"] if processes > 1 and "deepspeed.world_size" not in given else []
    device = ["device=cuda"] if elsewhere and "device" not in given else []
    return shlex.join(["sprig", *words, "hydra.mode=RUN", *layout, *device, "plan=true"])
