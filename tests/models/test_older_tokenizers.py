"""Tokenizers in older files, and in GGUF metadata, against what SentencePiece and transformers make of them."""

import json
import shutil

import gguf
import older
import pytest
import test_gguf
import tokenizers
from test_gguf_metadata import llama, says
from test_huggingface import teacher
from texts import TEXTS
from tokenizers.pre_tokenizers import ByteLevel
from transformers import GPT2Tokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Tokenizer

from pipeline.config import Source, TeacherConfig
from pipeline.errors import SprigError
from pipeline.models import bpe, sources, tokenizer
from pipeline.models.tokenizer import Tokenizer

# By SentencePiece 0.2.1 itself, of the model that older.sentencepiece writes.
SENTENCEPIECE = {
    "the  thin and 12.": [261, 275, 265, 262, 273, 275, 288, 289, 286],
    "  the": [268, 261],
    " ": [268],
    "naïve 漢 the": [275, 280, 281, 198, 178, 121, 278, 275, 233, 191, 165, 261],
    "and\nthe\tin": [273, 13, 267, 12, 262],
    "ingand▁the": [275, 269, 272, 261],
    "aaathethe  ": [263, 281, 281, 267, 267, 268],
}


def copied(source, folder) -> Tokenizer:
    folder.mkdir()
    tokenizer.copy(source, folder)
    return Tokenizer(folder)


