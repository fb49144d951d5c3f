"""The documents of a data set of the hub, read through the `datasets` library."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow

from pipeline.config import DataConfig
from pipeline.data.documents import BATCH, Documents
from pipeline.data.readers import top_level
from pipeline.errors import SprigError, reason

# Never the text's fault: `datasets` writes what it reads into a folder.
_OF_THE_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


class HubDocuments(Documents):
    """Those of a data set of the hub. A place is a row's number, or where the data set is streamed its own state.

    Args:
        scratch: where `datasets` keeps what it derives from a data set that is not streamed.

    Raises:
        SprigError: not there, not readable, or without a column `data.text_key`.
        OSError: what is derived cannot be written.
    """

    unit = "documents"

    def __init__(self, data: DataConfig, scratch: Path):
        if not isinstance(data.path, str):
            raise SprigError(f"data.path={data.path} must be one hub data set: name, or name@revision.")
        self.data = data
        self.name, _, revision = data.path.partition("@")
        # Only a download takes long, and its bars know most about it.
        with _explained(data), _quiet():
            dataset = datasets.load_dataset(
                path=self.name,
                name=data.subset,
                split=data.split,
                revision=revision or None,
                streaming=data.streaming,
                cache_dir=str(scratch),
            )
        # A streamed data set may not know its columns before the first row.
        if names := dataset.column_names:
            dataset = dataset.select_columns(top_level(data.text_key, names) or names)
        self.dataset = dataset
        self.size = None if data.streaming else len(dataset)

    def read(self, place: Any = None) -> Iterator[list[str]]:
        dataset, self.done = self.dataset, 0
        if place is not None:
            self.done = place["row"]
            if self.data.streaming:
                dataset.load_state_dict(place["state"])
            elif self.done < len(dataset):
                dataset = dataset.skip(self.done)
            else:
                return
        with _explained(self.data), _quiet():
            for batch in dataset.iter(batch_size=BATCH):
                values = (dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True))
                texts = list(self._texts_of(values, self.name, self.done))
                self.done += len(texts)
                yield texts

    def place(self) -> Any:
        return {"row": self.done, "state": self.dataset.state_dict() if self.data.streaming else None}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the library's log: its failures are exceptions anyway."""
    before = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(before)


@contextmanager
def _explained(data: DataConfig) -> Iterator[None]:
    """Turns what reading may raise into one sentence. Raises OSError where the place that is written to refuses."""
    try:
        yield
    # RuntimeError is what the library lets through where there is no network.
    except (
        OSError,
        ValueError,
        TypeError,
        RuntimeError,
        datasets.exceptions.DatasetsError,
        pyarrow.ArrowException,
    ) as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno in _OF_THE_PLACE:
            raise cause from None
        wrong = reason(cause)
        cure = "check the name, the network and, for a gated data set, `hf auth login`, or use local files"
        if datasets.config.HF_HUB_OFFLINE and isinstance(cause, OSError):
            wrong, cure = "HF_HUB_OFFLINE is set", "unset it, or use local files"
        raise SprigError(
            f"Data {data.name}: {data.path} (subset {data.subset}, split {data.split}) could not be read from the hub "
            f"({wrong}): {cure}."
        ) from error
