"""Does transformers compute what the student computes? Nothing leaves the house before it does."""

import importlib.util
from pathlib import Path

import torch
from litgpt import GPT
from torch import Tensor

from pipeline.errors import SprigError
from pipeline.models.tokenizer import Tokenizer

# Of the largest logit, and at least absolute: sums in fp32 in another order already differ by 2e-6 of it.
TOLERANCE = 1e-4


def require_transformers() -> None:
    """Raises SprigError where transformers is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise SprigError("An export is checked with transformers, which is not here: pip install 'sprig-lm[export]'.")


@torch.no_grad()
def check(student: GPT, folder: Path, tokenizer: Tokenizer, blocks: Tensor) -> None:
    """Loads the folder as its users will and compares it with the student (fp32, on the CPU) on blocks (n, T).

    Raises:
        SprigError: names the first block and token where the logits part, or says that the tokenizers do.
    """
    # Imported late: seconds, and only exports need it.
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    for number, block in enumerate(blocks):
        ours = student(block[None])[0, :, : student.config.vocab_size]
        theirs = model(block[None]).logits[0]
        allowed = TOLERANCE * max(1.0, ours.abs().max().item())
        apart = (ours - theirs).abs().amax(dim=1)
        # Written so that a NaN is a difference.
        if not bool((apart <= allowed).all()):
            token = int((~(apart <= allowed)).nonzero()[0])
            raise SprigError(
                f"The export is not published: its logits part from the student's at block {number}, token {token}, "
                f"by {apart[token].item():.3g} where {allowed:.3g} is allowed: report this with the run's folder, or "
                "try another export.form."
            )
    text = tokenizer.decode(blocks[0].tolist())
    # Trusted too, or transformers would ask at the terminal: it looks into the model's configuration first.
    loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    ours, theirs = tokenizer.encode(text), loaded.encode(text, add_special_tokens=False)
    if ours != theirs:
        raise SprigError(
            f"The export is not published: transformers reads the tokenizer of {tokenizer.path} in another way "
            f"({len(theirs)} tokens where the student has {len(ours)}): give teacher.tokenizer another tokenizer.json."
        )