def write_json(file, content) -> None:
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("legacy", [True, False])
def test_tokenizer_model_alone(legacy, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    older.sentencepiece(source / "tokenizer.model")
    write_json(source / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", "legacy": legacy})
    write_json(source / "special_tokens_map.json", {"eos_token": {"content": "</s>"}})
    ours = copied(source, tmp_path / "ours")
    # transformers takes a leading space for the prefix, where SentencePiece adds one, if legacy is false.
    for text, numbers in SENTENCEPIECE.items():
        assert ours.encode(text) == numbers or (not legacy and text.startswith(" "))
    assert (ours.eos_id, ours.vocab_size) == (2, len(older.pieces()))
    assert ours.encode("the", special=True) == [1, 261]
    assert ours.encode("the</s>the") == ([261, 2, 261] if legacy else [261, 2, 267])
    for text in SENTENCEPIECE if legacy else []:
        assert ours.decode(ours.encode(text)) == text.replace("▁", " ")


def test_a_sentencepiece_gguf(tmp_path):
    texts, scores, kinds = (list(column) for column in zip(*older.pieces(), strict=True))
    keys = {
        "tokenizer__ggml__model": "llama",
        "tokenizer__ggml__tokens": texts,
        "tokenizer__ggml__scores": scores,
        "tokenizer__ggml__token_type": kinds,
        "tokenizer__ggml__eos_token_id": 2,
        "tokenizer__ggml__bos_token_id": 1,
        "tokenizer__ggml__merges": None,
        "llama__vocab_size": 300,
    }
    model = llama(vocab_size=300)
    test_gguf.write(model, tmp_path / "tiny.gguf", extra=[says(**keys)])
    (tmp_path / "ours").mkdir()
    config = TeacherConfig(name="tiny", source=Source.gguf, path=str(tmp_path / "tiny.gguf"))
    sources.convert(config, tmp_path / "ours")
    ours = Tokenizer(tmp_path / "ours")
    assert {text: ours.encode(text) for text in SENTENCEPIECE} == SENTENCEPIECE
    assert ours.encode("the</s>the", special=True) == [1, 261, 2, 261]
    assert (ours.eos_id, ours.bos_id) == (2, 1)


@pytest.mark.parametrize(("name", "kind"), [("Qwen2Tokenizer", Qwen2Tokenizer), ("GPT2Tokenizer", GPT2Tokenizer)])
def test_vocabulary_and_merges_equal_transformers(name, kind, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    older.vocabulary_and_merges(source)
    said = {"tokenizer_class": name, "eos_token": "<|endoftext|>", "additional_special_tokens": ["<|im_start|>"]}
    decoder = {"263": {"content": "<|im_start|>", "special": True}, "264": {"content": "<think>", "special": False}}
    write_json(source / "tokenizer_config.json", said | {"added_tokens_decoder": decoder})
    theirs = kind.from_pretrained(source)
    ours = copied(source, tmp_path / "ours")
    texts = [*TEXTS, "1234 12345", "e\u0301 the"]
    assert [ours.encode(text) for text in texts] == [theirs.encode(text, add_special_tokens=False) for text in texts]
    assert (ours.eos_id, ours.vocab_size) == (262, 265)
    assert ours.encode("<think>the<|im_start|>") == [264, 257, 263]
    assert ours.special_tokens()["additional_special_tokens"] == ["<|im_start|>"]


def test_the_class_follows_the_model_where_the_tokenizer_names_none(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    older.vocabulary_and_merges(source)
    write_json(source / "special_tokens_map.json", {"eos_token": "<|endoftext|>"})
    for family, numbers in (("qwen3", [256, 10]), ("gpt_neox", [258])):
        write_json(source / "config.json", {"model_type": family})
        assert len(copied(source, tmp_path / family).encode("1234")) == (4 if family == "qwen3" else 1), numbers
    assert {file.name for file in tokenizer.files(source)} == {
        "vocab.json",
        "merges.txt",
        "special_tokens_map.json",
        "config.json",
    }


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": {"model_type": "llama"}}, "vocab.json of tokenizer_class 'llama', which Sprig cannot read"),
        ({"tokenizer_config.json": {"tokenizer_class": ["x"]}}, r"tokenizer_class \['x'\], which Sprig cannot read"),
        ({"vocab.json": {"a": "b"}}, "vocab.json does not map tokens to numbers"),
        ({"vocab.json": {"a": -1}}, "vocab.json does not map tokens to numbers"),
        ({"vocab.json": {"a": 0}}, "merges.txt merges 't h', which its tokens do not have"),
        (
            {"added_tokens.json": {"<x>": 999}},
            "gives its added token '<x>' number 999, where the vocabulary ends at 26",
        ),
        ({"added_tokens.json": {"<x>": "999"}}, "added_tokens.json does not map tokens to numbers"),
        ({"tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}}, "add_prefix_space"),
        (
            {"tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": [1]}},
            "no tokens by number in added_tokens_decoder",
        ),
    ],
)
def test_older_files_that_are_unclear_are_refused(files, message, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    older.vocabulary_and_merges(source)
    write_json(source / "tokenizer_config.json", {"eos_token": "<|endoftext|>"})
    if "config.json" not in files:
        write_json(source / "config.json", {"model_type": "gpt_neox"})
    for name, content in files.items():
        write_json(source / name, content)
    with pytest.raises(SprigError, match=message):
        copied(source, tmp_path / "ours")


@pytest.mark.parametrize(
    "change",
    [{"model_type": 1}, {"remove_extra_whitespaces": True}, {"precompiled_charsmap": b"\x01\x02"}],
    ids=str,
)
def test_other_sentencepiece_models_are_refused(change, tmp_path):
    older.sentencepiece(tmp_path / "tokenizer.model", **change)
    with pytest.raises(SprigError, match="is not a plain BPE model of SentencePiece"):
        copied(tmp_path, tmp_path / "ours")


def test_broken_sentencepiece_models_are_refused(tmp_path):
    older.sentencepiece(tmp_path / "tokenizer.model")
    content = (tmp_path / "tokenizer.model").read_bytes()
    for number, broken in enumerate([content[:-3], content[:100], b"\xff" * 40, b"", b"\x0a\x02\x08\x01"]):
        (tmp_path / "tokenizer.model").write_bytes(broken)
        with pytest.raises(SprigError, match="SentencePiece"):
            copied(tmp_path, tmp_path / f"ours {number}")


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("llama-bpe", ["It", "'LL", " cost", " ", "123", "45", " euros", "\n\n", " ", " ok", "!!\n"]),
        ("qwen2", ["It", "'LL", " cost", " ", "1", "2", "3", "4", "5", " euros", "\n\n", " ", " ok", "!!\n"]),
        ("default", ["It", "'", "LL", " cost", " ", "123", "45", " euros", "\n\n ", " ok", "!!", "\n"]),
        ("gpt-2", ["It", "'", "LL", " cost", " 12345", " euros", "\n\n ", " ok", "!!", "\n"]),
        ("smollm", ["It", "'", "LL", " cost", " ", "1", "2", "3", "4", "5", " euros", "\n\n ", " ok", "!!", "\n"]),
    ],
)
def test_texts_are_split_as_llama_cpp_splits_them(pre, pieces):
    """The pieces follow from the expressions in its llama-vocab.cpp."""
    letters = {character: byte for byte, character in enumerate(_alphabet())}
    text = "It'LL cost 12345 euros\n\n  ok!!\n"
    found = [piece for piece, _ in bpe.SPLITS[pre].pre_tokenize_str(text)]
    assert [bytes(letters[each] for each in piece).decode() for piece in found] == pieces


def _alphabet() -> list[str]:
    """The character of each byte in byte-level BPE."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    alphabet = [chr(byte) if byte in printed else chr(next(others)) for byte in range(256)]
    assert set(alphabet) == set(ByteLevel.alphabet())
    return alphabet


@pytest.mark.parametrize(
    ("pre", "expected"), [("llama-bpe", [261]), ("default", [84, 72, 69]), ("qwen2", [84, 72, 69])]
)
def test_whole_words_need_no_merges_where_llama_cpp_needs_none(pre, expected, tmp_path):
    """A token that no merge makes, and the token that begins a text."""
    alphabet = _alphabet()
    keys = {
        "tokenizer__ggml__pre": pre,
        "tokenizer__ggml__tokens": [*alphabet, "ab", "cd", "ef", "gh", "<|end|>", "THE"],
        "tokenizer__ggml__token_type": [1] * 260 + [3, 1],
        "tokenizer__ggml__merges": ["a b"],
        "tokenizer__ggml__eos_token_id": 260,
        "tokenizer__ggml__bos_token_id": 260,
    }
    test_gguf.write(llama(), tmp_path / "tiny.gguf", extra=[says(**keys)])
    config = TeacherConfig(name="tiny", source=Source.gguf, path=str(tmp_path / "tiny.gguf"))
    sources.convert(config, tmp_path / "ours")
    ours = Tokenizer(tmp_path / "ours")
    assert ours.encode("THE") == expected
    assert ours.encode("ab", special=True) == ([260, 256] if pre == "llama-bpe" else [256])
    assert ours.encode("ab<|end|>cd") == [256, 260, *(([257]) if pre == "llama-bpe" else [99, 100])]
    assert all(ours.decode(ours.encode(text)) == text for text in TEXTS)


@pytest.fixture
def padded(tmp_path):
    """A model of 257 rows, whose tokenizer got a token for padding afterwards."""
    folder = tmp_path / "theirs"
    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=257, max_position_embeddings=64)).save_pretrained(folder)
    tokenizer.write_bytes(folder)
    built = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    built.add_special_tokens(["[PAD]"])
    built.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"eos_token": "<|endoftext|>", "pad_token": "[PAD]"})
    write_json(folder / "generation_config.json", {"eos_token_id": 256, "pad_token_id": 257})
    return folder


def test_an_added_token_beyond_the_embedding_is_left_out(padded, tmp_path):
    config = teacher(padded, tokenizer=None)
    assert sources.describe(config).vocab_size == 257
    sources.convert(config, tmp_path / "ours")
    ours = Tokenizer(tmp_path / "ours")
    assert (ours.vocab_size, ours.eos_id) == (257, 256)
    assert ours.encode("a[PAD]") == list(b"a[PAD]")
    assert "[PAD]" not in (tmp_path / "ours" / "tokenizer_config.json").read_text()
    plain = tmp_path / "plain"
    plain.mkdir()
    tokenizer.write_bytes(plain)
    assert ours.encode_batch(TEXTS) == Tokenizer(plain).encode_batch(TEXTS)
    assert "257" not in (tmp_path / "ours" / "generation_config.json").read_text()


def test_a_needed_token_beyond_the_embedding_is_refused(padded, tmp_path):
    for file in ("tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(padded / file, tmp_path / file)
    write_json(padded / "tokenizer_config.json", {"eos_token": "[PAD]"})
    with pytest.raises(SprigError, match="tokenizer has 258 entries but teacher tiny's embedding 257 rows"):
        sources.describe(teacher(padded, tokenizer=None))
    shutil.copyfile(tmp_path / "tokenizer_config.json", padded / "tokenizer_config.json")
    built = tokenizers.Tokenizer.from_file(str(padded / "tokenizer.json"))
    bpe.begin_with(built, "[PAD]")
    built.save(str(padded / "tokenizer.json"))
    with pytest.raises(SprigError, match="tokenizer has 258 entries"):
        sources.describe(teacher(padded, tokenizer=None))


@pytest.mark.parametrize("value", [["a"], 3, {"content": ["a"]}, {"content": 3}, True], ids=str)
@pytest.mark.parametrize("name", ["eos_token", "bos_token", "pad_token", "additional_special_tokens"])
def test_special_tokens_that_are_no_texts_are_one_sentence(name, value, padded, tmp_path):
    write_json(padded / "tokenizer_config.json", {"eos_token": "<|endoftext|>", name: value})
    try:
        sources.describe(teacher(padded, tokenizer=None))
    except SprigError as error:
        assert name in str(error) or "ends a text" in str(error)
    else:
        assert name == "additional_special_tokens"


def test_kinds_are_those_of_the_gguf_package():
    assert {kind.name: kind.value for kind in bpe.Kind} == {kind.name: kind.value for kind in gguf.TokenType}
