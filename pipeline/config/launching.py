"""How the jobs of a sweep are started: hydra/launcher=local or slurm. Nothing of it changes a result."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from pipeline.config.checks import require, whole
from pipeline.config.choices import Cluster

GRACE = 300  # seconds from the signal that ends a run to its end: for a step and a checkpoint, on every launcher


@dataclass
class LauncherConfig:
    cluster: Cluster = Cluster.local
    # at a time; null: as many as the GPUs suffice for, on a CPU one, on Slurm all
    jobs: int | None = whole(None, high=10_000)
    nodes: int = whole(1, high=10_000)  # of each job, on Slurm
    # On all nodes of a job together; null: one where the jobs run on GPUs. Each GPU has a rank; without GPUs each node.
    gpus_per_job: int | None = whole(None, low=0, high=100_000)
    fail_fast: bool = False  # end the others when one job fails
    dry_run: bool = False  # Slurm: print the sbatch script and submit nothing
    slurm: dict[str, Any] = field(default_factory=dict)  # submitit's parameters for sbatch: partition, time, mem, ...

    def __post_init__(self) -> None:
        if self.cluster == Cluster.slurm:
            self._check_slurm()
        else:
            require(
                self.nodes == 1,
                f"hydra.launcher.nodes={self.nodes}, but this machine is one node: use hydra/launcher=slurm.",
            )

    def _check_slurm(self) -> None:
        require(
            (self.gpus_per_job or 0) % self.nodes == 0,
            f"hydra.launcher.gpus_per_job={self.gpus_per_job} cannot be divided evenly among hydra.launcher.nodes="
            f"{self.nodes}: it counts the GPUs of all nodes of a job, so set a multiple of {self.nodes}.",
        )
        cores, minutes = self.slurm.get("cpus_per_task"), self.slurm.get("time")
        require(
            isinstance(cores, int) and cores > 0,
            f"hydra.launcher.slurm.cpus_per_task={cores} gives a rank no cores: set how many each one has, such as "
            "hydra.launcher.slurm.cpus_per_task=8.",
        )
        require(
            not isinstance(minutes, int) or minutes * 60 > GRACE,
            f"With hydra.launcher.slurm.time={minutes}, in minutes, a job ends before it can save: Slurm signals "
            f"it {GRACE} seconds before the end, so set more than {GRACE // 60}.",
        )

    @property
    def ranks(self) -> int:
        """Processes of a job."""
        return max(self.nodes, self.gpus_per_job or 0)


def register_launcher() -> None:
    ConfigStore.instance().store(group="hydra/launcher", name="schema", node=LauncherConfig, provider="sprig")
