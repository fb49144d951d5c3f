"""The tokenizer in a GGUF file's metadata: byte-level BPE split in one of llama.cpp's ways, or SentencePiece."""

from pathlib import Path

import tokenizers

from pipeline.errors import SprigError
from pipeline.models import bpe, tokenizer
from pipeline.models.gguf_metadata import Metadata

_CURE = "set teacher.tokenizer to a folder with the model's tokenizer.json"


def write(metadata: Metadata, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json.

    Raises:
        SprigError: the tokenizer is of an unknown kind, or the metadata contradict themselves.
    """
    kind, pre = metadata.text("tokenizer.ggml.model"), metadata.text("tokenizer.ggml.pre", "default")
    tokens = metadata.many("tokenizer.ggml.tokens", str)
    kinds = metadata.many("tokenizer.ggml.token_type", int, [int(bpe.Kind.NORMAL)] * len(tokens))
    if not tokens or len(kinds) != len(tokens):
        raise metadata.wrong("tokenizer.ggml.token_type", f"{len(kinds)} types for {len(tokens)} tokens")
    if kind == "gpt2" and pre in bpe.SPLITS:
        numbers = {token: number for number, token in enumerate(tokens)}
        merges = metadata.many("tokenizer.ggml.merges", str, [])  # the package writes no empty list
        built, begins = bpe.byte_level(numbers, merges, pre, metadata.path, _CURE), pre in bpe.WHOLE_WORDS
    elif kind == "llama":
        built, begins = _sentencepiece(metadata, tokens, kinds), True
    else:
        raise SprigError(
            f"{metadata.path} has a tokenizer of kind {kind}/{pre}. From GGUF files, Sprig reads only llama, and "
            f"gpt2 with {', '.join(bpe.SPLITS)}: {_CURE}."
        )
    bpe.add_special(built, tokens, kinds)
    end, begin = _token(metadata, tokens, "eos"), None
    if metadata.flag("tokenizer.ggml.add_bos_token", begins and "tokenizer.ggml.bos_token_id" in metadata):
        begin = _token(metadata, tokens, "bos")
        bpe.begin_with(built, begin)
    tokenizer.write(built, end, folder, metadata.text("tokenizer.chat_template", None), begin)


def _token(metadata: Metadata, tokens: list[str], which: str) -> str:
    return tokens[_number(metadata, tokens, f"tokenizer.ggml.{which}_token_id")]


def _number(metadata: Metadata, tokens: list[str], key: str, *default: int) -> int:
    number = metadata.whole(key, *default)
    if not 0 <= number < len(tokens):
        raise metadata.wrong(key, f"beyond its {len(tokens)} tokens")
    return number


def _sentencepiece(metadata: Metadata, tokens: list[str], kinds: list[int]) -> tokenizers.Tokenizer:
    scores = metadata.many("tokenizer.ggml.scores", float)
    if len(scores) != len(tokens):
        raise metadata.wrong("tokenizer.ggml.scores", f"{len(scores)} scores for {len(tokens)} tokens")
    unknown = _number(metadata, tokens, "tokenizer.ggml.unknown_token_id", 0)
    prefix = metadata.flag("tokenizer.ggml.add_space_prefix", True)
    return bpe.sentencepiece(bpe.Pieces(tokens, scores, kinds, unknown, prefix, always=True))
