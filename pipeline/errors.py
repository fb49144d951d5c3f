"""The one exception that users are meant to see."""


class SprigError(Exception):
    """An expected failure: one clear sentence that names the values and the cure. Shown without a traceback."""
