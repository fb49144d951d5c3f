"""The values of a sweep's axes, as Hydra's overrides list them."""

from collections import Counter
from collections.abc import Iterable
from math import prod

from hydra.core.override_parser.types import Override, RangeSweep, Sweep

from pipeline.errors import SprigError

MOST = 10_000  # jobs of a sweep: each is a run with a folder and minutes of work


def values(override: Override) -> list[str]:
    """The values of an axis; of an override that is not one, its only value, or nothing where that is empty.

    Raises:
        SprigError: the override does not list its values, lists too many, or one of them twice.
    """
    word, value = typed(override), override.value()
    if not override.is_sweep_override():
        return [each for each in [word.partition("=")[2]] if each]
    if override.is_interval_sweep():
        raise SprigError(
            f"{word} lists no values, which a sweep of all combinations needs: write them, a,b or range(a,b)."
        )
    if isinstance(value, RangeSweep):
        _check_range(word, value)
    elif any(isinstance(each, Sweep) for each in getattr(value, "list", [])):
        raise SprigError(f"{word} holds a list of values within another: write one list, a,b,c.")
    listed = list(override.sweep_string_iterator())
    if len(set(listed)) < len(listed):
        twice = Counter(listed).most_common(1)[0][0]
        raise SprigError(f"{word} names {twice} twice: leave one of them out.")
    return listed


def typed(override: Override) -> str:
    """As it was typed."""
    assert override.input_line is not None  # the parser keeps it
    return override.input_line


def check_number(axes: Iterable[list[str]]) -> None:
    """Raises SprigError where the axes have too many combinations."""
    if (jobs := prod(map(len, axes))) > MOST:
        raise SprigError(
            f"These axes have {jobs:,} combinations, and a sweep can have at most {MOST:,}: give them fewer values."
        )


def _check_range(word: str, value: RangeSweep) -> None:
    start, stop, step = value.start or 0, value.stop or 0, value.step
    if step == 0:
        raise SprigError(f"{word} has a step of 0: give one that leads from {start} to {stop}.")
    if (number := (stop - start) / step) > MOST:
        raise SprigError(f"{word} has {number:,.0f} values, and a sweep can have at most {MOST:,} jobs: give it fewer.")
