"""How values are written for Hydra, whose grammar knows only ASCII outside quotes."""

import re

from hydra.core.override_parser.types import Quote, QuotedString

# A text that Hydra reads as it stands.
_PLAIN = re.compile(r"(?!(?i:true|false|null|nan|inf)$)[A-Za-z/][\w./-]*", re.ASCII)
_PART = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^\s,:=(){}\[\]'"][^,:=(){}\[\]'"]*""", re.DOTALL)


def quoted(text: str) -> str:
    """A text as one word, in quotes unless Hydra reads it as it stands."""
    return text if _PLAIN.fullmatch(text) else QuotedString(text, Quote.single).with_quotes()


def quoted_parts(value: str) -> str:
    """A value with quotes around those parts, such as the items of a list, that are not ASCII and have none."""
    return value if value.isascii() else _PART.sub(lambda part: _quoted_part(part[0]), value)


def _quoted_part(part: str) -> str:
    if part.isascii() or part[0] in "'\"":
        return part
    text = part.rstrip()
    return f"{quoted(text)}{part[len(text) :]}"
