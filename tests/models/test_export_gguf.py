"""GGUF files of exported students, read back by Sprig's own reader, by transformers', and by the gguf package."""

import json
from pathlib import Path

import exports
import gguf
import pytest
import tokenizers
import torch
from litgpt import GPT
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM

from pipeline.config import TeacherConfig
from pipeline.errors import SprigError
from pipeline.models import checkpoint, sources
from pipeline.models.export import folder
from pipeline.models.families import is_tied
from pipeline.models.tokenizer import Tokenizer, write

TEXTS = [
    "",
    "The purpose of education is to replace an empty mind with an open one.",
    "  two  spaces\n\n\ttabs and   a trailing one ",
    "In 1984, 3.14159 of 2,718 were 50% off: $12.30!",
    "naïve Ωμέγα 漢字かな 🙂‍↔️ it's they'll WE'VE",
    "<|im_start|>user\nHi<|im_end|> <think>\n<|endoftext|>",
]
SHAPES = {
    "uniform": exports.uniform("llama", False),
    "cut head": exports.uniform("llama", True),
    "padded": exports.layerwise("llama", False),
    "padded, cut heads": exports.layerwise("llama", True),
}


@pytest.fixture
def tokenizer(tmp_path) -> Path:
    return exports.tokenizer(tmp_path)


def read(file: Path, to: Path) -> GPT:
    sources.convert(TeacherConfig(name="back", source="gguf", path=str(file)), to)
    return checkpoint.load(to, "cpu").eval()


@pytest.mark.parametrize(("tied", "kind"), [(False, "f16"), (True, "f32")])
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_both_readers_compute_the_student(shape, tied, kind, tokenizer, tmp_path):
    student = exports.student("llama", SHAPES[shape], tied)
    _, to = exports.export(student, tokenizer, "auto", kind)
    file = to / f"auto-{kind}.gguf"
    expected = student(exports.tokens())[..., :257]
    # Half a unit in the last of f16's 11 bits, relative, in every weight: about 1e-3 of logits of size 4.
    allowed = 1e-4 if kind == "f32" else 5e-3 * expected.abs().max().item()
    ours = read(file, tmp_path / "back")
    torch.testing.assert_close(ours(exports.tokens()), expected, atol=allowed, rtol=0)
    assert is_tied(ours) == tied and ours.config.vocab_size == 257
    kinds = {len(tensor.shape): tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    assert kinds == {1: "F32", 2: kind.upper()}
    if "cut" not in shape:  # transformers does not read rotary scaling, which names the place of cut heads' pairs
        theirs = AutoModelForCausalLM.from_pretrained(to, gguf_file=file.name, dtype=torch.float32).eval()
        torch.testing.assert_close(theirs(exports.tokens()).logits, expected, atol=allowed, rtol=0)


def smollm(place: Path) -> Path:
    """SmolLM2's kind of tokenizer, with holes among its ids and an added token that is not special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", *alphabet, "th", "the", "Ġthe", "12", "Ġt", "Ġe"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    vocabulary["Ġth"] = len(tokens) + 7
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("1", "2"), ("Ġ", "t"), ("Ġt", "h"), ("Ġ", "e")]
    built = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    built.add_tokens([AddedToken("<think>", normalized=False)])
    place.mkdir()
    write(built, "<|endoftext|>", place)
    return place


def test_the_tokenizer_comes_back_from_the_file(tmp_path):
    words = smollm(tmp_path / "tokenizer")
    size = Tokenizer(words).vocab_size
    student = exports.student("llama", SHAPES["uniform"], True, vocab_size=size)
    _, to = exports.export(student, words, "auto", "f16")
    read(to / "auto-f16.gguf", tmp_path / "back")
    ours, back = Tokenizer(words), Tokenizer(tmp_path / "back")
    assert [back.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]
    assert (back.vocab_size, back.eos_id) == (ours.vocab_size, ours.eos_id) and back.decode([5, 262]) == ours.decode(
        [5, 262]
    )
    fields = gguf.GGUFReader(to / "auto-f16.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    kinds = fields["tokenizer.ggml.token_type"].contents()
    assert [kinds[back.encode(token)[0]] for token in ("<|im_end|>", "<think>", "the")] == [3, 4, 1] and 5 in kinds


def test_a_file_that_computes_something_else_is_not_published(tokenizer, monkeypatch):
    monkeypatch.setattr(folder.gguf, "_pairs_side_by_side", lambda rows, heads: rows)
    student = exports.student("llama", SHAPES["uniform"], True)
    with pytest.raises(SprigError, match=r"not published: its logits part from the student's at block 0, token 1"):
        exports.export(student, tokenizer, "auto", "f32")
    assert list((tokenizer.parent / "exports").iterdir()) == []


@pytest.mark.parametrize(
    ("family", "form", "message"),
    [
        ("qwen2", "auto", r"for the Llama family, and qwen2 is of family qwen2: leave export\.gguf=none"),
        ("gpt_neox", "padded", r"for the Llama family, and neox is of family gpt_neox"),
        ("llama3", "auto", r"rotary scaling, which GGUF files have no key for: leave export\.gguf=none"),
    ],
)
def test_families_that_no_file_can_name(family, form, message, tokenizer):
    student = exports.student(family, exports.uniform(family, False), tied=False)
    with pytest.raises(SprigError, match=message):
        exports.export(student, tokenizer, form, "f16")


def test_a_student_that_only_its_own_file_holds(tokenizer):
    student = exports.student("llama", exports.layerwise("llama", True, head_pairs="plain"), tied=False)
    with pytest.raises(SprigError, match=r"rotary frequencies from layer to layer"):
        exports.export(student, tokenizer, "auto", "f16")


def test_a_tokenizer_without_a_name(tokenizer):
    plain = json.loads((tokenizer / "tokenizer.json").read_text())
    plain["pre_tokenizer"] = {"type": "Whitespace"}
    (tokenizer / "tokenizer.json").write_text(json.dumps(plain))
    student = exports.student("llama", SHAPES["uniform"], True)
    with pytest.raises(SprigError, match=r"no name for the tokenizer of .*tokenizer; .*smollm, gpt-2: leave"):
        exports.export(student, tokenizer, "auto", "f16")
