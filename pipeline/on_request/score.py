"""Stage score, on request: evaluate.tasks on the models that are there, be it the teacher alone.

The scores are the artifacts of stage evaluate, so a whole run finds them made.
"""

import logging

from rich.console import Console
from rich.table import Table

from pipeline.report import markdown
from pipeline.stages import downstream, prepare
from pipeline.stages.context import Context

STAGE = "score"
log = logging.getLogger("sprig")


def run(context: Context) -> dict[str, dict[str, dict[str, float]]]:
    """Prints and returns {model: {task: {metric: value}}}.

    Raises:
        SprigError: the teacher was never prepared.
    """
    context.made(prepare.teacher_step(context, context.config.teacher).recipe)
    done = {}
    for name, model in downstream.models(context).items():
        if context.store.find(model) is None:
            log.info("%s %s is not trained yet: left out", name, model.fingerprint)
            continue
        for step in downstream.of_model(context, name, model):
            done[step.role] = context.store.obtain(step.recipe, step.make)
            log.info("%s: %s", step.role, done[step.role])
    scores = downstream.results(done)
    header, body = markdown.downstream(scores)
    table = Table(*header)
    for row in body:
        table.add_row(*row)
    Console().print(table)
    return scores
