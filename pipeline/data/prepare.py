"""From text to packed token blocks: read, tokenise, split by document, pack."""

import logging
import shutil
from pathlib import Path

import numpy as np

from pipeline.artifacts import write_json
from pipeline.config import DataConfig, DataSource, SampleBy
from pipeline.data.arrays import Damaged
from pipeline.data.blocks import INDEX, SPLITS
from pipeline.data.documents import Documents, LocalDocuments
from pipeline.data.files import file_hashes
from pipeline.data.packing import Members, pack
from pipeline.data.shards import Encoding, documents_of, shard, tokenise
from pipeline.errors import SprigError
from pipeline.models.tokenizer import Tokenizer
from pipeline.progress import counted

SCRATCH = "shards"  # holds what a killed preparation resumes from

log = logging.getLogger("sprig")


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
    if data.special_tokens:
        settings["special_tokens"] = True
    if data.source == DataSource.text:
        return settings | {"files": file_hashes(data), "sample_by": data.sample_by.value}
    settings["text_key"] = data.text_key
    if data.source == DataSource.hub:
        return settings | {"hub": data.path, "subset": data.subset, "split": data.split}
    return settings | {"files": file_hashes(data)}


def token_dtype(vocab_size: int) -> np.dtype:
    """What holds a token id on the disk."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def prepare(data: DataConfig, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes train.bin, validation.bin, calibration.bin (flat little-endian token ids) and index.json into `folder`.

    A split is its documents' ids in reading order, joined by the end-of-text token. Blank documents are left out.
    After a kill, the same call resumes with the shards that are missing or damaged, and gives the same files.

    Raises:
        SprigError: the text is missing, unreadable, empty, or too short for one block in every split.
    """
    try:
        _prepare(data, tokenizer, folder)
    except Damaged as error:
        log.warning("%s", error)
        _prepare(data, tokenizer, folder)


def _prepare(data: DataConfig, tokenizer: Tokenizer, folder: Path) -> None:
    """`prepare` in one attempt. Raises Damaged where a file to resume from is not what was written."""
    scratch = folder / SCRATCH
    if not (folder / INDEX).exists():
        scratch.mkdir(exist_ok=True)
        dtype = token_dtype(tokenizer.vocab_size)
        members = Members.load(scratch)
        if members is None:
            members = _tokenised(data, tokenizer, dtype, scratch)
            members.save(scratch)
        tokens = pack(members, dtype, folder, scratch)
        index = {
            "block_size": data.block_size,
            "dtype": dtype.str,
            "eos_id": tokenizer.eos_id,
            "vocab_size": tokenizer.vocab_size,
            "splits": {
                name: {
                    "documents": int((members.belongs == number).sum()),
                    "tokens": tokens[name],
                    "blocks": (tokens[name] - 1) // data.block_size,
                }
                for number, name in enumerate(SPLITS)
            },
        }
        write_json(folder / INDEX, index)
    shutil.rmtree(scratch, ignore_errors=True)


def open_documents(data: DataConfig, scratch: Path) -> Documents:
    """The documents of a data set; what the hub's library derives from it is kept in `scratch`.

    Raises:
        SprigError: not there, not readable, or without a column `data.text_key`.
    """
    if data.source == DataSource.hub:
        # The library takes longer to import than a small text to read.
        from pipeline.data.hub import HubDocuments

        return HubDocuments(data, scratch)
    documents = LocalDocuments(data)
    if documents.hidden:
        log.info("Data %s: %d hidden files and folders of %s are skipped.", data.name, documents.hidden, data.path)
    return documents


def split_by_hash(hashes: np.ndarray, validation: float, calibration: float) -> np.ndarray:
    """Which split each document belongs to, (n,): 0 train, 1 validation, 2 calibration, as in SPLITS.

    Of m distinct hashes the lowest max(1, round(validation * m)) go to validation, the next max(1,
    round(calibration * m)) to calibration. Equal hashes stay together, so that no text is in two splits.
    """
    distinct, rank = np.unique(hashes, return_inverse=True)
    first = max(1, round(validation * len(distinct)))
    second = first + max(1, round(calibration * len(distinct)))
    return np.where(rank < first, 1, np.where(rank < second, 2, 0))


