"""Stage score, on request: evaluate.tasks on the models that are there, be it the teacher alone.

The scores are the artifacts of stage evaluate, so a whole run finds them made.
"""

import logging

from pipeline.report import tables
from pipeline.stages import downstream, extract
from pipeline.stages.context import Context, Steps
from pipeline.terminal import show

STAGE = "score"
log = logging.getLogger("sprig")


def reads(context: Context) -> list[str]:
    """The roles of the steps that it reads."""
    return ["teacher"]


def run(context: Context, steps: Steps) -> dict[str, dict[str, dict[str, float]]]:
    """Prints and returns {model: {task: {metric: value}}}.

    Raises:
        SprigError: the teacher was never prepared.
    """
    context.made(steps["teacher"].recipe)
    done = {}
    for name in ("teacher", *extract.roles(context)):
        model = steps["teacher" if name == "teacher" else f"distilled_{name}"].recipe
        if context.store.find(model) is None:
            log.info("%s %s is not trained yet: left out", name, model.fingerprint)
            continue
        for task in context.config.evaluate.tasks:
            step = steps[downstream.role(name, task)]
            done[step.role] = context.store.obtain(step.recipe, step.make)
            log.info("%s: %s", step.role, done[step.role])
    scores = downstream.results(done)
    show(*tables.downstream(scores))
    return scores
