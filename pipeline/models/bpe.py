"""Byte-pair tokenizers built from vocabularies and merges: byte-level ones by how they split, and SentencePiece's."""

from dataclasses import dataclass
from enum import IntEnum

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from pipeline.errors import SprigError

_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
_SPACE = "▁"


def _split(*expressions: str) -> pre_tokenizers.PreTokenizer:
    """Each match of the first expression is a piece, then each of the next within the pieces, and so on."""
    return pre_tokenizers.Sequence(
        [*(pre_tokenizers.Split(Regex(each), "isolated") for each in expressions), _BYTES],
    )


# How text is split before BPE, by llama.cpp's names: those that exports are written in, and those that are read alone.
PRE_TOKENIZERS = {
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
}
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _split(_WORDS.replace("DIGITS", r"\p{N}{1,3}"))
_QWEN2 = _split(_WORDS.replace("DIGITS", r"\p{N}"))
SPLITS = PRE_TOKENIZERS | {
    "default": _split(
        r"[\p{P}\$\+<=>\^~\|]+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
        r"\p{N}+",
        r"[0-9][0-9][0-9]",
    ),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
}
WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3")  # a piece that is a token needs no merges, and texts begin with BOS
_NORMALIZED = ("qwen2", "deepseek-r1-qwen")


class Kind(IntEnum):
    """SentencePiece's, and llama.cpp's, of a token."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Pieces:
    """A SentencePiece model of kind BPE. `always`: a space comes before each part of a text that special tokens
    separate, not only before the whole."""

    tokens: list[str]
    scores: list[float]
    kinds: list[int]
    unknown: int
    prefix: bool
    always: bool


def byte_level(numbers: dict[str, int], merges: list[str], pre: str, source: object, cure: str) -> tokenizers.Tokenizer:
    """A tokenizer whose `merges` are pairs of tokens with a space between; `pre` is one of SPLITS.

    Raises:
        SprigError: a merge is of tokens that do not exist; names the `source` and the `cure`.
    """
    pairs = []
    for merge in merges:
        left, space, right = merge.partition(" ")
        if not space or not {left, right, left + right} <= numbers.keys():
            raise SprigError(f"{source} merges {merge!r:.80}, which its tokens do not have: {cure}.")
        pairs.append((left, right))
    built = tokenizers.Tokenizer(models.BPE(numbers, pairs, ignore_merges=pre in WHOLE_WORDS))
    if pre in _NORMALIZED:
        built.normalizer = normalizers.NFC()
    built.pre_tokenizer, built.decoder = SPLITS[pre], decoders.ByteLevel()
    return built


def sentencepiece(pieces: Pieces) -> tokenizers.Tokenizer:
    """Of two neighbours that are a token together, those of the highest score go first: merges in that order."""
    numbers = {token: number for number, token in enumerate(pieces.tokens)}
    plain = {token for token, kind in zip(pieces.tokens, pieces.kinds, strict=True) if kind == Kind.NORMAL}
    pairs = []
    for token in plain:
        halves = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        pairs += [
            (-pieces.scores[numbers[token]], numbers[token], numbers[left], numbers[right], left, right)
            for left, right in halves
            if left in plain and right in plain
        ]
    merges = [(left, right) for *_, left, right in sorted(pairs)]
    unknown = pieces.tokens[pieces.unknown]
    built = tokenizers.Tokenizer(models.BPE(numbers, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    if pieces.always:
        prefix = [normalizers.Prepend(_SPACE)] if pieces.prefix else []
        built.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", _SPACE)])
    else:
        scheme = "first" if pieces.prefix else "never"
        built.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme, split=False)
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    built.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if pieces.prefix else [])])
    return built


def add_special(built: tokenizers.Tokenizer, tokens: list[str], kinds: list[int]) -> None:
    """Tokens that are found in a text before anything else; control tokens may be left out when decoding."""
    # In one call: each builds its search for all tokens again, and Gemma has 6,000.
    built.add_tokens(
        [
            AddedToken(token, normalized=False, special=kind == Kind.CONTROL)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in (Kind.CONTROL, Kind.USER_DEFINED)
        ]
    )


def begin_with(built: tokenizers.Tokenizer, token: str) -> None:
    """Texts begin with the token where special tokens are asked for."""
    built.post_processor = processors.TemplateProcessing(
        single=[token, "$A"], pair=[token, "$A", token, "$B"], special_tokens=[(token, built.token_to_id(token))]
    )