def _tokenised(data: DataConfig, tokenizer: Tokenizer, dtype: np.dtype, scratch: Path) -> Members:
    """Tokenises the text into shards in `scratch`, and decides which split each document belongs to.

    Raises:
        SprigError: the text cannot be read, or does not suffice; in that case nothing is left.
    """
    encoding = Encoding(tokenizer, dtype, data.seed, data.special_tokens)
    reading = scratch / "hub"
    documents = open_documents(data, reading)
    shards = tokenise(documents, data, encoding, scratch)
    if without := _without_text(data, documents):
        log.warning("Data %s: %s and are left out.", data.name, without)
    shutil.rmtree(reading, ignore_errors=True)
    try:
        if not shards:
            column = f", or set data.text_key={data.text_key} to the column that holds the text"
            raise SprigError(
                f"Data {data.name} has no text, as every document of {data.path} is blank: correct data.path"
                f"{'' if data.source == DataSource.text else column}."
            )
        parts = [documents_of(shard(scratch, number)) for number in range(shards)]
        lengths, hashes = (np.concatenate(each) for each in zip(*parts, strict=True))
        if data.max_tokens is not None:
            # The document that reaches max_tokens is the last one, and whole.
            kept = 1 + int(np.searchsorted(np.cumsum(lengths), data.max_tokens))
            lengths, hashes = lengths[:kept], hashes[:kept]
        belongs = split_by_hash(hashes, data.validation, data.calibration)
        _check_members(data, hashes, belongs, without)
        _check_lengths(data, lengths, belongs, without)
    except Damaged:
        raise
    except SprigError:  # as it would be at every start
        shutil.rmtree(scratch)
        raise
    return Members(belongs, shards)


def _without_text(data: DataConfig, documents: Documents) -> str:
    """How many of the rows or files that were read have no text; nothing where all have some."""
    if not documents.without:
        return ""
    count = f"{documents.without:,} of {documents.rows:,}"
    if data.source == DataSource.text:
        return f"{count} files have no text"
    return f"{count} rows have no text in column {data.text_key!r}"


def _check_members(data: DataConfig, hashes: np.ndarray, belongs: np.ndarray, without: str) -> None:
    empty = [name for number, name in enumerate(SPLITS) if not (belongs == number).any()]
    if empty:
        distinct = len(np.unique(hashes))
        found = counted(len(hashes), "document")
        found += f", {distinct:,} of them distinct" if distinct < len(hashes) else ""
        found += without and f" ({without})"
        cures = ["give more documents"]
        if data.max_tokens is not None:
            cures.append(f"raise data.max_tokens={data.max_tokens}")
        if distinct >= len(SPLITS):
            cures.append("lower the shares")
        if data.source != DataSource.text and without:
            cures.append(f"set another data.text_key ({data.text_key})")
        elif data.source == DataSource.text and data.sample_by == SampleBy.document:
            cures.append("split them with data.sample_by=paragraph or line")
        if len(cures) > 1:
            cures[-1] = f"or {cures[-1]}"
        raise SprigError(
            f"Data {data.name} has {found}, and none is left for {empty[0]} (data.validation={data.validation}, "
            f"data.calibration={data.calibration}): {', '.join(cures)}."
        )


def _check_lengths(data: DataConfig, lengths: np.ndarray, belongs: np.ndarray, without: str) -> None:
    for number, name in enumerate(SPLITS):
        found = lengths[belongs == number]
        tokens = int(found.sum()) - 1
        if tokens <= data.block_size:
            raise SprigError(
                f"Data {data.name}: the {name} split has {counted(tokens, 'token')} in {len(found)} of "
                f"{counted(len(lengths), 'document')}{without and f' ({without})'}, but one block needs "
                f"{data.block_size + 1:,}: lower data.block_size={data.block_size}, give {name} a larger share "
                f"(data.validation={data.validation}, data.calibration={data.calibration}), or give more text."
            )
