"""One student distilled three times on the embedded teacher: from the teacher itself, a sampled and a top-k cache.

Same start (half of SmolLM2-135M, cut by importance without a search), same blocks in the same order, same schedule; at
two sizes, because larger batches average more of the draws' noise. An interrupted run resumes where it stopped.
"""

import pipeline
from benchmarks.harness import arguments, report
from pipeline.stages import distill, graph
from pipeline.stages.context import Context

COMMON = [
    "experiment=quickstart",
    "search=importance",
    "search.random_baseline=false",
    "distill.validations=2",
    "distill.control.enabled=false",
    "stages=[prepare,order,search,extract,distill]",
]
SIZES = [(20, 2), (20, 4)]  # steps, blocks a step
BLOCK = 256
KINDS = {
    "teacher in the loop": [],
    "sampled, 16 ids": ["distill.cache.kind=sampled", "distill.cache.slots=16"],
    "top-k, 48 ids": ["distill.cache.kind=topk", "distill.cache.slots=48"],
}


def trained(steps: int, batch: int, kind: str) -> list[tuple[int, float]]:
    """The validation curve: (tokens, nats per token)."""
    size = [f"distill.tokens={steps * batch * BLOCK}", f"distill.global_batch={batch}", "distill.micro_batch=2"]
    config = pipeline.compose([*COMMON, f"data.block_size={BLOCK}", *size, *KINDS[kind]])
    pipeline.run(config)
    context = Context(config, log=print)
    return distill.curve(context.made(graph.build(context)["distilled_student"].recipe))


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    figures = {}
    for steps, batch in SIZES:
        curves = {kind: trained(steps, batch, kind) for kind in KINDS}
        last = curves["teacher in the loop"][-1][1]
        rows = []
        for kind, curve in curves.items():
            name = f"{kind.split(',')[0]}, {batch} blocks a step"
            figures |= {f"{name}, at {tokens} tokens": nll for tokens, nll in curve}
            rows.append([kind, *(f"{nll:.4f}" for _, nll in curve), f"{curve[-1][1] - last:+.4f}"])
        report(
            f"Validation loss, nats per token, seed 0, {steps} steps of {batch} x {BLOCK} tokens",
            ["teacher's logits", *(f"{tokens:,} tokens" for tokens, _ in curve), "to the teacher"],
            rows,
            figures,
            options.json,
        )


if __name__ == "__main__":
    main()
