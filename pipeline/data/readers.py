"""The rows of one local file: a text for a text file, an object, list or string for the other formats."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pyarrow
import pyarrow.parquet as pq

from pipeline.config import DataConfig, DataSource, SampleBy

CHARACTERS = 1 << 20  # of a text file that are read at one time
ROWS = 64  # of a parquet file that are decoded at one time
SEPARATORS = (";", "\t", "|", ",")  # of tables that are called CSV
FIELD_BYTES = 1 << 31  # the longest field of a CSV file
JSON = json.JSONDecoder(parse_int=lambda digits: 0)  # no number is text, and Python refuses to read long ones

Rows = Iterator[Any]
Lines = Iterator[tuple[int, str]]
Binary = io.BufferedReader | gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile


class Broken(Exception):
    """A place of a file cannot be read: where, and why."""

    def __init__(self, where: str, why: str):
        super().__init__(f"{where} {why}")


def rows(data: DataConfig, path: Path, file: io.BufferedReader, skip: int) -> Rows:
    """The rows of an open file after the first `skip`, read as they are wanted.

    Byte-order marks are removed, and compressed files (.gz, .bz2, .xz, .zst) decompressed. Of a parquet file only the
    column of `data.text_key` is read.

    Raises:
        Broken: names the line, or says why the file is none of its kind.
        UnicodeDecodeError: it is not UTF-8.
        OSError, EOFError, lzma.LZMAError, pyarrow.ArrowException: it is cut or damaged.
    """
    if data.source == DataSource.parquet:
        return _parquet_rows(data.text_key, file, skip)
    newline = {DataSource.text: None, DataSource.jsonl: "\n", DataSource.csv: ""}[data.source]
    text = io.TextIOWrapper(decompressed(path, file), encoding="utf-8-sig", newline=newline)
    if data.source == DataSource.text:
        return islice(_texts(data.sample_by, text), skip, None)
    if data.source == DataSource.jsonl:
        return _json_rows(text, skip)
    return islice(_csv_rows(text, "\t" if ".tsv" in Path(path.name.lower()).suffixes else ","), skip, None)


def decompressed(path: Path, file: io.BufferedReader) -> Binary:
    """The contents of an open file, whose name says how they are compressed."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(file)
    if suffix == ".bz2":
        return bz2.open(file)
    if suffix == ".xz":
        return lzma.open(file)
    if suffix == ".zst":
        return io.BufferedReader(pyarrow.CompressedInputStream(file, "zstd"))
    return file


def _texts(sample_by: SampleBy, file: TextIO) -> Iterator[str]:
    """An archive is UTF-8, too, as long as its members are."""
    for number, text in enumerate(_documents(sample_by, file), 1):
        if "\0" in text:
            raise Broken(f"document {number}", "holds null characters, so it is not text; archives are not unpacked")
        yield text


def _documents(sample_by: SampleBy, file: TextIO) -> Iterator[str]:
    if sample_by == SampleBy.document:
        yield file.read()
    elif sample_by == SampleBy.line:
        yield from (line.removesuffix("\n") for line in file)
    else:
        rest = ""
        while chunk := file.read(CHARACTERS):
            *paragraphs, rest = (rest + chunk).split("\n\n")
            yield from paragraphs
        yield rest


def _json_rows(file: TextIO, skip: int) -> Rows:
    """A value a line, or the items of one array that is the whole file."""
    lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
    beginning = list(islice(lines, 2))
    if beginning and beginning[0][1].lstrip().startswith("["):
        items = _array(beginning, lines)
        if items is not None:
            yield from items[skip:]
            return
    for number, line in islice(chain(beginning, lines), skip, None):
        yield _parsed(line, number)


def _array(beginning: list[tuple[int, str]], lines: Lines) -> list[Any] | None:
    """The items of an array that is the whole file; None where each line is an array."""
    if len(beginning) == 1:
        return _parsed(beginning[0][1], beginning[0][0])
    try:
        JSON.decode(beginning[0][1])
    except ValueError:
        return _parsed("".join(line for _, line in chain(beginning, lines)), beginning[0][0])
    return None


def _parsed(text: str, line: int) -> Any:
    """The value of a text that begins in this line."""
    try:
        return JSON.decode(text.rstrip())
    except RecursionError:
        raise Broken(f"line {line}", "is nested too deeply") from None
    except json.JSONDecodeError as error:
        where, why = f"line {line + error.lineno - 1}", error.msg.removesuffix(" at")
        raise Broken(where, f"is not JSON ({why} at column {error.colno}); each line holds one value") from None


def _csv_rows(file: TextIO, delimiter: str) -> Iterator[dict[str, str]]:
    csv.field_size_limit(FIELD_BYTES)
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    header, start = None, 1
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise Broken(f"line {start}", f"is not CSV ({error})") from None
        if header is None:
            header = row
            _check_once(header)
            _check_separated(header, delimiter)
        elif row:
            if len(row) != len(header):
                raise Broken(f"line {start}", f"has {len(row)} fields, and the header {len(header)}")
            yield dict(zip(header, row, strict=True))
        start = reader.line_num + 1


def _check_once(names: list[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise Broken("the header", f"names the column {twice!r} {names.count(twice)} times: rename all but one")


def _check_separated(header: list[str], delimiter: str) -> None:
    """Of another separator, the whole header looks like the name of one column."""
    other = next((each for each in SEPARATORS if len(header) == 1 and each != delimiter and each in header[0]), None)
    if other is not None:
        raise Broken("the header", f"seems separated by {other!r} instead of {delimiter!r}")


def _parquet_rows(text_key: str, file: BinaryIO, skip: int) -> Rows:
    opened = pq.ParquetFile(file)
    names = opened.schema_arrow.names
    _check_once(names)
    column = top_level(text_key, names)
    if column is None:
        # An object without the key: the caller names what is there.
        yield from (dict.fromkeys(names) for _ in range(min(opened.metadata.num_rows, 1)))
        return
    groups = range(opened.num_row_groups)
    for group in groups:
        count = opened.metadata.row_group(group).num_rows
        if skip < count:
            break
        skip, groups = skip - count, groups[1:]
    batches = opened.iter_batches(ROWS, row_groups=list(groups), columns=[column]) if groups else ()
    values = chain.from_iterable(batch.column(0).to_pylist() for batch in batches)
    yield from ({column: value} for value in islice(values, skip, None))


def top_level(text_key: str, names: list[str]) -> str | None:
    """The column that holds a possibly nested key: the longest beginning of it that is a name."""
    keys = text_key.split(".")
    return next((name for n in range(len(keys), 0, -1) if (name := ".".join(keys[:n])) in names), None)
