"""The one exception that users are meant to see."""

import pickle

from pipeline.printable import one_line


class SprigError(Exception):
    """An expected failure: one clear sentence that names the values and the cure. Shown without a traceback."""

    def __str__(self) -> str:
        """In one line, whatever characters the names in files have."""
        return one_line(super().__str__())


class NotFinite(SprigError):
    """A training whose loss is no longer a number."""


class Interrupted(SprigError):
    """A signal ended the run; the same command resumes it."""


def reason(error: BaseException) -> str:
    """What an error says, in one line and without a full stop."""
    if isinstance(error, pickle.UnpicklingError):  # torch says how to execute what the file holds
        return "it is not a pickle of tensors alone"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
