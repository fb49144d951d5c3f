"""The perplexity after one-shot compensation of each sub-network of a finished study, and what it predicts.

    python -m benchmarks.fitnesses RUN [--json FILE]

On the study's calibration blocks, from the training text that its recovery read. The other fitnesses are the study's
own. Spearman's correlation with the loss reached, and the loss and the place of the fitness's first choice.
"""

import math

from scipy import stats

import pipeline
from benchmarks.compensation import Case, compensated, one_shot
from benchmarks.harness import arguments, report
from pipeline.models.perplexity import mean_nll
from pipeline.progress import Progress
from pipeline.search.journal import read
from pipeline.stages import graph, order, recover, study
from pipeline.stages.context import Context
from pipeline.stages.measures import REACHED
from pipeline.stages.roots import roots
from pipeline.subnetwork.selection import select

ONE_SHOT = "one-shot"


def main() -> None:
    options = arguments(__doc__.splitlines()[0], "run")
    context = Context(pipeline.compose([f"run={options.run}"]), log=lambda line: None)
    made, config = roots(context), context.config.search
    teacher, ordering = context.teacher(made.teacher, context.config.teacher), order.load(context, made.ordering)
    text = recover.training_blocks(context, made)
    calibration = context.evenly(made.tokens, "calibration", config.blocks, "search.blocks")
    folder = context.made(graph.build(context)["study"].recipe)
    points = {point["subnetwork"]: point for point in study.result(folder)["points"]}
    subs = [line["subnetwork"] for line in read(folder / "perplexity.jsonl")]
    with Progress("one-shot", len(subs), "sub-networks") as progress:
        for sub in subs:
            case = Case(teacher, sub, select(sub, context.architecture, ordering))
            loss = mean_nll(compensated(case, text, one_shot), calibration, config.batch, context.precision)
            points[sub.key][ONE_SHOT] = math.exp(loss)
            progress.advance()
    reached = [point[REACHED] for point in points.values()]
    rows = []
    for fitness in (*study.fitnesses(context), ONE_SHOT):
        values = [point[fitness] for point in points.values()]
        first = reached[min(range(len(values)), key=values.__getitem__)]
        place = sorted(reached).index(first) + 1
        rows.append(
            [fitness, f"{stats.spearmanr(values, reached).statistic:.2f}", f"{first:.3f}", f"{place} of {len(reached)}"]
        )
    figures = {key: point[ONE_SHOT] for key, point in points.items()}
    report(
        "Fitness and trained loss", ["fitness", "Spearman", "its first choice", "place"], rows, figures, options.json
    )


if __name__ == "__main__":
    main()
