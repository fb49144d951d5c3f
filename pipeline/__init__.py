"""Sprig: cut a small language model out of a large one and grow it.

>>> import pipeline
>>> summary = pipeline.run(pipeline.compose(["experiment=quickstart", "seed=1"]))
"""

from pipeline.composition import compose
from pipeline.errors import SprigError

__all__ = ["SprigError", "compose", "run"]


def run(config, overrides=None):
    """Runs a configuration of `compose`; see pipeline.stages.graph.run. Imported late: torch takes seconds."""
    from pipeline.stages import graph

    return graph.run(config, overrides)
