"""Bits per byte of a run with space.vocabulary and of the same run without it, each model on the same text.

`python -m benchmarks.vocabulary CUT WHOLE`, the folders of two finished runs that differ in space.vocabulary alone.
"""

from pathlib import Path

import torch

from benchmarks.harness import arguments, report
from pipeline.data.blocks import Blocks
from pipeline.evaluation import same_text
from pipeline.models import checkpoint
from pipeline.models.perplexity import bits_per_byte, mean_nll
from pipeline.models.tokenizer import Tokenizer

BLOCKS = 16  # as many as the quickstart validates on
MODELS = {
    "teacher": "teacher",
    "untrained": "extracted_student",
    "recovered": "recovered_student",
    "student": "distilled_student",
}


def main() -> None:
    options = arguments(__doc__.splitlines()[0], "cut", "whole")
    cut, whole = options.cut / "artifacts", options.whole / "artifacts"
    ours, theirs = Tokenizer(cut / "teacher"), Tokenizer(whole / "teacher")
    blocks = Blocks(cut / "tokens", "validation").evenly(BLOCKS)
    rows, size = same_text.retokenised(blocks, ours, theirs, False), ours.text_bytes(blocks[:, 1:].tolist())
    table, figures = (
        [],
        {"bytes": size, "tokens_cut": blocks[:, 1:].numel(), "tokens_whole": sum(map(len, rows)) - BLOCKS},
    )
    for name, role in MODELS.items():
        if not (cut / role / checkpoint.WEIGHTS).exists():
            continue  # of a run that is still going
        of_cut = mean_nll(model := _model(cut / role), blocks, 1, "fp32")
        parameters = [_count(model)]
        total, tokens = same_text.nll(model := _model(whole / role), rows, "fp32")
        parameters.append(_count(model))
        bits = [bits_per_byte(of_cut, blocks[:, 1:].numel(), size), bits_per_byte(total / tokens, tokens, size)]
        table.append([name, *(f"{count:,} {each:.4f}" for count, each in zip(parameters, bits, strict=True))])
        figures |= {f"{name}_cut": bits[0], f"{name}_whole": bits[1]}
        print(*table[-1], flush=True)
    title = f"Parameters and bits per byte on {size:,} bytes: {ours.vocab_size:,} and {theirs.vocab_size:,} tokens"
    report(title, ["model", "cut", "whole"], table, figures, options.json)


def _model(folder: Path) -> torch.nn.Module:
    return checkpoint.load(folder, "cpu").eval()


def _count(model: torch.nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


if __name__ == "__main__":
    main()
