"""The one exception that users are meant to see."""


class SprigError(Exception):
    """An expected failure: one clear sentence that names the values and the cure. Shown without a traceback."""


class NotFinite(SprigError):
    """A training whose loss is no longer a number."""


class Interrupted(SprigError):
    """A signal ended the run; the same command resumes it."""
