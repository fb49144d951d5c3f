"""`plan=true` for a sweep: what each job costs, and all of them together, counting shared steps once."""

from rich.console import Console
from rich.table import Table

from launchers.sweep.jobs import Job
from pipeline.artifacts import MANIFEST
from pipeline.plan import costs
from pipeline.progress import counted
from pipeline.stages import distill, stable
from pipeline.stages.context import Step
from pipeline.terminal import cell


def prices(jobs: list[Job]) -> list[tuple[int, int, int]]:
    """For each job: its FLOPs alone, how many of its steps no earlier job and not the store has, and their FLOPs.

    A training is charged for what it adds to the longest stable phase that the store or an earlier job has.
    """
    priced = []
    seen: set[str] = set()
    phases: dict[str, set[int]] = {}
    for job in jobs:
        flops, store = costs.flops(job.context), job.context.store
        new = [step for step in job.steps if step.recipe.fingerprint not in seen]
        new = [step for step in new if not (store.path(step.recipe) / MANIFEST).exists()]
        seen |= {step.recipe.fingerprint for step in job.steps}
        alone = sum(flops.get(step.role, 0) for step in job.steps)
        left = sum(round(flops.get(step.role, 0) * _share(job, step, phases)) for step in new)
        priced.append((alone, len(new), left))
    return priced


def _share(job: Job, step: Step, phases: dict[str, set[int]]) -> float:
    """The part of a step that is left to do; `phases`, lengths of stable phases by what they have in common, grows."""
    if step.phase is None:
        return 1.0
    there = phases.setdefault(stable.without_length(step.phase), set(stable.stored(job.context.store, step.phase)))
    length = stable.length(step.phase)
    done = max((each for each in there if each <= length), default=0)
    there.add(length)
    return 1 - done / distill.budget(job.context)


def show(jobs: list[Job], axes: dict[str, list[str]]) -> Job:
    """Returns the job that costs most alone."""
    table = Table("job", "overrides", "FLOPs alone", "steps to make", "their FLOPs", title="What this sweep would do")
    priced = prices(jobs)
    most = max(zip(priced, jobs, strict=True), key=lambda each: each[0][0])[1]
    for job, (alone, steps, left) in zip(jobs, priced, strict=True):
        table.add_row(job.id, cell(job.label(axes)), f"{alone:.3g}", str(steps), f"{left:.3g}")
    alone, steps, left = (sum(column) for column in zip(*priced, strict=True))
    table.add_section()
    table.add_row(counted(len(jobs), "job"), "shared steps once", f"{alone:.3g}", str(steps), f"{left:.3g}")
    if not all(costs.is_complete(job.context) for job in jobs):
        table.caption = "Searches are not counted where only their strategy knows the number of evaluations."
    Console().print(table)
    return most
