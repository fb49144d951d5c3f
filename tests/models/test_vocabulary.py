"""Cut vocabularies against the tokenizers library, transformers and the whole teacher."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from tiny import CONFIGS, TIED, randomize
from tiny import config as config_of
from tokenizers import AddedToken, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from pipeline.errors import SprigError
from pipeline.models import bpe, checkpoint, tokenizer
from pipeline.models.student import build
from pipeline.models.tokenizer import Tokenizer
from pipeline.models.vocabulary import Vocabulary, with_rows
from teachers.train_tokenizer import train

ROOT = Path(__file__).parents[2]
TEXT = " ".join(f"{(ROOT / 'README.md').read_text()}\n{(ROOT / 'docs/concepts.md').read_text()}".split())
SIZES = (265, 300, 450, 600)
FALL_BACK = [f"<0x{byte:02X}>" for byte in range(256)]


def sentencepiece() -> tokenizers.Tokenizer:
    """Of 600 tokens, as Gemma's: characters, with fall-back to bytes."""
    learned = tokenizers.Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    learned.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=342, show_progress=False))
    words = sorted(learned.get_vocab(), key=learned.get_vocab().__getitem__)
    tokens = ["<|endoftext|>", "<unk>", *FALL_BACK, *words]
    kinds = [bpe.Kind.CONTROL, bpe.Kind.UNKNOWN, *[bpe.Kind.BYTE] * 256, *[bpe.Kind.NORMAL] * len(words)]
    scores = [-float(number) for number in range(len(tokens))]
    built = bpe.sentencepiece(bpe.Pieces(tokens, scores, kinds, 1, prefix=False, always=True))
    bpe.add_special(built, tokens, kinds)
    return built


