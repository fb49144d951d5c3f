"""Tokenizers in the files that came before tokenizer.json: vocab.json with merges.txt, and SentencePiece's
tokenizer.model."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tokenizers

from pipeline.errors import SprigError
from pipeline.models import bpe, special_tokens

VOCABULARY, MERGES, MODEL = "vocab.json", "merges.txt", "tokenizer.model"
_CURE = "save it as tokenizer.json, AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers"
# How the classes of transformers split text, and the classes that a model's family uses.
_CLASSES = {"GPT2": "gpt-2", "GPTNeoX": "gpt-2", "Qwen2": "qwen2"}
_FAMILIES = {"gpt_neox": "GPTNeoX", "qwen2": "Qwen2", "qwen3": "Qwen2"}
_BPE = 2  # SentencePiece's model type


def files(folder: Path) -> list[Path]:
    """Of an older tokenizer, the files that determine it; empty where the folder has none."""
    for names in ((VOCABULARY, MERGES), (MODEL,)):
        if all((folder / name).is_file() for name in names):
            more = ("added_tokens.json", "special_tokens_map.json")
            return [folder / name for name in (*names, *more) if (folder / name).is_file()]
    return []


def build(folder: Path, read_json: Callable[[Path], dict[str, Any]]) -> tokenizers.Tokenizer:
    """The tokenizer of these files.

    Raises:
        SprigError: it is unreadable, or of a kind that Sprig cannot tell for certain.
    """
    settings = read_json(folder / "tokenizer_config.json")
    if (folder / VOCABULARY).is_file() and (folder / MERGES).is_file():
        built = _vocabulary_and_merges(folder, settings, read_json)
    else:
        built = _sentencepiece(folder / MODEL, settings)
    _add(built, settings, read_json(folder / "added_tokens.json"), folder)
    begin = special_tokens.content(settings.get("bos_token"))
    begin = "<s>" if begin is None and not (folder / VOCABULARY).is_file() else begin
    adds = settings.get("add_bos_token", not (folder / VOCABULARY).is_file())
    if adds is True and isinstance(begin, str) and built.token_to_id(begin) is not None:
        bpe.begin_with(built, begin)
    return built


def _vocabulary_and_merges(
    folder: Path, settings: dict[str, Any], read_json: Callable[[Path], dict[str, Any]]
) -> tokenizers.Tokenizer:
    family = read_json(folder / "config.json").get("model_type")
    given = settings.get("tokenizer_class") or (_FAMILIES.get(family, family) if isinstance(family, str) else None)
    name = given.removesuffix("Fast").removesuffix("Tokenizer") if isinstance(given, str) else None
    if name not in _CLASSES:
        raise SprigError(
            f"{folder} has {VOCABULARY} of tokenizer_class {given!r:.80}, which Sprig cannot read: {_CURE}."
        )
    if settings.get("add_prefix_space", False) is not False:
        raise SprigError(f"{folder} has a tokenizer with add_prefix_space, which Sprig cannot read: {_CURE}.")
    numbers = read_json(folder / VOCABULARY)
    if not numbers or any(type(each) is not int or not 0 <= each < 2**24 for each in numbers.values()):
        raise SprigError(f"{folder / VOCABULARY} does not map tokens to numbers: fetch it again.")
    try:
        lines = (folder / MERGES).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise SprigError(f"{folder / MERGES} is not UTF-8 ({error}): fetch it again.") from None
    merges = [line for line in lines if line and not line.startswith("#version")]
    return bpe.byte_level(numbers, merges, _CLASSES[name], folder / MERGES, "fetch it again")


def _sentencepiece(file: Path, settings: dict[str, Any]) -> tokenizers.Tokenizer:
    tokens, scores, kinds, model_type = [], [], [], 1
    normalizer: dict[int, Any] = {}
    try:
        for number, value in _fields(file.read_bytes()):
            if number == 1:
                piece = dict(_fields(value))
                tokens.append(piece[1].decode("utf-8"))
                scores.append(struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0)
                kinds.append(piece.get(3, int(bpe.Kind.NORMAL)))
            elif number == 2:
                model_type = dict(_fields(value)).get(3, 1)
            elif number == 3:
                normalizer = dict(_fields(value))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise SprigError(f"{file} is truncated or not a SentencePiece model ({error}): fetch it again.") from None
    unknown = [number for number, kind in enumerate(kinds) if kind == bpe.Kind.UNKNOWN]
    # Kind 1 is Unigram; text that is normalised, or rid of double spaces (on unless switched off), is another text.
    if model_type != _BPE or len(unknown) != 1 or normalizer.get(2) or normalizer.get(4, 1):
        raise SprigError(f"{file} is not a plain BPE model of SentencePiece, the only kind that Sprig reads: {_CURE}.")
    prefix = bool(normalizer.get(3, 1)) and settings.get("add_prefix_space", True) is not False
    always = settings.get("legacy", True) is not False  # else as transformers: a leading space stands for the prefix
    built = bpe.sentencepiece(bpe.Pieces(tokens, scores, kinds, unknown[0], prefix, always))
    bpe.add_special(built, tokens, kinds)
    return built


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a protocol buffer's fields: whole numbers, or bytes.

    (https://protobuf.dev/programming-guides/encoding: a key is the field's number and 3 bits of its kind.)
    """
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = content[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(content):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        length = {1: 8, 5: 4}.get(key & 7)
        if length is None:
            if key & 7 != 2:
                raise ValueError(f"a field of kind {key & 7}")
            length = varint()
        if position + length > len(content):
            raise ValueError(f"a field ends at byte {position + length:,}")
        yield key >> 3, content[position : position + length]
        position += length


def _add(built: tokenizers.Tokenizer, settings: dict[str, Any], added: dict[str, Any], folder: Path) -> None:
    """Tokens that were added to the vocabulary, in the order of their numbers, and special ones that are in it."""
    given = dict(added)
    named = [special_tokens.content(settings.get(name)) for name in special_tokens.NAMES]
    special = {token for token in named if isinstance(token, str)}
    decoder = settings.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict) or not all(isinstance(each, dict) for each in decoder.values()):
        raise SprigError(
            f"{folder / 'tokenizer_config.json'} has no tokens by number in added_tokens_decoder: correct it."
        )
    for number, token in decoder.items():
        text = token.get("content")
        if isinstance(text, str) and number.isdecimal():
            given[text] = int(number)
            special |= {text} if token.get("special") else set()
    additional = settings.get("additional_special_tokens")
    contents = map(special_tokens.content, additional) if isinstance(additional, list) else ()
    special |= {token for token in contents if isinstance(token, str)}
    if not all(type(number) is int for number in given.values()):
        raise SprigError(f"{folder / 'added_tokens.json'} does not map tokens to numbers: fetch it again.")
    for token, number in sorted(given.items(), key=lambda item: item[1]):
        kind = bpe.Kind.CONTROL if token in special else bpe.Kind.USER_DEFINED
        bpe.add_special(built, [token], [kind])
        if built.token_to_id(token) != number:
            raise SprigError(
                f"{folder} gives its added token {token!r:.80} number {number}, where the vocabulary ends at "
                f"{built.get_vocab_size() - 1}: {_CURE}."
            )
    for token in sorted(token for token in special if built.token_to_id(token) is not None):
        bpe.add_special(built, [token], [bpe.Kind.CONTROL])
