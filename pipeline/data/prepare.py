"""From text to packed token blocks: read, tokenise, split by document, pack."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value

from pipeline.config import DataConfig, DataSource
from pipeline.data.blocks import INDEX, SPLITS
from pipeline.data.documents import BATCH, Documents, open_documents, quiet
from pipeline.data.files import file_hashes
from pipeline.errors import SprigError
from pipeline.models.tokenizer import Tokenizer
from pipeline.progress import Progress

# Text that is in memory at one time, per worker: large enough that starting the workers costs little.
SLAB_CHARACTERS = 4_000_000
# With data.max_tokens, how much text is read at one time to get there: English takes about this many.
CHARACTERS_PER_TOKEN = 4
COLUMNS = Features({"ids": List(Value("uint32")), "hash": Value("int64")})


def identify(data: DataConfig) -> dict:
    """Everything of a data set that determines its blocks, JSON-ready: contents, not places; no number of workers.

    A hub data set is known by its name; `path: name@revision` pins what the name means.

    Raises:
        SprigError: local files are not there.
    """
    settings = {
        "source": data.source.value,
        "block_size": data.block_size,
        "validation": data.validation,
        "calibration": data.calibration,
        "seed": data.seed,
        "max_tokens": data.max_tokens,
    }
    if data.source == DataSource.text:
        return settings | {"files": file_hashes(data), "sample_by": data.sample_by.value}
    settings["text_key"] = data.text_key
    if data.source == DataSource.hub:
        return settings | {"hub": data.path, "subset": data.subset, "split": data.split}
    return settings | {"files": file_hashes(data)}


def prepare(data: DataConfig, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes train.bin, validation.bin, calibration.bin (flat little-endian token ids) and index.json into `folder`.

    A split is its documents' ids in reading order, joined by the end-of-text token. Blank documents are left out.

    Raises:
        SprigError: the text is missing, unreadable, empty, or too short for one block in every split.
    """
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    for left in folder.glob("reading-*"):  # by a kill
        shutil.rmtree(left)
    with TemporaryDirectory(dir=folder, prefix="reading-") as scratch:
        documents = open_documents(data, Path(scratch))
        stream = Path(scratch) / "tokens.bin"
        with quiet():
            lengths, hashes = _tokenise(documents, tokenizer, dtype, stream)
        members = _members(data, hashes)
        _check_lengths(data, lengths, members)
        splits = _pack(data, np.memmap(stream, dtype, mode="r"), lengths, members, folder)
    index = {
        "block_size": data.block_size,
        "dtype": dtype.str,
        "eos_id": tokenizer.eos_id,
        "vocab_size": tokenizer.vocab_size,
        "splits": splits,
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def split_by_hash(hashes: np.ndarray, validation: float, calibration: float) -> np.ndarray:
    """Which split each document belongs to, (n,): 0 train, 1 validation, 2 calibration, as in SPLITS.

    Of m distinct hashes the lowest max(1, round(validation * m)) go to validation, the next max(1,
    round(calibration * m)) to calibration. Equal hashes stay together, so that no text is in two splits.
    """
    distinct, rank = np.unique(hashes, return_inverse=True)
    first = max(1, round(validation * len(distinct)))
    second = first + max(1, round(calibration * len(distinct)))
    return np.where(rank < first, 1, np.where(rank < second, 2, 0))


def _slabs(documents: Documents) -> Iterator[tuple[int, list[str]]]:
    """The documents in bounded portions: how many rows were read, and those that are not blank."""
    data = documents.data
    limit = data.workers * SLAB_CHARACTERS
    if data.max_tokens is not None:
        limit = min(limit, CHARACTERS_PER_TOKEN * data.max_tokens)
    rows, texts, characters = 0, [], 0
    for batch in documents:
        for text in batch:
            rows += 1
            if text.strip():
                texts.append(text)
                characters += len(text)
            if characters >= limit:
                yield rows, texts
                rows, texts, characters = 0, [], 0
    if texts:
        yield rows, texts


def _encode(batch: dict[str, list[str]], tokenizer: Tokenizer, seed: int) -> dict[str, list]:
    """Ids and hashes of a batch. Texts that differ only in the blanks around them count as one text."""
    # This is one of several worker processes: the tokenizer's own threads would fight over their cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    texts, salt = batch["text"], f"{seed}\n".encode()
    digests = (hashlib.blake2b(salt + text.strip().encode(), digest_size=8).digest() for text in texts)
    return {
        "ids": [np.array([*ids, tokenizer.eos_id], np.uint32) for ids in tokenizer.encode_batch(texts)],
        "hash": [int.from_bytes(digest, "little", signed=True) for digest in digests],
    }


def _tokenise(
    documents: Documents, tokenizer: Tokenizer, dtype: np.dtype, stream: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Writes all documents' ids to `stream`, each with the end-of-text token behind it, as far as `data.max_tokens`.

    Returns each document's length in tokens, that token included, and its hash; both (n,).
    """
    data = documents.data
    lengths, hashes, written = [], [], 0
    unit, total = ("documents", documents.rows) if data.max_tokens is None else ("tokens", data.max_tokens)
    with stream.open("wb") as file, Progress("tokenise", total, unit) as progress:
        for rows, texts in _slabs(documents):
            encoded = Dataset.from_dict({"text": texts}).map(
                _encode,
                fn_kwargs={"tokenizer": tokenizer, "seed": data.seed},
                batched=True,
                batch_size=BATCH,
                num_proc=min(data.workers, len(texts)),
                remove_columns="text",
                features=COLUMNS,
                new_fingerprint="encoded",
            )
            table = encoded.with_format("arrow")[:]
            sizes = pc.list_value_length(table["ids"]).to_numpy().astype(np.int64)
            ends = written + np.cumsum(sizes)
            # The document that reaches max_tokens is the last one, and whole.
            kept = len(ends) if data.max_tokens is None else 1 + int(np.searchsorted(ends, data.max_tokens))
            for chunk in table["ids"].slice(0, kept).chunks:
                file.write(chunk.flatten().to_numpy().astype(dtype).tobytes())
            lengths.append(sizes[:kept])
            hashes.append(table["hash"].to_numpy()[:kept])
            before, written = written, int(ends[:kept][-1])
            progress.advance(rows if data.max_tokens is None else written - before)
            if data.max_tokens is not None and written >= data.max_tokens:
                break
    if not lengths:
        raise SprigError(f"Data {data.name} has no text: every document of {data.path} is blank.")
    return np.concatenate(lengths), np.concatenate(hashes)


def _members(data: DataConfig, hashes: np.ndarray) -> dict[str, np.ndarray]:
    """The numbers of each split's documents, in reading order.

    Raises:
        SprigError: a split gets none.
    """
    belongs = split_by_hash(hashes, data.validation, data.calibration)
    members = {name: np.flatnonzero(belongs == number) for number, name in enumerate(SPLITS)}
    empty = [name for name, numbers in members.items() if len(numbers) == 0]
    if empty:
        raise SprigError(
            f"Data {data.name} has {len(np.unique(hashes))} distinct documents, which leaves none for {empty[0]} "
            f"(data.validation={data.validation}, data.calibration={data.calibration}): give more text, a larger "
            "data.max_tokens, smaller shares, or for text files data.sample_by=paragraph or line."
        )
    return members


def _check_lengths(data: DataConfig, lengths: np.ndarray, members: dict[str, np.ndarray]) -> None:
    for name, numbers in members.items():
        tokens = int(lengths[numbers].sum()) - 1
        if tokens <= data.block_size:
            raise SprigError(
                f"Data {data.name}: the {name} split has {tokens:,} tokens in {len(numbers)} of {len(lengths)} "
                f"documents, but one block needs {data.block_size + 1:,}: lower data.block_size={data.block_size}, "
                f"give {name} a larger share (data.validation={data.validation}, "
                f"data.calibration={data.calibration}), or give more text."
            )


def _pack(
    data: DataConfig, stream: np.ndarray, lengths: np.ndarray, members: dict[str, np.ndarray], folder: Path
) -> dict[str, dict]:
    """Writes each split's file; returns its part of the index."""
    ends = np.cumsum(lengths)
    splits = {}
    with Progress("pack", len(lengths), "documents") as progress:
        for name, numbers in members.items():
            tokens = int(lengths[numbers].sum()) - 1
            with (folder / f"{name}.bin").open("wb") as file:
                for number in numbers:
                    # End-of-text joins documents: there is none behind the last one.
                    end = ends[number] - (number == numbers[-1])
                    file.write(stream[ends[number] - lengths[number] : end].tobytes())
                    progress.advance()
            splits[name] = {
                "documents": len(numbers),
                "tokens": tokens,
                "blocks": (tokens - 1) // data.block_size,
            }
    return splits
