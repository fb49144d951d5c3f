"""Sprig's method on one page: where to begin, and how to grow from there.

    python examples/one_page.py                    SmolLM2-135M, about five minutes on two cores
    python examples/one_page.py tiny-random        a random teacher, seconds; its numbers mean nothing

Steps 1 to 5 are those of "Where to Begin: Efficient Pretraining via Subnetwork Selection and Distillation" (arXiv
2510.07227); ordering and recovery are Sprig's.
"""

import sys
from pathlib import Path
from tempfile import mkdtemp

import pipeline

# The size of the student, of the search and of the training, by the teacher's name.
SIZES = {
    "smollm2-135m": {
        "bin": (63_900_000, 70_600_000),
        "hold": ["n_embd", "n_query_groups", "heads_per_group", "head_size"],
        "block": 256,
        "recover": 64,
        "tokens": 20_480,
    },
    "tiny-random": {"bin": (70_000, 90_000), "hold": [], "block": 32, "recover": 32, "tokens": 1_024},
}


def main(name: str = "smollm2-135m", to: Path | None = None, source: str = "sotu") -> dict[str, float]:
    size = SIZES[name]

    # 1. A pretrained teacher, and a text in three parts that share no document.
    teacher = pipeline.load_teacher(name)
    text = pipeline.load_text(source, teacher, block_size=size["block"])
    model, validation = teacher.model, text.validation.evenly(16)

    # 2. Which layers, embedding entries, heads and MLP neurons count as the first: the most active ones.
    ordering = pipeline.importance(model, text.calibration.evenly(16))

    # 3. The search space holds every sub-network in the bin; evolution looks for the one that loses least, untrained.
    low, high = size["bin"]
    space = pipeline.SearchSpace(model, low, high, ordering, layers="rank", hold=size["hold"])
    found = pipeline.find(
        model,
        space,
        text.calibration.evenly(4),
        population=12,
        parents=4,
        generations=3,
        crossover={"offspring": 4},
        mutation={"offspring": 4},
    )

    # 4. Cut it out. Then let its projections make up for what was cut, in closed form.
    student = pipeline.extract(model, found)
    perplexities = {"teacher": pipeline.perplexity(model, validation), "cut": pipeline.perplexity(student, validation)}
    pipeline.recover(model, student, found, text.calibration.evenly(size["recover"]))
    perplexities["recovered"] = pipeline.perplexity(student, validation)

    # 5. Pretrain it with knowledge distillation: the teacher's distribution is the target of every token.
    pipeline.distill(
        model, student, text.train, validation, tokens=size["tokens"], lr=3e-4, global_batch=2, micro_batch=2
    )
    perplexities["distilled"] = pipeline.perplexity(student, validation)

    # 6. A folder that transformers loads, published once it computes the same logits there.
    to = to or Path(mkdtemp()) / "student"
    pipeline.export(student, teacher, to, validation)
    for label, value in perplexities.items():
        print(f"{label:10} perplexity {value:10.2f}")
    print(f"The student is in {to}.")
    return perplexities


if __name__ == "__main__":
    main(*sys.argv[1:])
