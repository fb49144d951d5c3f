"""Text files with random mistakes: one sentence, or blocks of the text that can be read."""

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from pipeline.config import DataConfig, DataSource
from pipeline.data.blocks import Blocks
from pipeline.data.prepare import prepare
from pipeline.errors import SprigError

FEW, MANY = range(4), range(4, 120)
TEXTS = [f"Document {number} has some words, and a few more of them." for number in range(40)]


def jsonl(folder: Path) -> Path:
    file = folder / "texts.jsonl"
    file.write_text("".join(f"{json.dumps({'text': text, 'id': number})}\n" for number, text in enumerate(TEXTS)))
    return file


def parquet(folder: Path) -> Path:
    file = folder / "texts.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "id": list(range(len(TEXTS)))}), file)
    return file


def csv(folder: Path) -> Path:
    file = folder / "texts.csv"
    file.write_text("id,text\n" + "".join(f'{number},"{text}"\n' for number, text in enumerate(TEXTS)))
    return file


def compressed(folder: Path) -> Path:
    file = folder / "texts.txt.gz"
    file.write_bytes(gzip.compress("\n\n".join(TEXTS).encode()))
    return file


KINDS = {"jsonl": jsonl, "parquet": parquet, "csv": csv, "text": compressed}


def mutated(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 3, 20))):
        at, kind = rng.randrange(len(changed)), rng.random()
        if kind < 0.6:
            changed[at] = rng.randrange(256)
        elif kind < 0.75:
            del changed[at : at + rng.choice((1, 40))]
        elif kind < 0.9:
            changed[at:at] = rng.choice(
                [b"\n", b"{", b'"', b"\x00", b"\xff\xfe", b"null\n", b"[]\n", rng.randbytes(20)]
            )
        elif len(changed) > 1:
            del changed[rng.randrange(1, len(changed)) :]
        if not changed:
            break
    return bytes(changed)


def holds(kind: str, seed: int, tokenizer, folder: Path) -> None:
    folder.mkdir()
    file, rng = KINDS[kind](folder), random.Random(f"{kind} {seed}")
    file.write_bytes(mutated(file.read_bytes(), rng))
    data = DataConfig(
        name="mine", path=str(file), source=DataSource(kind), block_size=16, workers=1, validation=0.2, calibration=0.2,
        sample_by="paragraph" if kind == "text" else "document",
    )  # fmt: skip
    (folder / "out").mkdir()
    try:
        prepare(data, tokenizer, folder / "out")
    except SprigError as error:
        sentence = str(error)
        assert sentence.endswith(".") and "\n" not in sentence and "Traceback" not in sentence, (seed, sentence)
        assert not (folder / "out/index.json").exists()
        return
    tokens = Blocks(folder / "out", "train").take(np.arange(1))
    assert ((tokens >= 0) & (tokens < tokenizer.vocab_size)).all(), seed


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_text_is_refused_or_read(kind, tokenizer, tmp_path):
    for seed in FEW:
        holds(kind, seed, tokenizer, tmp_path / str(seed))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutated_texts(kind, tokenizer, tmp_path):
    for seed in MANY:
        holds(kind, seed, tokenizer, tmp_path / str(seed))
