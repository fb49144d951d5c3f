"""How a value of the schema is read from YAML or the command line.

Counts may be written 50k, 70M, 1.5B, 1T, 1e4 or 4096.0; switches take true and false, not other numbers than 0 and 1.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from omegaconf import BooleanNode, IntegerNode, ValueNode
from omegaconf.errors import ValidationError

FACTORS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
DIGITS = 40  # far more than any range allows
_CONVERT = "_validate_and_convert_impl"  # the method of a node that reads a value
_COUNT = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,4})?)([kmbt]?)")


def count(value: Any) -> int:
    """A whole number, with or without a suffix.

    Raises:
        ValueError: it is not one.
    """
    if type(value) is int:
        return value
    match = _COUNT.fullmatch(str(value).strip().replace("_", "").lower()) if type(value) in (str, float) else None
    if match is None or len(match[1]) > DIGITS:
        raise ValueError(f"{value} is not a count")
    number = Decimal(match[1]) * FACTORS[match[2]]
    if number.adjusted() > DIGITS or number != number.to_integral_value():
        raise ValueError(f"{value} is not a whole number")
    return int(number)


@contextmanager
def read_as_written() -> Iterator[None]:
    """Lets the schema's integers and switches be read as above.

    OmegaConf has no hook for its conversions, so the two methods are replaced while Sprig composes, and only then.
    """
    own: dict[type[ValueNode], Callable] = {kind: getattr(kind, _CONVERT) for kind in (IntegerNode, BooleanNode)}
    boolean = own[BooleanNode]
    setattr(IntegerNode, _CONVERT, _integer)
    setattr(BooleanNode, _CONVERT, lambda node, value: boolean(node, _switch(value)))
    try:
        yield
    finally:
        for kind, method in own.items():
            setattr(kind, _CONVERT, method)


def _integer(node: IntegerNode, value: Any) -> int:
    try:
        return count(value)
    except ValueError:
        raise ValidationError("Value '$VALUE' is not a count, such as 50_000, 50k, 70M or 1e4") from None


def _switch(value: Any) -> Any:
    if isinstance(value, int) and value not in (0, 1):
        raise ValidationError("Value '$VALUE' is not true or false")
    return value
