"""One student distilled three times on the embedded teacher: teacher along, from a sampled and from a top-k cache.

Same start (half of SmolLM2-135M, cut by importance without a search), same blocks in the same order, same schedule.
A run that was stopped goes on where it was.
"""

import pipeline
from benchmarks.harness import arguments, report
from pipeline.stages import distill
from pipeline.stages.context import Context

COMMON = [
    "experiment=quickstart",
    "search=importance",
    "search.random_baseline=false",
    "distill.tokens=10_240",
    "distill.global_batch=2",
    "distill.micro_batch=2",
    "distill.validations=2",
    "distill.control.enabled=false",
    "stages=[prepare,order,search,extract,distill]",
]
KINDS = {
    "teacher along": [],
    "sampled, 16 draws": ["distill.cache.kind=sampled", "distill.cache.slots=16"],
    "top-k, 48 ids": ["distill.cache.kind=topk", "distill.cache.slots=48"],
}


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    rows, figures = [], {}
    for name, overrides in KINDS.items():
        config = pipeline.compose([*COMMON, *overrides])
        pipeline.run(config)
        context = Context(config, log=print)
        curve = distill.curve(context.made(distill.step(context, "student").recipe))
        figures |= {f"{name.split(',')[0]} at {tokens} tokens": nll for tokens, nll in curve}
        rows.append([name, *(f"{nll:.4f}" for _, nll in curve)])
    online = [float(cell) for cell in rows[0][1:]]
    for row in rows:
        row.append(f"{float(row[-1]) - online[-1]:+.4f}")
    report(
        "Validation loss, nats a token, seed 0",
        ["teacher's logits", *(f"{tokens:,} tokens" for tokens, _ in curve), "to the teacher"],
        rows,
        figures,
        options.json,
    )


if __name__ == "__main__":
    main()
