"""How far what the sampled cache keeps of a teacher is from it, compared with simpler ways to draw as many ids.

The figure is the expected squared distance between kept and whole distribution, summed over the vocabulary: so far the
gradient at the student's logits is off. Ours is measured over fillings; independent draws and systematic ones of equal
weight (evenly spaced points on the cumulative distribution) are closed forms. Embedded teacher, real text.
"""

import numpy as np
import torch

import pipeline
from benchmarks.harness import arguments, report
from pipeline.config import CacheConfig, DistillConfig
from pipeline.models.student import hidden_states
from pipeline.stages import prepare
from pipeline.stages.context import Context
from pipeline.training.cached import decode, encode, token_dtype

SLOTS, TEMPERATURES = 16, (0.5, 1.0, 2.0, 4.0)
BLOCKS, STRIDE, FILLINGS = 4, 4, 20  # every fourth token of four blocks


def squared_distance(logits: torch.Tensor, p: torch.Tensor, temperature: float, rng: np.random.Generator) -> float:
    config = DistillConfig(tokens=1, temperature=temperature, cache=CacheConfig(kind="sampled", slots=SLOTS))
    dtype = token_dtype(config.cache, [temperature], p.size(1))
    total = 0.0
    for _ in range(FILLINGS):
        uniform = torch.from_numpy(rng.random((len(p), 2)))
        kept = decode(encode(logits.clone(), dtype, [temperature], uniform), [temperature], config)
        apart = p.scatter_add(1, kept.ids, -kept.weights.double())
        total += apart.square().sum(1).mean().item()
    return total / FILLINGS


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    context = Context(pipeline.compose(["experiment=quickstart", "stages=[prepare]"]), log=print)
    pipeline.run(context.config)
    model = context.teacher(prepare.teacher_recipe(context, context.config.teacher), context.config.teacher)
    tokens = context.blocks(prepare.tokens_recipe(context), "train").evenly(BLOCKS)
    with torch.no_grad():
        hidden = hidden_states(model, tokens[:, :-1].to(context.device)).flatten(0, 1)[::STRIDE]
        logits = model.lm_head(hidden)[:, : model.config.vocab_size].float().cpu()
    rng, rows, figures = np.random.default_rng(0), [], {}
    for temperature in TEMPERATURES:
        p = (logits.double() / temperature).softmax(1)
        independent = (p * (1 - p)).sum(1).mean().item() / SLOTS
        part = (SLOTS * p).frac()
        systematic = (part * (1 - part)).sum(1).mean().item() / SLOTS**2
        ours = squared_distance(logits, p, temperature, rng)
        values = {"independent": independent, "systematic": systematic, "ours": ours}
        figures |= {f"{name} at temperature {temperature:g}": value for name, value in values.items()}
        rows.append([f"{temperature:g}", *(f"{value:.4f}" for value in values.values()), f"{ours / systematic:.2f}"])
    report(
        f"Squared distance to the teacher, {SLOTS} ids, {len(logits)} tokens, {FILLINGS} fillings, seed 0",
        ["temperature", "independent draws", "systematic draws", "threshold", "to systematic"],
        rows,
        figures,
        options.json,
    )


if __name__ == "__main__":
    main()
