"""`plan=true` for a sweep: what each job costs, and all of them together, who share what they have in common."""

from rich.console import Console
from rich.table import Table

from launchers.sweep.jobs import Job
from pipeline.artifacts import MANIFEST
from pipeline.stages import plan


def prices(jobs: list[Job]) -> list[tuple[int, int, int]]:
    """For each job: its FLOPs alone, how many of its steps no earlier job and not the store has, and their FLOPs."""
    priced, seen = [], set()
    for job in jobs:
        flops, store = plan.flops(job.context), job.context.store
        new = [step for step in job.steps if step.recipe.fingerprint not in seen]
        new = [step for step in new if not (store.path(step.recipe) / MANIFEST).exists()]
        seen |= {step.recipe.fingerprint for step in job.steps}
        alone, left = (sum(flops.get(step.role, 0) for step in steps) for steps in (job.steps, new))
        priced.append((alone, len(new), left))
    return priced


def show(jobs: list[Job], axes: dict[str, list[str]]) -> None:
    table = Table("job", "overrides", "FLOPs alone", "steps to make", "their FLOPs", title="What this sweep would do")
    priced = prices(jobs)
    for job, (alone, steps, left) in zip(jobs, priced, strict=True):
        table.add_row(job.id, job.label(axes), f"{alone:.3g}", str(steps), f"{left:.3g}")
    alone, steps, left = (sum(column) for column in zip(*priced, strict=True))
    table.add_section()
    table.add_row(f"{len(jobs)} jobs", "what they share once", f"{alone:.3g}", str(steps), f"{left:.3g}")
    Console().print(table)
