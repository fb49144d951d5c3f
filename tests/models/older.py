"""Tokenizers in older files: a SentencePiece model written by its own protocol buffer, and a vocabulary with merges."""

import json
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers.utils import sentencepiece_model_pb2_new as protocol

WORDS = ["▁t", "he", "▁the", "in", "▁a", "th", "▁th", "in▁", "the", "▁▁", "ing", "an", "▁an", "and", "▁and", "nd"]
LETTERS = "▁theinasrdg.,1234567890"


def pieces() -> list[tuple[str, float, int]]:
    """Tokens, scores and kinds, as in Llama 2's: unknown, control, bytes, words by score, letters."""
    control = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    bytes_ = [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    words = [(word, -float(rank), 1) for rank, word in enumerate(WORDS)]
    return [*control, *bytes_, *words, *((letter, -100.0 - rank, 1) for rank, letter in enumerate(LETTERS))]


def sentencepiece(file: Path, **changes) -> None:
    """`changes`: fields of the trainer's or the normalizer's part."""
    model = protocol.ModelProto()
    for text, score, kind in pieces():
        model.pieces.add(piece=text, score=score, type=kind)
    model.trainer_spec.model_type = changes.pop("model_type", 2)
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    for name, value in changes.items():
        setattr(model.normalizer_spec, name, value)
    file.write_bytes(model.SerializeToString())


def vocabulary_and_merges(folder: Path) -> None:
    words = ["th", "the", "Ġthe", "12", "34", "1234"]
    vocabulary = {text: number for number, text in enumerate([*sorted(ByteLevel.alphabet()), *words, "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e\nĠ the\n1 2\n3 4\n12 34\n")
