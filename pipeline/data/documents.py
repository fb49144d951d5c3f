"""The documents of a data set in batches, from any place on: of local files here, of the hub in pipeline.data.hub."""

import codecs
import lzma
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow

from pipeline.config import DataConfig, DataSource, SampleBy
from pipeline.data.columns import Missing, NotText, row_text
from pipeline.data.files import local_files
from pipeline.data.readers import Broken, decompressed, rows
from pipeline.errors import SprigError
from pipeline.printable import listed

BATCH = 64  # documents that are read at one time,
BATCH_CHARACTERS = 1 << 20  # or fewer, once they have this many
PATIENCE = 64  # rows without the column `data.text_key` before the whole file counts as having none


class Documents(ABC):
    """The texts of a data set in reading order.

    `size` counts its `unit`s, None if it is not known; `done` those that have been read. Of the `rows` read here,
    `without` have no text: they lack the column `data.text_key`, or hold null or a blank text there. Blank lines and
    paragraphs of a text file only separate, and do not count.
    """

    data: DataConfig
    unit: str
    size: int | None
    done: int = 0
    rows: int = 0
    without: int = 0

    @abstractmethod
    def read(self, place: Any = None) -> Iterator[list[str]]:
        """Batches of texts from a place on, by default the beginning; a row without text is "".

        Raises:
            SprigError: unreadable, not UTF-8, no column `data.text_key`, or the column is not text.
        """

    @abstractmethod
    def place(self) -> Any:
        """Where reading stands, after the latest batch, JSON-ready."""

    def _texts_of(self, found: Iterable[Any], where: Path | str, first: int) -> Iterator[str]:
        """The texts of a file's (or hub data set's) rows, of which `first` were read before; "" where there is none.

        Raises:
            SprigError: no row has the column, or what it holds is not text.
        """
        data = self.data
        keys = [] if data.source == DataSource.text else data.text_key.split(".")
        separates = data.source == DataSource.text and data.sample_by != SampleBy.document
        number, has_column = first, first > 0
        fields: dict[str, None] = {}  # of the rows that lack the column, in order
        for number, row in enumerate(found, first + 1):
            try:
                text, has_column = row_text(row, keys), True
                (text or "").encode()
            except Missing as error:
                text = None
                if not has_column:
                    fields |= dict.fromkeys(error.fields)
                if fields and not has_column and number >= PATIENCE:
                    break
            except NotText as error:
                raise _not_text(data, where, number, error, row) from None
            except UnicodeEncodeError:
                raise SprigError(
                    f"Data {data.name}: {where}, row {number} holds half a surrogate pair, which is not a character: "
                    "correct the text."
                ) from None
            self.rows += 1
            self.without += not separates and not (text or "").strip()
            yield text or ""
        if fields and not has_column:
            raise SprigError(
                f"Data {data.name} has no column {data.text_key!r} in {where}: set data.text_key to one of "
                f"{listed(list(fields))}."
            )


class LocalDocuments(Documents):
    """Those of local files. A place is the number of a file and of a row in it.

    Raises:
        SprigError: a path does not exist, or nothing matches.
    """

    unit = "bytes"

    def __init__(self, data: DataConfig):
        self.data, found = data, local_files(data)
        self.paths, self.hidden = [path for _, path in found.files], found.hidden
        self._sizes = [path.stat().st_size for path in self.paths]
        self.size = sum(self._sizes)
        self._place = (0, 0)

    def read(self, place: Any = None) -> Iterator[list[str]]:
        first, row = place or (0, 0)
        for number in range(first, len(self.paths)):
            path, before, size = self.paths[number], sum(self._sizes[:number]), self._sizes[number]
            with _explained(self.data, path), path.open("rb") as file:
                texts = self._texts_of(rows(self.data, path, file, row), path, row)
                for batch in _batches(texts):
                    row += len(batch)
                    # A reader closes the file after its last row.
                    self._place, self.done = (number, row), before + (size if file.closed else file.tell())
                    yield batch
            row = 0

    def place(self) -> Any:
        return list(self._place)


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch, characters = [], 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if len(batch) == BATCH or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _not_text(data: DataConfig, where: Path | str, number: int, error: NotText, row: Any) -> SprigError:
    fields = error.fields
    if error.above:
        holds = f": data.text_key={data.text_key} looks inside column {error.above!r}, which holds {error.kind}"
        fields = [error.above] if error.kind == "text" else []
    elif isinstance(row, dict):
        holds = f": column {data.text_key!r} holds {error.kind}, not text"
        fields = fields or [name for name in row if name != data.text_key]
    else:
        holds = f" holds {error.kind}, not text or an object with the key {data.text_key!r}"
    cure = f"set data.text_key to one of {listed(fields)}" if fields else "correct the file or data.text_key"
    return SprigError(f"Data {data.name}: {where}, row {number}{holds}: {cure}.")


@contextmanager
def _explained(data: DataConfig, path: Path) -> Iterator[None]:
    """Turns what reading a file may raise into one sentence that names it."""
    try:
        yield
    except Broken as error:
        raise SprigError(
            f"Data {data.name}: {path}, {error}: correct the file, or data.source ({data.source})."
        ) from None
    except UnicodeDecodeError as error:
        raise SprigError(
            f"Data {data.name}: {path} is not UTF-8{_position(path)}: convert it to UTF-8, or correct data.source."
        ) from error
    # ValueError: what pyarrow raises for a codec or type it does not know.
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error, pyarrow.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise SprigError(
            f"Data {data.name}: {path} cannot be read as {data.source} ({reason}): it may be truncated or damaged; "
            "replace it, correct its permissions, or correct data.source."
        ) from error


def _position(path: Path) -> str:
    """Which byte of the text is at fault: the error speaks of the latest portion."""
    decoder, position = codecs.getincrementaldecoder("utf-8")(), 0
    with path.open("rb") as raw:
        file = decompressed(path, raw)
        while True:
            chunk = file.read(1 << 20)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return f" (byte {position - pending + error.start:,})"
            if not chunk:
                return ""
            position += len(chunk)
