"""GGUF files of exported students, read back by Sprig's own reader, by transformers', and by the gguf package."""

import json
from pathlib import Path

import exports
import gguf
import pytest
import tokenizers
import torch
from litgpt import GPT
from texts import TEXTS
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM

from pipeline.config import TeacherConfig
from pipeline.errors import SprigError
from pipeline.models import checkpoint, sources
from pipeline.models.export import folder
from pipeline.models.export import gguf as export_gguf
from pipeline.models.families import is_tied
from pipeline.models.tokenizer import Tokenizer, write

SHAPES = {
    "uniform": exports.uniform("llama", False),
    "cut head": exports.uniform("llama", True),
    "padded": exports.layerwise("llama", False),
    "padded, cut heads": exports.layerwise("llama", True),
}


@pytest.fixture
def tokenizer(tmp_path) -> Path:
    """Bytes, as for the other exports, but with one merge instead of a byte that no text has."""
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - {"ÿ"})
    vocabulary = {token: number for number, token in enumerate([*alphabet, "th", "<|endoftext|>"])}
    built = tokenizers.Tokenizer(models.BPE(vocabulary, [("t", "h")]))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    place = tmp_path / "tokenizer"
    place.mkdir()
    write(built, "<|endoftext|>", place)
    return place


def read(file: Path, to: Path) -> GPT:
    sources.convert(TeacherConfig(name="back", source="gguf", path=str(file)), to)
    return checkpoint.load(to, "cpu").eval()


@pytest.mark.proves("export GGUF", "llama")
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
    theirs = AutoModelForCausalLM.from_pretrained(to, gguf_file=file.name, dtype=torch.float32).eval()
    apart = (theirs(exports.tokens()).logits - expected).abs().max()
    # It does not read rotary scaling, which names the place of cut heads' pairs, and that is said.
    assert (
        (apart > allowed) == ("cut" in shape) == bool(export_gguf.caveat(json.loads((to / "config.json").read_text())))
    )


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_llama_cpp_computes_the_student(shape, tokenizer):
    """Where a package that brings it is installed (cyllama 0.2.18 has b9190); it is no dependency."""
    cpp = pytest.importorskip("cyllama.llama.llama_cpp")
    student = exports.student("llama", SHAPES[shape], tied=True)
    _, to = exports.export(student, tokenizer, "auto", "f32")
    model = type("Model", (cpp.LlamaModel,), {"n_vocab": 257})(str(to / "auto-f32.gguf"), verbose=False)
    settings = cpp.LlamaContextParams()
    settings.n_ctx, settings.n_threads, settings.flash_attn_type = 64, 1, 0
    settings.type_k = settings.type_v = 0  # a cache in fp32
    context = cpp.LlamaContext(model, settings, verbose=False)
    (tokens,) = exports.tokens(1).tolist()
    for place, expected in enumerate(student(torch.tensor([tokens]))[0, :, :257]):
        context.decode(cpp.llama_batch_get_one([tokens[place]], place))
        torch.testing.assert_close(torch.tensor(context.get_logits()), expected, atol=1e-4, rtol=0)


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
    with pytest.raises(SprigError, match=r"not published: its logits differ from the student's at block 0, token 1"):
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
    with pytest.raises(SprigError, match=r"rotary frequencies from layer to layer: leave export\.gguf=none"):
        exports.export(student, tokenizer, "auto", "f16")


def test_a_tokenizer_without_merges(tmp_path):
    student = exports.student("llama", SHAPES["uniform"], True)
    with pytest.raises(
        SprigError, match=r"no tokenizer without merges, .* 256 entries and no merge: leave export\.gguf"
    ):
        exports.export(student, exports.tokenizer(tmp_path), "auto", "f16")


def test_a_tokenizer_without_a_name(tokenizer):
    plain = json.loads((tokenizer / "tokenizer.json").read_text())
    plain["pre_tokenizer"] = {"type": "Whitespace"}
    (tokenizer / "tokenizer.json").write_text(json.dumps(plain))
    student = exports.student("llama", SHAPES["uniform"], True)
    with pytest.raises(SprigError, match=r"no name for the tokenizer of .*tokenizer; .*smollm, gpt-2: leave"):
        exports.export(student, tokenizer, "auto", "f16")
