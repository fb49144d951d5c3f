"""Ranges of the schema: declared with each field, checked in one place, refused in one sentence.

A field says what it takes through `whole`, `real`, `share`, `label` or `location`; `check` reads that.
What depends on several keys is checked by the sections' own `__post_init__`.
"""

import math
import re
import unicodedata
from dataclasses import MISSING, Field, dataclass, field
from typing import Any, TypedDict

from pipeline.errors import SprigError
from pipeline.layout import LATEST, SWEEPS

# Folders of outputs that hold no runs of that name.
RESERVED = (LATEST, "artifacts", SWEEPS, "comparisons")


class Ends(TypedDict):
    """The range of a key that several sections have."""

    low: float
    high: float


TOKENS = 10**15
BLOCKS = 10**7
LEARNING_RATE: Ends = {"low": 1e-12, "high": 1e9}  # a large one diverges, which the training says
TEMPERATURE: Ends = {"low": 0.01, "high": 100}
LARGEST_SEED = (1 << 64) - 1


@dataclass(frozen=True)
class Range:
    """The numbers from low to high; `open_low` and `open_high` leave an end out."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        whole_numbers = isinstance(self.low, int) and isinstance(self.high, int) and self.high < 10**20
        low, high = (f"{end:_}" if whole_numbers else f"{end:g}" for end in (self.low, self.high))
        if not (self.open_low or self.open_high):
            return f"lie in {low}..{high}"
        return (
            f"be {'above' if self.open_low else 'at least'} {low} and {'below' if self.open_high else 'at most'} {high}"
        )


def _declared(default: Any, **metadata: Any) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def whole(default: Any = MISSING, *, low: int = 1, high: int = 10**6) -> Any:
    """A field of whole numbers, or of a list of them."""
    return _declared(default, range=Range(low, high))


def real(default: Any = MISSING, *, low: float = 0.0, high: float, open_low: bool = False) -> Any:
    """A field of finite floats, or of a list of them."""
    return _declared(default, range=Range(low, high, open_low))


def share(default: Any = MISSING, *, open_low: bool = False, open_high: bool = False) -> Any:
    """A field of shares, 0 to 1."""
    return _declared(default, range=Range(0, 1, open_low, open_high))


def label(default: Any = MISSING) -> Any:
    """A field of one line of text that is not blank."""
    return _declared(default, name=True)


def location(default: Any = MISSING) -> Any:
    """A field of a file or folder of the user's."""
    return _declared(default, path=True, name=True)


def immaterial(default: Any) -> Any:
    """A field, or a default of one, that changes at most a result's rounding: how work is laid out, what is kept, where
    it goes."""
    return _marked(default, immaterial=True)


def later(default: Any) -> Any:
    """A field that came after runs whose fingerprints stay: no part of a recipe while it has its default."""
    return _marked(default, later=True)


def used_by(default: Any, *strategies: str) -> Any:
    """A field of the search that only these strategies read."""
    return _marked(default, strategies=strategies)


def _marked(default: Any, **metadata: Any) -> Any:
    declared = default if isinstance(default, Field) else field(default=default)
    return field(
        default=declared.default,
        default_factory=declared.default_factory,
        metadata={**declared.metadata, **metadata},
    )


def require(condition: bool, message: str) -> None:
    if not condition:
        raise SprigError(message)


def check(key: str, value: Any, metadata: Any) -> None:
    """Holds one value against what its field declares, and every value against what no field can take.

    Raises:
        SprigError: it is out of range, not finite, or a text that cannot be written down.
    """
    if isinstance(value, dict):
        for inner, each in value.items():
            check(f"{key}.{inner}", each, {})
    elif isinstance(value, list):
        for each in value:
            check(key, each, metadata)
    elif isinstance(value, str):
        _check_text(key, value, metadata)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _check_number(key, value, metadata.get("range"))


def folder_name(key: str, name: str) -> None:
    """A name that becomes one folder directly in another: no path, nothing that a shell or file system reads as more,
    and none that Sprig uses itself."""
    require(
        re.fullmatch(r"\w[\w.+=@-]*", name) is not None and len(name.encode()) <= 100 and not name.endswith("."),
        f"{key}={name!r} names a folder: use at most 100 letters, digits and the signs . _ - + = @, beginning with a "
        "letter or digit.",
    )
    require(
        name.lower() not in RESERVED,
        f"{key}={name} is a folder of Sprig's own ({', '.join(RESERVED)}): choose another name.",
    )


def _check_number(key: str, value: float, allowed: Range | None) -> None:
    ranged = f" must {allowed}." if allowed else " is not a finite number."
    require(math.isfinite(value) and (allowed is None or value in allowed), f"{key}={value}{ranged}")


def _check_text(key: str, value: str, metadata: Any) -> None:
    shown = value.encode("utf-8", "backslashreplace").decode()
    require(shown == value and "\0" not in value, f"{key}={shown!r} is not valid UTF-8 text: give it in UTF-8.")
    if metadata.get("name"):
        require(bool(value.strip()), f"{key} is blank: give it a text, or leave it out.")
        one_line = not any(unicodedata.category(each) == "Cc" for each in value)
        require(one_line, f"{key}={value!r} must be one line without control characters.")