@pytest.fixture(scope="module", params=["bytes", "characters"])
def whole(request, tmp_path_factory) -> Path:
    """600 tokens and two that were added later, of which one begins texts; numbers of tokens in two files."""
    folder = tmp_path_factory.mktemp(request.param)
    built = train([TEXT], 600) if request.param == "bytes" else sentencepiece()
    built.add_tokens([AddedToken("  ", normalized=False), AddedToken("<s>", special=True)])
    begins = [("<s>", built.token_to_id("<s>"))]
    own = [processors.ByteLevel()] if request.param == "bytes" else []
    built.post_processor = processors.Sequence(
        [*own, processors.TemplateProcessing(single="<s> $A", special_tokens=begins)]
    )
    tokenizer.write(built, "<|endoftext|>", folder, chat_template="{{ messages }}", bos_token="<s>")
    numbers = {"bos_token_id": 601, "eos_token_id": [0, 601], "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(numbers))
    return folder


@pytest.fixture(scope="module")
def counts(whole) -> np.ndarray:
    return np.bincount(Tokenizer(whole).encode(TEXT), minlength=602)


@pytest.fixture(scope="module")
def cut(whole, counts, tmp_path_factory) -> dict[int, Path]:
    """Folders by size."""
    folders = {size: tmp_path_factory.mktemp(str(size)) for size in SIZES}
    for size, folder in folders.items():
        entries = Vocabulary(whole)
        entries.write(entries.most_used(counts, size), folder)
    return folders


def plain(folder: Path) -> dict:
    return json.loads((folder / "tokenizer.json").read_text())


def always(folder: Path) -> set[str]:
    """What no merge leads to and stays: bytes, and the ends of texts and words."""
    if plain(folder)["model"]["byte_fallback"]:
        return {*FALL_BACK, "<unk>", "<|endoftext|>", "▁"}
    return {*pre_tokenizers.ByteLevel.alphabet(), "<|endoftext|>"}


@pytest.mark.parametrize("size", SIZES)
def test_the_kept_merges_lead_to_every_kept_token(cut, whole, size):
    kept, before = plain(cut[size]), plain(whole)
    vocab = kept["model"]["vocab"]
    alone = models.BPE(vocab, [tuple(pair) for pair in kept["model"]["merges"]])
    added = {token["content"] for token in kept["added_tokens"]}
    assert added == {token["content"] for token in before["added_tokens"]}
    merged = {token for token in vocab.keys() - always(whole) if len(token) > 1}
    for token in merged:
        assert [each.value for each in alone.tokenize(token)] == [token]
    everything = vocab | {token["content"]: token["id"] for token in kept["added_tokens"]}
    assert sorted(everything.values()) == list(range(size))
    assert always(whole) <= vocab.keys() <= before["model"]["vocab"].keys()
    assert kept["model"]["merges"] == [pair for pair in before["model"]["merges"] if pair in kept["model"]["merges"]]
    assert {"".join(pair) for pair in kept["model"]["merges"]} == merged


def test_the_most_used_tokens_stay(cut, whole):
    """Merging the text by hand, one merge at a time over all of it, counts how often each token is made."""
    before = plain(whole)
    splits = Tokenizer(whole)._tokenizer.pre_tokenizer
    pieces = [piece for piece, _ in splits.pre_tokenize_str(TEXT)] if splits else TEXT.replace(" ", " ▁").split(" ")
    words = Counter(pieces)
    text, made = {word: list(word) for word in words}, Counter()
    for word, times in words.items():
        for each in set(word) - always(whole):
            made[each] += word.count(each) * times
    for left, right in before["model"]["merges"]:
        for word, parts in text.items():
            place = 0
            while place < len(parts) - 1:
                if parts[place : place + 2] == [left, right]:
                    parts[place : place + 2] = [left + right]
                    made[left + right] += words[word]
                place += 1
    made.pop("  ", None)  # added, too: it always stays
    assert len({*made.values()}) > 50
    for size in SIZES[:-1]:
        stay = plain(cut[size])["model"]["vocab"].keys() & made.keys()
        assert min(made[token] for token in stay) >= max(made[token] for token in made.keys() - stay)


@pytest.mark.parametrize("size", SIZES)
def test_any_text_is_encoded_and_decoded_as_transformers_does(cut, whole, size):
    ours, uncut, theirs = Tokenizer(cut[size]), Tokenizer(whole), AutoTokenizer.from_pretrained(cut[size])
    draw = random.Random(size)
    points = [*range(0x250), *range(0x3040, 0x30A0), *range(0x1F600, 0x1F640)]
    texts = ["".join(map(chr, draw.choices(points, k=40))) for _ in range(20)] + [TEXT[:3_000], "", "a  b<|endoftext|>"]
    for text in texts:
        ids = ours.encode(text, special=True)
        assert ours.decode(ids) == "<s>" + text
        assert theirs.encode(text) == ids
        assert len(ids) >= len(uncut.encode(text, special=True))
    assert [uncut.token_of(uncut.id_of(ours.token_of(each))) for each in range(size)] == [
        ours.token_of(each) for each in range(size)
    ]


def test_special_tokens_have_their_new_numbers(cut, whole):
    ours = Tokenizer(cut[300])
    assert (ours.vocab_size, ours.token_of(ours.eos_id), ours.token_of(ours.bos_id)) == (300, "<|endoftext|>", "<s>")
    assert ours.special_numbers() == {"bos_token_id": 299, "eos_token_id": [0, 299], "pad_token_id": 0}
    assert ours.special_tokens() == Tokenizer(whole).special_tokens()


@pytest.mark.proves("cut vocabulary", lambda family: family)
@pytest.mark.parametrize("family", CONFIGS)  # tied and untied, and a biased head
def test_logits_of_the_kept_tokens_are_the_whole_teachers(family):
    model = randomize(build(config_of(family), None, family in TIED))
    kept = [0, 3, 4, 17, 59, 60]
    part = with_rows(model, kept).eval()
    assert (part.config.vocab_size, part.config.padded_vocab_size) == (6, 6)
    assert (part.lm_head.weight is part.transformer.wte.weight) == (family in TIED)
    tokens = torch.tensor([[5, 0, 2, 1, 4, 3]])
    with torch.no_grad():
        ours, theirs = part(tokens), model(torch.tensor(kept)[tokens])
    torch.testing.assert_close(ours, theirs[..., kept], rtol=0, atol=1e-5)


def test_a_cut_teacher_is_saved_and_loaded(cut, tmp_path):
    model = randomize(build(config_of("llama"), None, tied=True))
    checkpoint.save(with_rows(model, list(range(40))), tmp_path, None, cut[SIZES[0]])
    loaded = checkpoint.load(tmp_path, "cpu")
    assert loaded.lm_head.weight.shape == (40, 96) and loaded.lm_head.weight is loaded.transformer.wte.weight


def test_too_few_and_too_many_tokens_are_refused(whole, counts):
    entries, least = Vocabulary(whole), len(always(whole)) + 2
    with pytest.raises(SprigError, match=rf"vocabulary={least - 1}, but {least} tokens always stay.* {least} or more"):
        entries.most_used(counts, least - 1)
    with pytest.raises(
        SprigError, match=r"space.vocabulary=603, but the merges .* can produce only 602 of its 602 tokens"
    ):
        entries.most_used(counts, 603)


def test_tokens_that_merges_do_not_lead_to_do_not_count(tmp_path):
    """Nothing becomes "abc", because "ab" is merged before "bc"."""
    tokenizer.write_bytes(tmp_path)
    made = plain(tmp_path)
    made["model"]["vocab"] |= {"ab": 256, "bc": 257, "abc": 258}
    made["added_tokens"][0]["id"] = 259
    made["model"]["merges"] = [["a", "b"], ["b", "c"], ["a", "bc"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(made))
    entries, counts = Vocabulary(tmp_path), np.zeros(260, int)
    assert entries.most_used(counts, 259) == [*range(258), 259]
    with pytest.raises(SprigError, match="can produce only 259 of its 260 tokens"):
        entries.most_used(counts, 260)


def test_reserved_tokens_go_first(tmp_path):
    built = sentencepiece()
    bpe.add_special(built, ["<unused7>", "<turn>"], [bpe.Kind.CONTROL, bpe.Kind.USER_DEFINED])
    tokenizer.write(built, "<|endoftext|>", tmp_path)
    entries = Vocabulary(tmp_path)
    (cut := tmp_path / "cut").mkdir()
    entries.write(entries.most_used(np.ones(602, int), 300), cut)
    assert [each["content"] for each in plain(cut)["added_tokens"]] == ["<|endoftext|>", "<turn>"]
    ours = Tokenizer(cut)
    assert ours.decode(ours.encode("a <unused7><turn>")) == "a <unused7><turn>"


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"), "WordLevel"),
        (models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>", byte_fallback=True), "BPE"),
        (models.Unigram([("a", 0.0)], 0), "Unigram"),
    ],
)
def test_other_kinds_of_tokenizers_are_refused(tmp_path, model, kind):
    tokenizers.Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(SprigError, match=rf"this teacher's tokenizer is neither \({kind}\)"):
        Vocabulary(tmp_path)
