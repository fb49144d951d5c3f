"""Sprig: cut a small language model out of a large one and train it.

>>> import pipeline
>>> summary = pipeline.run(pipeline.compose(["experiment=quickstart", "seed=1"]))

The other names are the steps of the method, on models in memory: see pipeline.api and examples/one_page.py.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pipeline.command_line import composition
from pipeline.config import Config, checked
from pipeline.errors import SprigError
from pipeline.places import in_one_sentence

if TYPE_CHECKING:
    from pipeline.api import (
        SearchSpace,
        distill,
        export,
        extract,
        find,
        importance,
        load_teacher,
        load_text,
        perplexity,
        recover,
    )
    from pipeline.report.schema import Summary

__all__ = [
    "SearchSpace",
    "SprigError",
    "compose",
    "distill",
    "export",
    "extract",
    "find",
    "importance",
    "load_teacher",
    "load_text",
    "perplexity",
    "recover",
    "run",
]

compose = in_one_sentence(composition.compose)


@in_one_sentence
def run(config: Config, overrides: list[str] | None = None) -> "Summary | None":
    """Runs a configuration from `compose` in its folder under `outputs`. Finished results are reused.

    `overrides` are the arguments that it was composed from; the report shows them as a command.

    Returns:
        The summary, as in summary.json; None with plan=true, or if the report is not among the stages.

    Raises:
        SprigError: a path does not exist, values do not fit together, or a stage cannot continue.
    """
    if not isinstance(config, Config) or isinstance(overrides, str):
        raise SprigError('run takes what compose returns, and as overrides a list, such as ["experiment=quickstart"].')
    return run_checked(checked(config), overrides)


def run_checked(config: Config, overrides: list[str] | None) -> "Summary | None":
    """As `run`, of what `compose` has just checked."""
    if "prepare" in config.stages and config.run is None:  # a finished run no longer needs its sources
        for key in ("teacher", "kd_teacher"):
            if (teacher := getattr(config, key)) is not None:
                teacher.require_path(key)
    from pipeline import runner

    return runner.run(config, overrides)


def __getattr__(name: str) -> Any:
    """The names of pipeline.api, imported when they are first used."""
    if name in __all__:
        return getattr(importlib.import_module("pipeline.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
