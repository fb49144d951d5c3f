"""How the jobs of a sweep are started: hydra/launcher=local or slurm. Nothing of it changes a result."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from pipeline.config.checks import positive, require
from pipeline.config.choices import Cluster


@dataclass
class LauncherConfig:
    cluster: Cluster = Cluster.local
    jobs: int | None = None  # at a time; null: as many as the GPUs suffice for, on a CPU one, on Slurm all
    gpus_per_job: int | None = None  # null: one where the jobs run on GPUs; above one each job is as many ranks
    fail_fast: bool = False  # end the others when one job fails
    dry_run: bool = False  # Slurm: print the sbatch script and submit nothing
    slurm: dict[str, Any] = field(default_factory=dict)  # submitit's parameters for sbatch: partition, time, mem, ...

    def __post_init__(self):
        positive("hydra.launcher", self, "jobs")
        each = self.gpus_per_job
        require(each is None or each >= 0, f"hydra.launcher.gpus_per_job={each} must not be negative.")


def register_launcher() -> None:
    ConfigStore.instance().store(group="hydra/launcher", name="schema", node=LauncherConfig, provider="sprig")
