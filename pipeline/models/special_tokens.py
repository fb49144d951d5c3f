"""What Sprig keeps of a teacher's tokenizer_config.json and generation_config.json.

Both lists are short on purpose: other keys of these files (auto_map, for one) name code that transformers would run.
"""

import reprlib
from pathlib import Path
from typing import Any, TypedDict, cast

import tokenizers

from pipeline.errors import SprigError

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_NUMBERS = ("bos_token_id", "eos_token_id", "pad_token_id")


class Numbers(TypedDict, total=False):
    """The numbers of special tokens. Several tokens may end a text."""

    bos_token_id: int
    eos_token_id: int | list[int]
    pad_token_id: int


def named(settings: dict[str, Any], tokenizer: tokenizers.Tokenizer, file: Path) -> dict[str, Any]:
    """The special tokens in a tokenizer_config.json, `settings`, that the tokenizer has, as strings, and the
    chat template.

    A special token that the tokenizer does not have would become a new one, beyond the embedding.

    Raises:
        SprigError: a value is of the wrong type.
    """
    kept: dict[str, Any] = {}
    for name in NAMES:
        token = content(settings.get(name))
        if token is not None and not isinstance(token, str):
            raise SprigError(f"{file} gives {reprlib.repr(token)} as {name}, which must be a text: correct it.")
        if token is not None and tokenizer.token_to_id(token) is not None:
            kept[name] = token
    if additional := _additional(settings, tokenizer, file):
        kept["additional_special_tokens"] = additional
    if (template := settings.get("chat_template")) is not None:
        kept["chat_template"] = _chat_template(template, file)
    return kept


def numbered(settings: dict[str, Any], tokenizer: tokenizers.Tokenizer) -> Numbers:
    """The ids in a generation_config.json or config.json, `settings`, of tokens that the tokenizer has.
    Several tokens may end a text."""
    kept: dict[str, Any] = {}
    for name in _NUMBERS:
        given = settings.get(name)
        numbers = [each for each in (given if isinstance(given, list) else [given]) if _is_token(each, tokenizer)]
        if name == "eos_token_id" and len(numbers) > 1:
            kept[name] = numbers
        elif numbers:
            kept[name] = numbers[0]
    return cast(Numbers, kept)


def content(token: Any) -> Any:
    """The text of a token, which may lie in an object with its flags."""
    return token.get("content") if isinstance(token, dict) else token


def _is_token(number: Any, tokenizer: tokenizers.Tokenizer) -> bool:
    # Larger ones overflow in the library.
    return type(number) is int and 0 <= number < 2**31 and tokenizer.id_to_token(number) is not None


def _additional(settings: dict[str, Any], tokenizer: tokenizers.Tokenizer, file: Path) -> list[str]:
    """transformers 4 has a list of them, and named ones under `extra_special_tokens`, where 5 has all."""
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    kept: dict[str, None] = {}
    for name in ("additional_special_tokens", "extra_special_tokens"):
        given = settings.get(name) or []
        given = list(given.values()) if isinstance(given, dict) else given
        tokens: list[Any] = [content(token) for token in given] if isinstance(given, list) else [None]
        if not all(isinstance(token, str) for token in tokens):
            raise SprigError(f"{file} gives {reprlib.repr(given)} as {name}, which must list texts: correct it.")
        kept |= dict.fromkeys(token for token in tokens if token in special)
    return list(kept)


def _chat_template(template: Any, file: Path) -> str | list[dict[str, str]]:
    if isinstance(template, str):
        return template
    try:
        several = [{key: each[key] for key in ("name", "template")} for each in template]
    except (TypeError, KeyError):
        several = [{}]
    if not all(isinstance(value, str) for each in several for value in each.values()) or {} in several:
        raise SprigError(
            f"{file} has a chat_template that is neither a text nor a list of names and templates: correct it."
        )
    return several
