"""hydra/sweeper=...: an installed sweeper of Hydra's decides which jobs run, by the students' validation losses."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from launchers.sweep.jobs import Job
from pipeline.artifacts.runs import summary
from pipeline.errors import Interrupted, SprigError
from pipeline.layout import SUMMARY
from pipeline.report import material

GRID = "basic"  # Hydra's own sweeper: all combinations, which Sprig runs as one sweep


def chosen(config: DictConfig) -> str:
    return str(config.hydra.runtime.choices["hydra/sweeper"])


def search(config: DictConfig, context: HydraContext, launcher: Launcher, folder: Path) -> None:
    """Lets the chosen sweeper start its jobs on `launcher`; what it writes goes to `folder`.

    Raises:
        SprigError: the sweeper maximises, prices cannot be known before it decides, or it failed.
    """
    name = chosen(config)
    if config.plan or config.hydra.launcher.dry_run:
        raise SprigError(
            f"hydra/sweeper={name} decides on its jobs by the results of earlier ones, so neither plan=true nor a dry "
            "run can show them: plan a single run instead."
        )
    if "maximize" in str(config.hydra.sweeper.get("direction", "")).lower():
        raise SprigError(f"hydra/sweeper={name} is given validation losses: set hydra.sweeper.direction=minimize.")
    with open_dict(config):
        config.hydra.sweep.dir = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plugins = Plugins.instance()
    # Every sweeper asks this singleton for the launcher, which would only make one of a package `hydra_plugins`.
    plugins.instantiate_launcher = lambda **_: launcher  # type: ignore[method-assign]  # Hydra has no other way
    try:
        sweeper = plugins.instantiate_sweeper(hydra_context=context, task_function=_unused, config=config)
        sweeper.sweep(list(config.hydra.overrides.task))
    except (SprigError, Interrupted):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SprigError(f"hydra/sweeper={name}: {reason.rstrip('.')}. Finished jobs are kept.") from error
    finally:
        del plugins.instantiate_launcher


def _unused(config: Any) -> None:
    """What a sweeper hands to the launcher that it makes itself; this one has its own."""
    raise AssertionError("A sweeper ran a job without the launcher.")


def check(jobs: Sequence[Job], sweeper: str) -> None:
    """Raises SprigError where a job will not know its student's validation loss."""
    for job in jobs:
        if missing := [stage for stage in (material.STAGE, "distill") if stage not in job.context.config.stages]:
            raise SprigError(
                f"hydra/sweeper={sweeper} needs the student's validation loss, but stages has no {missing[0]}: add it."
            )


def returned(overrides: Sequence[str], job: Job, error: str | None) -> JobReturn:
    """What a sweeper is given for a job: the student's validation loss in nats per token, or the failure."""
    found = summary(job.folder)
    if error is not None or not found:
        failure = SprigError(error or f"{job.folder} has no {SUMMARY} that can be read.")
        return JobReturn(list(overrides), status=JobStatus.FAILED, _return_value=failure)
    perplexity = found["student"]["final_perplexity"]
    return JobReturn(list(overrides), status=JobStatus.COMPLETED, _return_value=math.log(perplexity))
