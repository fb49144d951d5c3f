"""What a write that failed really failed of: torch and safetensors hide the system's error behind one of their own."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Around the writing of `file`. With torch.save, hand it an open file: given a path, it loses the error's number.

    Raises:
        OSError: the system refused, with its number (a full disk is errno.ENOSPC) and the file's name.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        number = _number(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(file)) from error


def _number(error: BaseException | None) -> int | None:
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            return int(found[1])
        error = error.__context__
    return None
