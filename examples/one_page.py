"""Sprig's method on one page: cut a student out of a teacher, recover it, and distil it.

    python examples/one_page.py                    SmolLM2-135M, about five minutes on two cores
    python examples/one_page.py tiny-random        a random teacher, seconds; its numbers mean nothing

The method is that of "Where to Begin: Efficient Pretraining via Subnetwork Selection and Distillation" (arXiv
2510.07227). The ordering (step 2) and the recovery (in step 4) are Sprig's additions.
"""

import sys
from pathlib import Path
from tempfile import mkdtemp

import pipeline

# By the teacher's name: the student's bin in parameters, the dimensions that are not cut, the tokens of a block, the
# blocks that recovery reads, and the training tokens.
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

    # 1. Load a pretrained teacher, and a text whose training, validation and calibration parts share no document.
    teacher = pipeline.load_teacher(name)
    text = pipeline.load_text(source, teacher, block_size=size["block"])
    model, validation = teacher.model, text.validation.evenly(16)

    # 2. Rank the layers by how much they change the hidden state, and embedding entries, heads and MLP neurons by how
    # active they are. A coarse space keeps the first entries of this ordering.
    ordering = pipeline.importance(model, text.calibration.evenly(16))

    # 3. Search the sub-networks in the bin by evolution for the one with the lowest loss before any training.
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

    # 4. Cut it out. Then refit its projections in closed form to make up for what was cut.
    student = pipeline.extract(model, found)
    perplexities = {"teacher": pipeline.perplexity(model, validation), "cut": pipeline.perplexity(student, validation)}
    pipeline.recover(model, student, found, text.train.evenly(size["recover"]))
    perplexities["recovered"] = pipeline.perplexity(student, validation)

    # 5. Pretrain it with knowledge distillation: at every token, the target is the teacher's distribution.
    pipeline.distill(
        model, student, text.train, validation, tokens=size["tokens"], lr=3e-4, global_batch=2, micro_batch=2
    )
    perplexities["distilled"] = pipeline.perplexity(student, validation)

    # 6. Export it as a folder that transformers loads. The folder appears only if transformers computes the same
    # logits.
    to = to or Path(mkdtemp()) / "student"
    pipeline.export(student, teacher, to, validation)
    for label, value in perplexities.items():
        print(f"{label:10} perplexity {value:10.2f}")
    print(f"The student is in {to}.")
    return perplexities


if __name__ == "__main__":
    main(*sys.argv[1:])
