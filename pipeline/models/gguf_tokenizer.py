"""The tokenizer in a GGUF file's metadata: byte-level BPE split in one of llama.cpp's ways, or SentencePiece."""

from pathlib import Path

import gguf
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from pipeline.errors import SprigError
from pipeline.models import tokenizer
from pipeline.models.gguf_metadata import Metadata

CURE = "set teacher.tokenizer to a folder with the model's tokenizer.json"
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
_SPACE = "▁"


def _split(*expressions: str) -> pre_tokenizers.PreTokenizer:
    """Each match of the first expression is a piece, then each of the next within the pieces, and so on."""
    return pre_tokenizers.Sequence(
        [*(pre_tokenizers.Split(Regex(each), "isolated") for each in expressions), _BYTES],
    )


# How text is split before BPE, by llama.cpp's names: those of which there are names to export, and those read alone.
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
_SPLITS = PRE_TOKENIZERS | {
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
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3")  # a piece that is a token needs no merges, and texts begin with BOS
_NORMALIZED = ("qwen2", "deepseek-r1-qwen")


def write(said: Metadata, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json.

    Raises:
        SprigError: the tokenizer is of an unknown kind, or the metadata contradict themselves.
    """
    kind, pre = said.text("tokenizer.ggml.model"), said.text("tokenizer.ggml.pre", "default")
    tokens = said.many("tokenizer.ggml.tokens", str)
    types = said.many("tokenizer.ggml.token_type", int, [int(gguf.TokenType.NORMAL)] * len(tokens))
    if not tokens or len(types) != len(tokens):
        raise said.wrong("tokenizer.ggml.token_type", f"{len(types)} types for {len(tokens)} tokens")
    if kind == "gpt2" and pre in _SPLITS:
        built, begins = _byte_level(said, tokens, pre), pre in _WHOLE_WORDS
    elif kind == "llama":
        built, begins = _sentencepiece(said, tokens, types), True
    else:
        raise SprigError(
            f"{said.path} has a tokenizer of kind {kind}/{pre}, of GGUF files Sprig reads llama, and gpt2 with "
            f"{', '.join(_SPLITS)}: {CURE}."
        )
    for token, each in zip(tokens, types, strict=True):
        if each in (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED):
            built.add_tokens([AddedToken(token, normalized=False, special=each == gguf.TokenType.CONTROL)])
    end, begin = _token(said, tokens, "eos"), None
    if said.flag("tokenizer.ggml.add_bos_token", begins and "tokenizer.ggml.bos_token_id" in said):
        begin = _token(said, tokens, "bos")
        number = said.whole("tokenizer.ggml.bos_token_id")
        built.post_processor = processors.TemplateProcessing(
            single=[begin, "$A"], pair=[begin, "$A", begin, "$B"], special_tokens=[(begin, number)]
        )
    tokenizer.write(built, end, folder, said.text("tokenizer.chat_template", None), begin)


def _token(said: Metadata, tokens: list[str], which: str) -> str:
    key = f"tokenizer.ggml.{which}_token_id"
    number = said.whole(key)
    if not 0 <= number < len(tokens):
        raise said.wrong(key, f"beyond its {len(tokens)} tokens")
    return tokens[number]


def _byte_level(said: Metadata, tokens: list[str], pre: str) -> tokenizers.Tokenizer:
    numbers = {token: number for number, token in enumerate(tokens)}
    merges = []
    for merge in said.many("tokenizer.ggml.merges", str, []):  # the package writes no empty list
        left, space, right = merge.partition(" ")
        if not space or not {left, right, left + right} <= numbers.keys():
            raise SprigError(f"{said.path} merges {merge!r:.80}, which its tokens do not have: {CURE}.")
        merges.append((left, right))
    built = tokenizers.Tokenizer(models.BPE(numbers, merges, ignore_merges=pre in _WHOLE_WORDS))
    if pre in _NORMALIZED:
        built.normalizer = normalizers.NFC()
    built.pre_tokenizer, built.decoder = _SPLITS[pre], decoders.ByteLevel()
    return built


def _sentencepiece(said: Metadata, tokens: list[str], types: list[int]) -> tokenizers.Tokenizer:
    """BPE after SentencePiece: of two neighbours that are a token together, those of the highest score go first."""
    scores = said.many("tokenizer.ggml.scores", float)
    if len(scores) != len(tokens):
        raise said.wrong("tokenizer.ggml.scores", f"{len(scores)} scores for {len(tokens)} tokens")
    numbers = {token: number for number, token in enumerate(tokens)}
    plain = {token for token, kind in zip(tokens, types, strict=True) if kind == gguf.TokenType.NORMAL}
    pairs = []
    for token in plain:
        halves = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        pairs += [
            (-scores[numbers[token]], numbers[token], numbers[left], numbers[right], left, right)
            for left, right in halves
            if left in plain and right in plain
        ]
    unknown = said.whole("tokenizer.ggml.unknown_token_id", 0)
    if not 0 <= unknown < len(tokens):
        raise said.wrong("tokenizer.ggml.unknown_token_id", f"beyond its {len(tokens)} tokens")
    merges = [(left, right) for *_, left, right in sorted(pairs)]
    model = models.BPE(numbers, merges, unk_token=tokens[unknown], fuse_unk=True, byte_fallback=True)
    built = tokenizers.Tokenizer(model)
    prefix = said.flag("tokenizer.ggml.add_space_prefix", True)
    built.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend(_SPACE)] if prefix else []), normalizers.Replace(" ", _SPACE)]
    )
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    built.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    return built
