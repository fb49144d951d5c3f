"""The text of one row: a string, a list of strings, or what lies at `data.text_key` inside a row."""

from typing import Any

PARAGRAPHS = "\n\n"  # joins the texts of a list


class NotText(Exception):
    """What lies at the key is not text; says what it is, and which fields it has. `above`: it lies at this key, which
    is a part of the one that was asked for."""

    def __init__(self, kind: str, fields: list[str] | None = None, above: str = ""):
        super().__init__(kind)
        self.kind, self.fields, self.above = kind, fields or [], above


class Missing(Exception):
    """The row has no such key; says which keys are there, in full."""

    def __init__(self, fields: list[str]):
        super().__init__(", ".join(fields))
        self.fields = fields


def row_text(row: Any, keys: list[str]) -> str | None:
    """The text of a row: the row itself if it is a string, else what `text_of` finds in it. Raises as `text_of`."""
    if isinstance(row, list):
        return _joined([row_text(each, keys) for each in row])
    return row if isinstance(row, str) else text_of(row, keys)


def text_of(value: Any, keys: list[str], above: str = "") -> str | None:
    """The text at the nested `keys` of a value; None if it is null.

    A key that contains dots itself comes first: `meta.text` is the key of that name if the row has it, else the key
    `text` inside `meta`. The texts of a list are joined by blank lines, so `messages.content` is a whole conversation.

    Raises:
        Missing: an object on the way lacks its key.
        NotText: there is something else at the end.
    """
    if isinstance(value, list):
        return _joined([text_of(each, keys, above) for each in value])
    if value is None or (isinstance(value, str) and not keys):
        return value
    if not isinstance(value, dict):
        kind = "text" if isinstance(value, str) else type(value).__name__
        raise NotText(kind, above=above.removesuffix(".") if keys else "")
    if not keys:
        raise NotText("objects", [f"{above}{name}" for name in value])
    for count in range(len(keys), 0, -1):
        if (name := ".".join(keys[:count])) in value:
            return text_of(value[name], keys[count:], f"{above}{name}.")
    raise Missing([f"{above}{name}" for name in value])


def _joined(texts: list[str | None]) -> str:
    return PARAGRAPHS.join(text for text in texts if text is not None)
