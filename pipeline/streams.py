"""Standard input, output and error, as odd shells and services leave them."""

import errno
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from rich.logging import RichHandler

from pipeline.errors import SprigError

ON_MISFITS = {"stdin": "replace", "stdout": "backslashreplace", "stderr": "backslashreplace"}
WRITTEN = {"stdout": "Standard output", "stderr": "Standard error"}
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


class LogHandler(RichHandler):
    """Shows log lines; one that cannot be written fails as any other output does, instead of printing a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(error := sys.exc_info()[1], OSError):
            raise error
        super().handleError(record)


@contextmanager
def usable() -> Iterator[None]:
    """Closed streams are empty, and no character fails. If the reader of the output has ended, as in `sprig runs |
    head -1`, the process ends without a message.

    Raises:
        SprigError: output cannot be written, as its disk is full.
    """
    for name, errors in ON_MISFITS.items():
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    if os.environ.get("COLUMNS") == "0":  # of a terminal without a size; rich would print nothing
        del os.environ["COLUMNS"]
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _discard(sys.stdout)
        sys.exit(1)
    except OSError as error:
        if error.errno not in UNWRITABLE or (sentence := _unwritable()) is None:
            raise
        raise SprigError(sentence) from error


def _unwritable() -> str | None:
    """Which of the streams takes no line; None if the error is not theirs. The error itself does not tell: it names no
    file, and what could not be written is gone."""
    for name, called in WRITTEN.items():
        stream = getattr(sys, name)
        try:
            os.write(stream.fileno(), b"\n")
        except io.UnsupportedOperation:  # it is not a file
            continue
        except OSError as error:
            _discard(stream)
            return (
                f"{called} cannot be written ({(error.strerror or str(error)).lower()}); what was finished is kept: "
                "send it to another place, and run the same command again."
            )
    return None


def _discard(stream: IO[str]) -> None:
    """Lets Python's end flush what is left without another error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
