"""How the jobs of a sweep are started: hydra/launcher=local or slurm. Nothing of it changes a result."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from pipeline.config.checks import whole
from pipeline.config.choices import Cluster


@dataclass
class LauncherConfig:
    cluster: Cluster = Cluster.local
    jobs: int | None = whole(
        None, high=10_000
    )  # at a time; null: as many as the GPUs suffice for, on a CPU one, on Slurm all
    gpus_per_job: int | None = whole(
        None, low=0, high=1_024
    )  # null: one where the jobs run on GPUs; above one each job is as many ranks
    fail_fast: bool = False  # end the others when one job fails
    dry_run: bool = False  # Slurm: print the sbatch script and submit nothing
    slurm: dict[str, Any] = field(default_factory=dict)  # submitit's parameters for sbatch: partition, time, mem, ...


def register_launcher() -> None:
    ConfigStore.instance().store(group="hydra/launcher", name="schema", node=LauncherConfig, provider="sprig")
