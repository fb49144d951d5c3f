"""Range checks of the schema: one sentence that names the key and its value."""

from typing import Any

from pipeline.errors import SprigError


def require(condition: bool, message: str) -> None:
    if not condition:
        raise SprigError(message)


def positive(section: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value is None or value > 0, f"{section}.{name}={value} must be above 0.")


def fraction(section: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(0 <= value <= 1, f"{section}.{name}={value} must lie in 0..1.")
