"""A GGUF file's metadata, each value checked to be of the kind that it is used as."""

import reprlib
from pathlib import Path
from typing import Any

from pipeline.errors import SprigError

_REQUIRED = object()


class Metadata:
    """Raises SprigError where a key is missing, or of another type than what it is asked for as."""

    def __init__(self, path: Path, values: dict[str, Any]):
        self.path, self.values = path, values

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def _get(self, key: str, default: Any, called: str, kinds: tuple[type, ...]) -> Any:
        value = self.values.get(key, default)
        if value is _REQUIRED:
            raise SprigError(f"{self.path} has no {key} in its metadata: it is not a complete model, use another file.")
        if key in self.values and type(value) not in kinds:
            raise self.wrong(key, f"not {called}")
        return value

    def wrong(self, key: str, why: str) -> SprigError:
        return SprigError(
            f"{self.path} says {key}={reprlib.repr(self.values.get(key))}, {why}: use another file, or "
            "teacher.source=hf."
        )

    def text(self, key: str, default: Any = _REQUIRED) -> str:
        return self._get(key, default, "a text", (str,))

    def flag(self, key: str, default: Any = _REQUIRED) -> bool:
        return self._get(key, default, "true or false", (bool,))

    def number(self, key: str, default: Any = _REQUIRED) -> float:
        """A whole number or a float."""
        return self._get(key, default, "a number", (int, float))

    def whole(self, key: str, default: Any = _REQUIRED) -> int:
        """A whole number. Files may have one for each layer: then all have to be the same."""
        value = self._get(key, default, "a whole number", (int, list))
        if not isinstance(value, list):
            return value
        if not value or any(type(each) is not int or each != value[0] for each in value):
            raise self.wrong(key, "which differs from layer to layer")
        return value[0]

    def many(self, key: str, kind: type, default: Any = _REQUIRED) -> list[Any]:
        """A list whose members are all of this type."""
        values = self._get(key, default, "a list", (list,))
        if any(type(each) is not kind for each in values):
            raise self.wrong(key, f"not a list of {kind.__name__} alone")
        return values
