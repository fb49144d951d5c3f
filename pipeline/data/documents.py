"""The documents of a data set, read through the `datasets` library."""

import codecs
import errno
import glob
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow

from pipeline.config import DataConfig, DataSource
from pipeline.data.files import local_files, opened
from pipeline.errors import SprigError

BATCH = 64  # rows that are read at one time
# Never of the texts: those were opened before. `datasets` writes what it reads into `scratch`.
_OF_THE_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
BUILDERS = {DataSource.text: "text", DataSource.jsonl: "json", DataSource.parquet: "parquet"}


@dataclass(frozen=True)
class Documents:
    """Iterates over batches of rows, each row a text; `rows` counts them all, or is None where they are streamed."""

    data: DataConfig
    dataset: datasets.Dataset | datasets.IterableDataset
    rows: int | None

    def __iter__(self) -> Iterator[list[str]]:
        """Raises SprigError: unreadable, not UTF-8, no column `data.text_key`, or the column is no text."""
        key = _column(self.data)
        with _explained(self.data):
            for batch in self.dataset.iter(batch_size=BATCH):
                if key not in batch:
                    raise _no_column(self.data, list(batch))
                texts = ["" if text is None else text for text in batch[key]]
                wrong = next((text for text in texts if not isinstance(text, str)), None)
                if wrong is not None:
                    raise SprigError(
                        f"Data {self.data.name}: column {key!r} holds {type(wrong).__name__}, not text: set "
                        f"data.text_key to a column of text; there are {', '.join(batch)}."
                    )
                yield texts


def open_documents(data: DataConfig, scratch: Path) -> Documents:
    """Opens a data set in reading order; what `datasets` derives from it is kept in `scratch`, to be thrown away.

    Local files with `data.max_tokens` are streamed, so that what is not needed is not read.

    Raises:
        SprigError: not there, not readable, empty, or without a column `data.text_key`.
    """
    with _explained(data):
        if data.source == DataSource.hub:
            if not isinstance(data.path, str):
                raise SprigError(f"data.path={data.path} must be one hub data set: name, or name@revision.")
            name, _, revision = data.path.partition("@")
            arguments = {"path": name, "name": data.subset, "split": data.split, "revision": revision or None}
            streaming = data.streaming
        else:
            arguments = {"path": BUILDERS[data.source], "split": "train", **_builder_arguments(data)}
            streaming = data.max_tokens is not None
        # Only a download takes long, and its bars know most about it.
        with quiet(bars=data.source == DataSource.hub):
            dataset = datasets.load_dataset(**arguments, streaming=streaming, cache_dir=str(scratch))
    # A streamed data set may not know its columns before the first row.
    if dataset.column_names:
        if _column(data) not in dataset.column_names:
            raise _no_column(data, dataset.column_names)
        dataset = dataset.select_columns(_column(data))
    return Documents(data, dataset, None if streaming else len(dataset))


@contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """Silences the library's log, whose failures come as exceptions anyway, and its bars but for `bars`."""
    before, hidden = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(logging.CRITICAL)
    if not bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(before)
        if not hidden:
            datasets.enable_progress_bars()


def _builder_arguments(data: DataConfig) -> dict:
    # The library fails obscurely on some empty files.
    files = [path for _, path in local_files(data) if not _blank(path)]
    if not files:
        raise SprigError(f"Data {data.name} has no text: every file of {data.path} is blank.")
    # `datasets` takes file names for patterns.
    arguments = {"data_files": [glob.escape(str(path.absolute())) for path in files]}
    if data.source == DataSource.text:
        columns = datasets.Features({"text": datasets.Value("string")})
        arguments |= {"sample_by": data.sample_by.value, "features": columns}
    return arguments


def _blank(path: Path) -> bool:
    with opened(path) as file:
        return all(not chunk.strip() for chunk in iter(lambda: file.read(1 << 16), b""))


def _column(data: DataConfig) -> str:
    return "text" if data.source == DataSource.text else data.text_key


def _no_column(data: DataConfig, there: list[str]) -> SprigError:
    return SprigError(
        f"Data {data.name} has no column {data.text_key!r}: set data.text_key to one of {', '.join(there)}."
    )


@contextmanager
def _explained(data: DataConfig) -> Iterator[None]:
    """Turns what reading may raise into one sentence. Raises OSError where the place that is written to refuses."""
    try:
        yield
    # RuntimeError is what the library lets through where there is no network, TypeError for JSON that is no table.
    except (OSError, ValueError, TypeError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno in _OF_THE_PLACE:
            raise cause from None
        raise _explanation(data, cause) from error
    except pyarrow.ArrowException as error:
        raise _explanation(data, error) from error


def _explanation(data: DataConfig, error: BaseException) -> SprigError:
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    if data.source == DataSource.hub:
        return SprigError(
            f"Data {data.name}: {data.path} (subset {data.subset}, split {data.split}) could not be read from the hub "
            f"({reason}): check the name, the network and, for a gated data set, `hf auth login`, or use local files."
        )
    broken = _not_utf8(data) if isinstance(error, UnicodeDecodeError) else None
    if broken:
        return SprigError(f"Data {data.name}: {broken[0]} is not UTF-8 (byte {broken[1]:,}): convert it to UTF-8.")
    return SprigError(
        f"Data {data.name} could not be read as {data.source} ({reason}): check the files or data.source."
    )


def _not_utf8(data: DataConfig) -> tuple[Path, int] | None:
    """The first file that is not UTF-8, and where: the library's error does not say which."""
    for _, path in local_files(data):
        decoder, position = codecs.getincrementaldecoder("utf-8")(), 0
        with path.open("rb") as file:
            while True:
                chunk = file.read(1 << 20)
                pending = len(decoder.getstate()[0])
                try:
                    decoder.decode(chunk, final=not chunk)
                except UnicodeDecodeError as error:
                    return path, position - pending + error.start
                if not chunk:
                    break
                position += len(chunk)
    return None
