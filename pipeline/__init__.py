"""Sprig: cut a small language model out of a large one and grow it.

>>> import pipeline
>>> summary = pipeline.run(pipeline.compose(["experiment=quickstart", "seed=1"]))
"""

from multiprocessing import current_process

from pipeline.composition import compose
from pipeline.errors import SprigError

__all__ = ["SprigError", "compose", "run"]


def run(config, overrides=None):
    """Runs a configuration of `compose`; see pipeline.runner.run. Imported late: torch takes seconds.

    Raises:
        SprigError: a script calls it as it is imported; or see there.
    """
    # A spawned process imports the script of its parent first: there it would wait for the lock that the parent holds.
    if getattr(current_process(), "_inheriting", False):  # as multiprocessing asks before it starts a process
        raise SprigError(
            "pipeline.run was called while a worker process imports this script: put the call under "
            "if __name__ == '__main__':."
        )
    from pipeline import runner

    return runner.run(config, overrides)
