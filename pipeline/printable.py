"""Text of models and files, without the characters that would steer a terminal, and lists that fit a sentence."""

from collections.abc import Sequence

LISTED, CHARACTERS = 12, 60  # most names of a sentence, and characters of each


def printable(text: str) -> str:
    """What would steer it, such as escapes, is shown as the replacement character; lines and tabs stay."""
    return "".join(each if each in "\n\t" or each.isprintable() else "\ufffd" for each in text)


def one_line(text: str) -> str:
    """What would steer it or begin a line is shown as Python spells it, such as \\n."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def listed(names: Sequence[str]) -> str:
    """The names of a sentence: of many, the first and the number of the others; of a long one, its beginning."""
    shown = [name if len(name) <= CHARACTERS else f"{name[:CHARACTERS]}..." for name in names[:LISTED]]
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(shown) + more
