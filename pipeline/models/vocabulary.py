"""A teacher with the part of its vocabulary that a text uses most: its tokenizer's files, and its model's rows.

A token counts as used whenever the tokenizer makes it: as a token of the text, or on the way to a longer one. So it is
used at least as often as each token that is merged from it, and the most used ones are closed: all that a kept token is
merged from is kept too. A byte-level BPE merges bytes, which always stay. One with fall-back to bytes, as SentencePiece
has it, merges characters: one that is not kept becomes its bytes.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tokenizers
import torch
from litgpt import GPT, Config
from tokenizers import pre_tokenizers

from pipeline.errors import SprigError
from pipeline.models import special_tokens, student
from pipeline.models.families import is_tied
from pipeline.models.tokenizer import read_json, write_json
from pipeline.models.weights import EMBEDDING, HEAD, HEAD_BIAS
from pipeline.subnetwork.architecture import Architecture

KEY = "space.vocabulary"
_FILE, _NAMES, _NUMBERS = "tokenizer.json", "tokenizer_config.json", "generation_config.json"
_FALL_BACK = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_SPACE = "▁"  # SentencePiece's; its bytes would not be read back as a space
# Gemma's rows without a use, 6,242 of them.
_RESERVED = re.compile(r"<unused\d+>")
Pair = tuple[str, str]
_Described = TypeVar("_Described", Config, Architecture)


class Vocabulary:
    """The entries of a BPE, byte-level or with byte fall-back, in a folder that pipeline.models.tokenizer.copy wrote.

    Raises:
        SprigError: the tokenizer is of another kind.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        # As the library writes it, which knows older forms of the file.
        built = tokenizers.Tokenizer.from_file(str(folder / _FILE))
        built.no_padding()
        built.no_truncation()
        self._plain: dict[str, Any] = json.loads(built.to_str())
        self._model = self._plain["model"]
        self._falls_back = bool(self._model.get("byte_fallback"))
        if not _is_of_bytes(self._plain):
            raise SprigError(
                f"{KEY} needs a byte-level BPE, or a BPE that falls back to bytes, but this teacher's tokenizer is "
                f"neither ({self._model['type']}): set {KEY}=null, or choose another teacher."
            )
        self._numbers: dict[str, int] = self._model["vocab"]
        self._merges: list[Pair] = [(left, right) for left, right in self._model["merges"]]
        self.size = len(built.get_vocab(with_added_tokens=True))

    @cached_property
    def always(self) -> set[int]:
        """The tokens that stay whatever a text uses: the bytes, of which SmolLM2's lacks some, those that were added to
        the vocabulary and are not reserved, and those that the files name, such as the one that ends a text."""
        spelled = {*_FALL_BACK, _SPACE} if self._falls_back else pre_tokenizers.ByteLevel.alphabet()
        found = {self._numbers[each] for each in spelled if each in self._numbers}
        found |= {each["id"] for each in self._plain["added_tokens"] if not _RESERVED.fullmatch(each["content"])}
        found |= _around(self._plain["post_processor"])
        names = read_json(self.folder / _NAMES)
        named = [self._model["unk_token"], *(names.get(name) for name in special_tokens.NAMES)]
        found |= {self._numbers[each] for each in named if each in self._numbers}
        for number in read_json(self.folder / _NUMBERS).values():
            found |= set(number) if isinstance(number, list) else {number}
        return found

    @cached_property
    def _halves(self) -> dict[int, tuple[int, ...]]:
        """The two tokens that each token is merged from, of those that merges lead to; none of a character that falls
        back to its bytes."""
        ranks = {pair: rank for rank, pair in reversed(list(enumerate(self._merges)))}
        pairs = ((number, _last_merge(token, ranks)) for token, number in self._numbers.items())
        characters = (number for token, number in self._numbers.items() if self._falls_back and len(token) == 1)
        halves: dict[int, tuple[int, ...]] = dict.fromkeys(characters, ())
        halves.update((number, (self._numbers[pair[0]], self._numbers[pair[1]])) for number, pair in pairs if pair)
        return halves

    def most_used(self, counts: np.ndarray, size: int) -> list[int]:
        """The numbers of the `size` tokens to keep, ascending: those that always stay, and the most used others.

        Args:
            counts: how often each token occurs in a text, (at least as many as there are tokens,).

        Raises:
            SprigError: more always stay, or merges lead to fewer.
        """
        if size < len(self.always):
            raise SprigError(too_small(size, len(self.always)))
        length = {number: len(token) for token, number in self._numbers.items()}
        used, order = counts.astype(np.int64), {number: number for number in length}
        by_length = sorted(self._halves, key=lambda number: length[number])
        for number in reversed(by_length):
            for half in self._halves[number]:
                used[half] += used[number]
        for number in by_length:
            order[number] = max([number, *(order[half] for half in self._halves[number])])
        # Of equally used tokens, one comes after its parts: that is what `order` and length are for.
        others = sorted(
            (number for number in by_length if number not in self.always),
            key=lambda number: (-used[number], order[number], length[number]),
        )
        if size > len(self.always) + len(others):
            raise SprigError(
                f"{KEY}={size:,}, but the merges of the teacher's tokenizer can produce only "
                f"{len(self.always) + len(others):,} of its {self.size:,} tokens: lower it, or set {KEY}=null."
            )
        return sorted([*self.always, *others[: size - len(self.always)]])

    def write(self, kept: list[int], folder: Path) -> None:
        """Writes the tokenizer's files with the tokens of these numbers, renumbered from 0 in the same order."""
        new = {old: number for number, old in enumerate(kept)}
        numbers = {token: new[old] for token, old in self._numbers.items() if old in new}
        merges = [pair for pair in self._merges if {*pair, "".join(pair)} <= numbers.keys()]
        plain = self._plain | {
            "model": self._model | {"vocab": numbers, "merges": merges},
            "added_tokens": [
                token | {"id": new[token["id"]]} for token in self._plain["added_tokens"] if token["id"] in new
            ],
            "post_processor": _renumbered(self._plain["post_processor"], new),
        }
        write_json(folder / _FILE, plain)
        write_json(folder / _NAMES, read_json(self.folder / _NAMES))
        if found := read_json(self.folder / _NUMBERS):
            ids = {key: [new[n] for n in each] if isinstance(each, list) else new[each] for key, each in found.items()}
            write_json(folder / _NUMBERS, ids)


