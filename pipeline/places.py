"""What to say where the machine refuses a file or a folder."""

import errno
import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from pipeline.errors import SprigError

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")

OUT_OF_REACH = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "is over its quota",
    errno.EROFS: "is read-only",
    errno.EACCES: "is not writable",
    errno.EPERM: "is not writable",
    errno.ENOTDIR: "is not a folder",
    errno.EEXIST: "is not a folder",
    errno.EISDIR: "is a folder, not a file",
    errno.ENOENT: "does not exist and could not be created",
    errno.ENAMETOOLONG: "has a name that is too long",
    errno.ELOOP: "is a link that leads back to itself",
    errno.EINVAL: "is not a name that the file system accepts",
    errno.EIO: "could not be read or written: the disk or the network drive reports an error",
}


def out_of_reach(error: OSError, place: str) -> str:
    """Why a file or folder cannot be used; `place` is what to call it."""
    reason = OUT_OF_REACH.get(error.errno or 0) or f"is out of reach ({(error.strerror or str(error)).lower()})"
    return f"{place} {reason}"


def refuse_unwritable(key: str, folder: Path) -> None:
    """Raises SprigError where no folder can be made, or nothing written to one. `key` is what it was given with."""
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        wrong = f"{place} takes no files: {reason}" if place.is_dir() else f"{place} is not a folder"
        raise SprigError(f"{key}={folder} cannot be made or written ({wrong}): set a different {key}=.") from None


def in_one_sentence(call: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """A function of the API that raises SprigError where the machine refuses a file or folder."""

    @wraps(call)
    def guarded(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Returned:
        try:
            return call(*arguments, **keywords)
        except OSError as error:
            if error.errno is None:  # a library's own, such as the hub's
                raise
            wrong = out_of_reach(error, str(error.filename)) if error.filename else error.strerror
            raise SprigError(f"{wrong}: fix this, or give another path.") from error

    return guarded
