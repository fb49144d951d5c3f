import json
import pickle

import pytest
import tokenizers
from tokenizers import AddedToken, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline.errors import SprigError
from pipeline.models import tokenizer
from pipeline.models.tokenizer import Tokenizer

TEXTS = [
    "",
    "Hello, world",
    "  two  spaces\n\n\ttabs ",
    "naïve Ωμέγα 漢字 🙂‍↔️",
    "3.14159 and 2026",
    "\x00\x7f\u00a0\u00ad",
]


@pytest.fixture
def byte_folder(tmp_path):
    tokenizer.write_bytes(tmp_path)
    return tmp_path


@pytest.fixture
def words():
    """Three words and two added tokens; pads and truncates, as files from the hub may."""
    built = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    built.add_special_tokens([AddedToken("<end>", special=True), AddedToken("<other>", special=True)])
    built.enable_truncation(3)
    built.enable_padding(pad_id=2, length=8)
    return built


def test_bytes_are_the_bytes_of_utf8(byte_folder):
    subject = Tokenizer(byte_folder)
    for text in TEXTS:
        assert subject.encode(text) == list(text.encode("utf-8"))
        assert subject.decode(subject.encode(text)) == text
    assert subject.encode_batch(TEXTS) == [list(text.encode("utf-8")) for text in TEXTS]
    assert (subject.vocab_size, subject.eos_id, subject.path) == (257, 256, byte_folder)
    assert subject.encode("a<|endoftext|>b") == [97, 256, 98]


def test_every_byte_has_its_own_number(byte_folder):
    # All two-byte and the ends of all three- and four-byte sequences reach every byte that UTF-8 can hold.
    text = "".join(chr(code) for code in [*range(0xD800), 0xFFFD, 0x10000, 0x40000, 0x80000, 0xC0000, 0x10FFFF])
    ids = Tokenizer(byte_folder).encode(text)
    assert ids == list(text.encode("utf-8"))
    assert len(set(ids)) == 128 + 64 + 30 + 16 - 1 + 5


def test_transformers_reads_the_bytes_tokenizer_alike(byte_folder):
    theirs = PreTrainedTokenizerFast.from_pretrained(byte_folder)
    ours = Tokenizer(byte_folder)
    assert [theirs.encode(text) for text in TEXTS] == ours.encode_batch(TEXTS)
    assert theirs.eos_token_id == ours.eos_id


def test_vocabulary_counts_added_tokens_and_nothing_is_padded_or_cut(tmp_path, words):
    tokenizer.write(words, "<end>", tmp_path)
    subject = Tokenizer(tmp_path)
    assert (subject.vocab_size, subject.eos_id) == (5, 3)
    assert subject.encode_batch(["a", "a b a b a"]) == [[0], [0, 1, 0, 1, 0]]


def test_a_pattern_that_gives_up_is_one_sentence(byte_folder, capfd):
    content = json.loads((byte_folder / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, content["pre_tokenizer"]]}
    (byte_folder / "tokenizer.json").write_text(json.dumps(content))
    slow = Tokenizer(byte_folder)
    for encode in (slow.encode, lambda text: slow.encode_batch([text])):
        with pytest.raises(SprigError, match="gives up on this text: correct the pattern, or break up its lines"):
            encode("x" * 30_000)


def test_a_panic_of_the_library_is_one_sentence(byte_folder):
    class PanicException(BaseException):
        """As pyo3's: no Exception, and of no module."""

    class Failing:
        def encode_batch_fast(self, *_, **__):
            raise PanicException("no threads\nbacktrace")

    tokenizer = Tokenizer(byte_folder)
    tokenizer._tokenizer = Failing()
    with pytest.raises(SprigError, match=r"failed \(no threads\): .*data.workers=1"):
        tokenizer.encode_batch(["a"])


UNKNOWN = {
    "WordLevel": models.WordLevel({"a": 0, "b": 1}, unk_token="[UNK]"),
    "WordPiece": models.WordPiece({"a": 0, "b": 1}, unk_token="[UNK]"),
    "BPE": models.BPE(vocab={"a": 0, "b": 1}, merges=[], unk_token="[UNK]"),
    "Unigram": models.Unigram([("a", -1.0), ("b", -1.0)]),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_text_that_is_not_in_the_vocabulary_is_one_sentence(kind, tmp_path):
    built = tokenizers.Tokenizer(UNKNOWN[kind])
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    built.add_special_tokens([AddedToken("<end>", special=True)])
    tokenizer.write(built, "<end>", tmp_path)
    subject = Tokenizer(tmp_path)
    assert subject.encode_batch(["a b", "b"]) == [[0, 1], [1]]
    told = r"has no token for 'éa' \(.+\): leave it out of the text, or set teacher\.tokenizer"
    for encode in (lambda: subject.encode("a éa b é"), lambda: subject.encode_batch(["b", "a éa b é"])):
        with pytest.raises(SprigError, match=told) as caught:
            encode()
        assert "\n" not in str(caught.value)


def test_travels_to_worker_processes(byte_folder):
    assert pickle.loads(pickle.dumps(Tokenizer(byte_folder))).encode("äb") == [195, 164, 98]


@pytest.mark.parametrize(
    "said",
    [
        {"tokenizer_config.json": {"eos_token": "<other>", "model_max_length": 9}},
        {"tokenizer_config.json": {"eos_token": {"content": "<other>"}}},
        {"generation_config.json": {"eos_token_id": [4, 3]}, "config.json": {"eos_token_id": 3}},
        {"tokenizer_config.json": {"eos_token": None}, "config.json": {"eos_token_id": 4}},
    ],
)
def test_copy_finds_the_token_that_ends_a_text(tmp_path, words, said):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir(), target.mkdir()
    words.save(str(source / "tokenizer.json"))
    for name, content in said.items():
        (source / name).write_text(json.dumps(content))
    tokenizer.copy(source, target)
    assert Tokenizer(target).eos_id == 4
    assert (target / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    kept = json.loads((target / "tokenizer_config.json").read_text())
    assert kept == {"eos_token": "<other>"}
    assert tokenizer.files(source) == [source / "tokenizer.json", *(source / name for name in said)]


def test_a_chat_template_travels_as_transformers_saves_it(tmp_path, words):
    source, target = tmp_path / "source", tmp_path / "target"
    target.mkdir()
    theirs = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<other>")
    theirs.chat_template = "{% for each in messages %}{{ each.content }}<other>{% endfor %}"
    theirs.save_pretrained(source)
    assert (source / "chat_template.jinja").is_file()
    tokenizer.copy(source, target)
    assert source / "chat_template.jinja" in tokenizer.files(source)
    ours = AutoTokenizer.from_pretrained(target)
    said = [{"role": "user", "content": "ab"}]
    assert ours.apply_chat_template(said, tokenize=False) == "ab<other>"


def test_copy_takes_a_file_of_any_name(tmp_path, words):
    source, target = tmp_path / "20B_tokenizer.json", tmp_path / "target"
    words.save(str(source))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    target.mkdir()
    tokenizer.copy(source, target)
    assert Tokenizer(target).eos_id == 3


def test_bad_files_are_one_sentence(tmp_path, words):
    with pytest.raises(SprigError, match=r"tokenizer\.json does not exist: set teacher\.tokenizer"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(SprigError, match="is not a tokenizer"):
        Tokenizer(tmp_path)
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(SprigError, match="names None as the token that ends a text"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    with pytest.raises(SprigError, match="names '</s>' as the token that ends a text, unknown to its tokenizer"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": ')
    with pytest.raises(SprigError, match=r"tokenizer_config\.json is not JSON"):
        Tokenizer(tmp_path)
