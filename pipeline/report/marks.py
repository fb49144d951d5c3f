"""Text of a report that is emphasised, and how Markdown shows it: whatever comes from a name or a text is escaped."""

import re

_MARKS = re.compile(
    r"""[\\`*~$|]              # always marks
    | (?<![^\W_])_ | _(?![^\W_])  # an underscore inside a word is none
    | <(?=[a-zA-Z/!?])         # a tag
    | &(?=[\#a-zA-Z])          # an entity
    | \](?=[(\[:])             # a link
    """,
    re.VERBOSE,
)


class Bold(str):
    """A cell or phrase to stand out."""


class Code(str):
    """A command or a path."""


class Link(str):
    """The path of a file next to the page."""


def escaped(text: str) -> str:
    """Plain text as one line of Markdown that shows it as it is."""
    return _MARKS.sub(r"\\\g<0>", " ".join(text.split()))


def markdown(text: str) -> str:
    """A text, marked up as its type says."""
    if isinstance(text, Code):
        line = " ".join(text.split())
        fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
        pad = " " if "`" in line else ""
        return f"{fence}{pad}{line}{pad}{fence}".replace("|", r"\|")
    plain = escaped(text)
    if isinstance(text, Bold):
        return f"**{plain}**"
    return f"[{plain}]({text})" if isinstance(text, Link) else plain


def table(header: list[str], body: list[list[str]]) -> str:
    """A Markdown table."""
    rows = [[*map(markdown, header)], ["---"] * len(header), *([*map(markdown, row)] for row in body)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def quoted(text: str) -> str:
    """A block quote, line by line."""
    return "\n".join(f"> {_opened(escaped(line))}".rstrip() for line in text.splitlines() or [""])


def _opened(line: str) -> str:
    """A line whose first characters would open a heading, a list, a quote or a rule."""
    return re.sub(r"^(\d+)([.)])", r"\1\\\2", re.sub(r"^([#>+=-])", r"\\\1", line))


def fenced(text: str) -> str:
    """A block of shell commands."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}sh\n{text}\n{fence}"
