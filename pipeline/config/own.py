"""What users bring by its import path: a strategy, a fitness, a space."""

import difflib
import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.errors import SprigError, reason


def is_own(name: str) -> bool:
    """Whether a name is an import path."""
    return "." in name


def known_or_own(key: str, value: str, known: type[StrEnum], example: str) -> None:
    """Holds a name against the choices. An import path passes, and is resolved when it is used.

    Raises:
        SprigError: it is neither.
    """
    names = [str(each) for each in known]
    if value in names or re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", value):
        return
    near = difflib.get_close_matches(value, names, n=1)
    hint = f": did you mean {near[0]}?" if near else "."
    raise SprigError(
        f"{key}={value!r} is none of {', '.join(names)}{hint} To use your own, give its import path, "
        f"{key}=my_module.{example}."
    )


@contextmanager
def running(key: str, path: str) -> Iterator[None]:
    """Turns what the user's own code raises into one sentence."""
    try:
        yield
    except (SprigError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU
            raise
        said = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")
        raise SprigError(f"{key}={path} raised {said}. Correct it (debug=true shows where it happened).") from error


def imported(key: str, path: str) -> Any:
    """The object of an import path.

    Raises:
        SprigError: it cannot be imported.
    """
    parts = path.split(".")
    try:
        found = import_module(parts[0])
        for end, name in enumerate(parts[1:], start=1):
            if not hasattr(found, name) and not _is_module(".".join(parts[: end + 1])):
                near = difflib.get_close_matches(name, dir(found), n=1)
                hint = f"did you mean {near[0]}?" if near else "correct the name."
                raise SprigError(f"{key}={path} cannot be imported: {'.'.join(parts[:end])} has no {name}; {hint}")
            found = getattr(found, name)
    except SprigError:
        raise
    except Exception as error:  # whatever the module raises
        raise SprigError(f"{key}={path} cannot be imported: {reason(error)}. Is its folder on PYTHONPATH?") from error
    return found


def _is_module(path: str) -> bool:
    """Imports a module; what it imports itself is there."""
    try:
        import_module(path)
    except ModuleNotFoundError as error:
        if not f"{path}.".startswith(f"{error.name}."):
            raise
        return False
    return True


def code_hash(key: str, path: str) -> str:
    """SHA-256 of the files in which the object of an import path is named and defined, for fingerprints: an edit makes
    other results. What these modules import in turn is not in it.

    Raises:
        SprigError: as `imported`.
    """
    found = imported(key, path)
    parts = path.split(".")
    named = next(name for end in range(len(parts), 0, -1) if (name := ".".join(parts[:end])) in sys.modules)
    modules = {named, found.__module__} if inspect.isroutine(found) or inspect.isclass(found) else {named}
    files = sorted({str(getattr(sys.modules.get(name), "__file__", None)) for name in modules if name})
    there = [Path(file) for file in files if Path(file).is_file()]
    return hashlib.sha256(b"".join(file.read_bytes() for file in there)).hexdigest()


def function(key: str, path: str) -> Callable:
    """The function of an import path.

    Raises:
        SprigError: it cannot be imported, or called.
    """
    if not callable(found := imported(key, path)):
        raise SprigError(f"{key}={path} is a {type(found).__name__}, which cannot be called: name a function.")
    return found
