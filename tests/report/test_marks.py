"""Escaping in Markdown: what a name holds is shown, not obeyed."""

import pytest
from markdown_it import MarkdownIt

from pipeline.report import marks


@pytest.fixture(scope="module")
def reader() -> MarkdownIt:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"])


HOSTILE = [
    "plain",
    "random_weights",
    "_a_ and a_b_c",
    "a|b",
    r"a\|b \* c",
    "**bold** *it* `code` ``",
    "<b>x</b> <!-- --> a < b <3",
    "&amp; &#60; AT&T",
    "[x](http://e) ![y](z) [a][b] [0.1, 0.2]",
    "~~gone~~ $x$",
    "two\nlines",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_reads_as_the_text_that_it_is(reader, text):
    """By a parser that is not ours: one table, of two cells in a row, with nothing but text inside."""
    tokens = reader.parse(marks.table(["a", "b"], [[text, "end"]]))
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 4 and cells[3].content == "end"
    assert {child.type for child in cells[2].children} <= {"text"}
    read = "".join(child.content for child in cells[2].children)
    assert read == " ".join(text.split())


@pytest.mark.parametrize("line", ["# a", "- a", "+ a", "1. a", "3) a", "> a", "=== a", "--- a", "* a", "```", "    a"])
def test_a_quote_reads_line_by_line(reader, line):
    tokens = reader.parse(marks.quoted(f"first\n{line}"))
    assert [token.type for token in tokens] == [
        "blockquote_open",
        "paragraph_open",
        "inline",
        "paragraph_close",
        "blockquote_close",
    ]
    read = "".join("\n" if child.type == "softbreak" else child.content for child in tokens[2].children)
    assert read == f"first\n{line.strip()}"


def test_cells_are_marked_by_their_type(reader):
    shown = marks.table([""], [[marks.Bold("1 ± 2")], [marks.Code("a `b`")], [marks.Link("runs.csv")]])
    assert shown.splitlines()[2:] == ["| **1 ± 2** |", "| `` a `b` `` |", "| [runs.csv](runs.csv) |"]


def test_a_block_of_commands_ends_where_it_ends(reader):
    (token,) = reader.parse(marks.fenced("sprig a='```'\nsprig b"))
    assert token.type == "fence" and token.content == "sprig a='```'\nsprig b\n"