def too_small(size: int, least: int) -> str:
    return (
        f"{KEY}={size:,}, but {least:,} tokens always stay: the bytes and the special tokens, among them the one that "
        f"ends a text. Set it to {least:,} or more."
    )


def of_size(model: _Described, kept: int | None) -> _Described:
    """A model's description with this many tokens, and no rows beyond them; as it is where `kept` is None."""
    return model if kept is None else replace(model, vocab_size=kept, padded_vocab_size=kept)


def with_rows(model: GPT, kept: list[int]) -> GPT:
    """The model with these rows of embedding and head alone; it shares its other weights with the one given."""
    config = of_size(model.config, len(kept))
    state, rows = dict(model.state_dict()), torch.tensor(kept)
    for name in (EMBEDDING, HEAD, HEAD_BIAS):
        if name in state:
            state[name] = state[name][rows.to(state[name].device)]
    return student.assemble(config, None, is_tied(model), state)


def _is_of_bytes(plain: Mapping[str, Any]) -> bool:
    """Whether merges begin from a text's bytes, or from its characters and the bytes of those that are not tokens."""
    model = plain["model"]
    if model["type"] != "BPE" or any(map(model.get, ("continuing_subword_prefix", "end_of_word_suffix"))):
        return False
    if model.get("byte_fallback"):
        return model["vocab"].keys() >= _FALL_BACK
    return "ByteLevel" in _types(plain["pre_tokenizer"])


def _types(step: Any) -> set[str]:
    """Of a pre-tokenizer and those that it consists of."""
    return {step["type"]}.union(*map(_types, step.get("pretokenizers", []))) if step else set()


def _last_merge(token: str, ranks: Mapping[Pair, int]) -> Pair | None:
    """The pair that becomes the token at last where BPE reads its bytes alone; None where it becomes none, or is one
    byte: the lowest rank goes first, and the leftmost of a rank."""
    parts = list(token)
    while len(parts) > 1:
        pairs = list(pairwise(parts))
        best = min(range(len(pairs)), key=lambda place: ranks.get(pairs[place], len(ranks)))
        if pairs[best] not in ranks:
            return None
        if len(parts) == 2:
            return pairs[best]
        parts[best : best + 2] = ["".join(pairs[best])]
    return None


def _around(processor: Any) -> set[int]:
    """The numbers that a post-processor puts around a text."""
    if processor is None:
        return set()
    found = {number for each in processor.get("special_tokens", {}).values() for number in each["ids"]}
    found |= {processor[name][1] for name in ("sep", "cls") if name in processor}
    return found.union(*map(_around, processor.get("processors", [])))


def _renumbered(processor: Any, new: Mapping[int, int]) -> Any:
    """A post-processor with new numbers for its special tokens."""
    if processor is None or processor["type"] == "ByteLevel":
        return processor
    if processor["type"] == "Sequence":
        return processor | {"processors": [_renumbered(each, new) for each in processor["processors"]]}
    if processor["type"] == "TemplateProcessing":
        tokens = processor["special_tokens"].items()
        given = {token: each | {"ids": [new[number] for number in each["ids"]]} for token, each in tokens}
        return processor | {"special_tokens": given}
    ends = {name: [processor[name][0], new[processor[name][1]]] for name in ("sep", "cls")}  # BERT's and RoBERTa's
    return processor | ends
