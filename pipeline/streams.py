"""Standard input, output and error, as odd shells and services leave them."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ON_MISFITS = {"stdin": "replace", "stdout": "backslashreplace", "stderr": "backslashreplace"}


@contextmanager
def usable() -> Iterator[None]:
    """Closed streams are empty, and no character fails. If the reader of the output has ended, as in `sprig runs |
    head -1`, the process ends without a message."""
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes what is left
        sys.exit(1)
