"""Does transformers compute what the student computes? An export is published only if its logits match."""

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from litgpt import GPT
from torch import Tensor

from pipeline.config import GGUFKind
from pipeline.errors import SprigError
from pipeline.models.export import own, stock
from pipeline.models.gguf import GGUFFile
from pipeline.models.huggingface import HuggingFaceFolder
from pipeline.models.student import assemble
from pipeline.models.tokenizer import Tokenizer, read_json
from pipeline.models.weights import EMBEDDING, HEAD

# Of the largest logit, and at least absolute: sums in fp32 in another order already differ by 2e-6 of it.
TOLERANCE = 1e-4
# The lowest and the newest version of transformers that exports are tested in, next to the one they are checked with.
TRANSFORMERS = ("4.57.1", "5.24.0")


def require_transformers() -> None:
    """Raises SprigError where transformers is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise SprigError(
            "An export is checked with transformers, which is not installed: pip install 'sprig-lm[export]'."
        )


@torch.no_grad()
def check(student: GPT, folder: Path, tokenizer: Tokenizer, blocks: Tensor) -> float:
    """Loads the folder as its users will and compares it with the student (fp32, on the CPU) on blocks (n, T).

    Returns:
        The largest difference between two logits.

    Raises:
        SprigError: names the first block and token where the logits differ, or says that the tokenizers do; or the
            folder asks for code that is not Sprig's.
    """
    # Imported late: seconds, and only exports need it.
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # for a file of weights that is on the disk
    trusted = own.runs_our_code(folder)
    options = stock.loading(read_json(folder / "config.json"))
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trusted, dtype=torch.float32, **options)
    model.eval()
    vocabulary = student.config.vocab_size
    apart = _compare(lambda tokens: student(tokens)[..., :vocabulary], lambda tokens: model(tokens).logits, blocks)
    text = tokenizer.decode(blocks[0].tolist())
    # With the model's configuration, or transformers would read it again as that of an unknown model, and warn.
    loaded = AutoTokenizer.from_pretrained(folder, config=model.config, trust_remote_code=False)
    _compare_tokens(tokenizer, text, loaded.encode(text, add_special_tokens=False), "transformers reads")
    return apart


@torch.no_grad()
def check_gguf(file: Path, kind: GGUFKind, folder: Path, tokenizer: Tokenizer, blocks: Tensor) -> None:
    """Reads the GGUF file back and compares it with the checked folder, its matrices rounded to `kind`.

    Raises:
        SprigError: as `check`.
    """
    original = HuggingFaceFolder(folder)
    weights = original.weights(torch.float32)
    if kind == GGUFKind.f16:
        weights = {name: each.half().float() if each.dim() == 2 else each for name, each in weights.items()}
    back = GGUFFile(file)
    ours, theirs = _model(original, weights), _model(back, back.weights(torch.float32))
    _compare(ours, theirs, blocks)
    text = tokenizer.decode(blocks[0].tolist())
    with tempfile.TemporaryDirectory() as read:
        back.write_tokenizer(Path(read))
        _compare_tokens(tokenizer, text, Tokenizer(Path(read)).encode(text), "GGUF holds")


def _model(original: HuggingFaceFolder | GGUFFile, weights: dict[str, Tensor]) -> GPT:
    weights.setdefault(HEAD, weights[EMBEDDING])
    return assemble(original.config, None, original.tied, weights).eval()


def _compare(ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], blocks: Tensor) -> float:
    """The largest difference between two logits; raises SprigError if one is too large."""
    largest = 0.0
    for number, block in enumerate(blocks):
        expected, logits = ours(block[None])[0], theirs(block[None])[0]
        allowed = TOLERANCE * max(1.0, expected.abs().max().item())
        apart = (expected - logits).abs().amax(dim=1)
        # Written so that a NaN is a difference.
        if not bool((apart <= allowed).all()):
            token = int((~(apart <= allowed)).nonzero()[0])
            raise SprigError(
                f"The export is not published: its logits differ from the student's at block {number}, token {token}, "
                f"by {apart[token].item():.3g} where {allowed:.3g} is allowed: report this with the run's folder, or "
                "try another export.form."
            )
        largest = max(largest, apart.max().item())
    return largest


def _compare_tokens(tokenizer: Tokenizer, text: str, theirs: list[int], who: str) -> None:
    ours = tokenizer.encode(text)
    if ours != theirs:
        raise SprigError(
            f"The export is not published: {who} the tokenizer of {tokenizer.path} differently ({len(theirs)} "
            f"tokens where the student has {len(ours)}): give teacher.tokenizer another tokenizer.json."
        )
