"""A tokenizer's chat template, as transformers renders it: Jinja in a sandbox, for it is somebody else's program."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn, TypedDict

from jinja2 import TemplateError
from jinja2.ext import Extension
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.errors import SprigError
from pipeline.models.special_tokens import NAMES
from pipeline.models.tokenizer import Tokenizer

_DEFAULT = "default"  # the one of several that is meant for a chat


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %}, with which templates mark what the assistant wrote: it is rendered
    like other text, with variables of its own."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

    def _written(self, caller: Callable[[], str]) -> str:
        return caller()


class Message(TypedDict):
    """`role` is user or assistant."""

    role: str
    content: str


class ChatTemplate:
    """The template of a tokenizer, and its special tokens, which templates name.

    Raises:
        SprigError: the template is not Jinja.
    """

    def __init__(self, source: str, special: dict[str, Any]):
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        self._special = {name: special[name] for name in NAMES if name in special}
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # of Jinja, or of the Python that templates become
            raise SprigError(f"The tokenizer's chat template is not a template ({error}).") from None

    def render(self, messages: list[Message]) -> str:
        """The text of a conversation, up to where the assistant begins to answer.

        Raises:
            SprigError: the template refuses these messages, or does what the sandbox does not let it do.
        """
        try:
            given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
            return self._template.render(self._special | given)
        except Exception as error:  # a template can raise anything, as a program can
            raise SprigError(f"The tokenizer's chat template cannot be used ({error}).") from None


def of(tokenizer: Tokenizer) -> ChatTemplate | None:
    """The one that the tokenizer has for chats, if any.

    Raises:
        SprigError: it is not one.
    """
    special = tokenizer.special_tokens()
    found = special.get("chat_template")
    if isinstance(found, list):
        found = next((each["template"] for each in found if each["name"] == _DEFAULT), None)
    return None if found is None else ChatTemplate(found, special)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without Jinja's escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
