"""Reads a model out of GGUF files: llama.cpp's format, weights and tokenizer in one.

The metadata's meaning is llama.cpp's. A key of the model that is not read here would make it another model, and is
refused.
"""

import re
from collections import defaultdict
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from litgpt import Config
from torch import Tensor

from pipeline.config.paths import wrong_with
from pipeline.errors import SprigError
from pipeline.models import gguf_tokenizer
from pipeline.models.blocks import joined
from pipeline.models.families import FAMILIES, checked
from pipeline.models.families.family import GGUF
from pipeline.models.families.reading import LLAMA_FIELDS
from pipeline.models.gguf_header import Header, StoredTensor, read_header
from pipeline.models.gguf_metadata import Metadata
from pipeline.models.weights import floats, with_zero_biases

_NAMES = {"token_embd": "transformer.wte", "output_norm": "transformer.ln_f", "output": "lm_head"}
_PARTS = {
    "attn_norm": "attention_norm",
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_q_norm": "q_norm",
    "attn_k_norm": "k_norm",
    "attn_output": "out",
    "post_attention_norm": "attention_post_norm",
    "ffn_norm": "mlp_norm",
    "post_ffw_norm": "mlp_post_norm",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
}
_ALL_BIASES = frozenset({"q", "k", "v", "out", "gate", "up", "down"})
_KEYS = {
    "block_size": "context_length",
    "n_layer": "block_count",
    "n_embd": "embedding_length",
    "n_head": "attention.head_count",
    "n_query_groups": "attention.head_count_kv",
    "head_size": "attention.key_length",
    "intermediate_size": "feed_forward_length",
    "norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_base": "rope.freq_base",
    "rope_condense_ratio": "rope.scaling.factor",
    "sliding_window_size": "attention.sliding_window",
}
_READ = {
    *_KEYS.values(),
    "attention.value_length",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scale_linear",
}
_HARMLESS = {
    "vocab_size",  # the embedding's rows count
    "rope.scaling.original_context_length",  # of YaRN alone
    "rope.scaling.finetuned",
    "tensor_data_layout",
}
# Keys that only change the model when they have another value.
_NEUTRAL = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.causal": (True,),
    "use_parallel_residual": (False,),
    "attention.max_alibi_bias": (0,),
    "attention.clamp_kqv": (0,),
    "rope.scaling.attn_factor": (0, 1),
}
_PIECE = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def _architectures() -> dict[str, GGUF]:
    return {name: each for family in FAMILIES.values() for name, each in family.gguf.items()}


class GGUFFile:
    """One file, or the files that one was split into (any of them as `path`), read on demand.

    Raises (when a part is read):
        SprigError: a file is missing, cut short, no GGUF file, or holds what Sprig cannot read.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            cure = "correct teacher.path"
            folder = "is a folder: name the .gguf file in it, or set teacher.source to hf or litgpt"
            wrong = folder if path.is_dir() else f"{wrong_with(path)}: {cure}"
            raise SprigError(f"Teacher file {path} {wrong}.")
        self.path = path

    @cached_property
    def _headers(self) -> dict[Path, Header]:
        """Of all files, the first one first: it has the metadata."""
        header = read_header(self.path)
        count = Metadata(self.path, header.metadata).whole("split.count", 1)
        if count <= 1:
            return {self.path: header}
        found = _PIECE.fullmatch(self.path.name)
        if found is None or int(found["count"]) != count:
            raise SprigError(
                f"{self.path} is one of {count} files, which are found by their names: name them as llama.cpp does, "
                f"NAME-00001-of-{count:05}.gguf."
            )
        headers = {}
        for number in range(count):
            file = self.path.with_name(f"{found['stem']}-{number + 1:05}-of-{count:05}.gguf")
            if not file.is_file():
                raise SprigError(f"{file} is missing, one of the {count} files of this model: fetch it.")
            headers[file] = read_header(file)
            metadata = Metadata(file, headers[file].metadata)
            if (metadata.whole("split.no"), metadata.whole("split.count")) != (number, count):
                raise SprigError(f"{file} is not file {number + 1} of {count} by its own metadata: fetch it again.")
        tensors = sum(len(header.tensors) for header in headers.values())
        if (expected := Metadata(self.path, header.metadata).whole("split.tensors.count", tensors)) != tensors:
            raise SprigError(
                f"The {count} files of {self.path} hold {tensors} of {expected} tensors: fetch them again."
            )
        return headers

    @property
    def files(self) -> list[Path]:
        return list(self._headers)

    @cached_property
    def _metadata(self) -> Metadata:
        file, header = next(iter(self._headers.items()))
        return Metadata(file, header.metadata)

    @cached_property
    def _tensors(self) -> dict[str, StoredTensor]:
        return {name: tensor for header in self._headers.values() for name, tensor in header.tensors.items()}

    @cached_property
    def _architecture(self) -> str:
        if (kind := self._metadata.text("general.type", "model")) != "model":
            raise SprigError(f"{self.path} holds an {kind}, not a model: merge it into its model first.")
        architecture = self._metadata.text("general.architecture")
        if architecture not in _architectures():
            raise SprigError(
                f"{self.path} has architecture {architecture!r}. From GGUF files, Sprig reads only "
                f"{', '.join(_architectures())}: use teacher.source=hf with the model's safetensors."
            )
        return architecture

    @property
    def _kind(self) -> GGUF:
        return _architectures()[self._architecture]

    @cached_property
    def config(self) -> Config:
        metadata, start = self._metadata, f"{self._architecture}."
        self._refuse_unread(start)
        heads, width = metadata.whole(f"{start}attention.head_count"), metadata.whole(f"{start}embedding_length")
        head_size = metadata.whole(f"{start}attention.key_length", width // heads if heads else None)
        for key in ("attention.value_length", "rope.dimension_count"):
            if metadata.whole(start + key, head_size) != head_size:
                raise metadata.wrong(start + key, f"and only the size of a whole head, {head_size}, is supported")
        if "token_embd.weight" not in self._tensors:
            raise SprigError(f"{self.path} has no token_embd.weight: it is not a complete model, use another file.")
        rows = self._tensors["token_embd.weight"].shape[0]
        base = metadata.number(f"{start}rope.freq_base", 10000.0)
        context = metadata.whole(f"{start}context_length")
        kind = self._kind
        window = metadata.whole(f"{start}attention.sliding_window", 0)
        if 0 < window < context and not kind.windows:
            raise metadata.wrong(f"{start}attention.sliding_window", "shorter than the context, which is not supported")
        fields = LLAMA_FIELDS | kind.fields | self._biases
        if kind.windows:
            fields["sliding_window_size"] = window
        for ours, theirs in kind.numbers.items():
            if start + theirs in metadata.values:
                fields[ours] = metadata.number(start + theirs)
        fields |= {
            "name": self.path.stem,
            "block_size": context,
            "n_layer": metadata.whole(f"{start}block_count"),
            "n_embd": width,
            "n_head": heads,
            "n_query_groups": metadata.whole(f"{start}attention.head_count_kv", heads),
            "head_size": metadata.whole(f"{start}attention.key_length", None),
            "intermediate_size": metadata.whole(f"{start}feed_forward_length"),
            "vocab_size": rows,
            "padded_vocab_size": rows,
            "norm_eps": metadata.number(f"{start}attention.layer_norm_rms_epsilon"),
            "rope_base": int(base) if base - base == 0 and base == int(base) else base,
            "rope_condense_ratio": self._position_scale(start),
        }
        try:
            return checked(kind.derived(fields), lambda name: f"{start}{_KEYS[name]}" if name in _KEYS else name)
        except SprigError as error:
            raise SprigError(f"{self.path} does not describe a model ({error}): use another file.") from None

    def _refuse_unread(self, start: str) -> None:
        if "rope_freqs.weight" in self._tensors:
            raise SprigError(
                f"{self.path} has rotary scaling by frequency (rope_freqs.weight), which Sprig does not read from "
                "GGUF: use teacher.source=hf."
            )
        for key, value in self._metadata.values.items():
            name = key.removeprefix(start)
            known = _READ | _HARMLESS | set(self._kind.numbers.values())
            if name == key or name in known or name.startswith("rope.scaling.yarn_"):
                continue
            if name not in _NEUTRAL or value not in _NEUTRAL[name]:
                raise self._metadata.wrong(key, "which Sprig does not read from GGUF")

    def _position_scale(self, start: str) -> float:
        """What divides positions. As llama.cpp: linear by default, and 0 means 1."""
        metadata = self._metadata
        kind = metadata.text(f"{start}rope.scaling.type", "linear")
        if kind not in ("none", "linear"):
            raise metadata.wrong(f"{start}rope.scaling.type", "and only none and linear rotary scaling is supported")
        factor = metadata.number(f"{start}rope.scaling.factor", metadata.number(f"{start}rope.scale_linear", 0))
        return 1 if kind == "none" or factor in (0, 1) else factor

    @cached_property
    def _biases(self) -> dict[str, bool]:
        """litgpt's switches for the biases that the file has."""
        biased = {
            _PARTS.get(found[1]) for found in map(re.compile(r"blk\.\d+\.(.+)\.bias").fullmatch, self._tensors) if found
        }
        if not biased:
            return {}
        return {"attn_bias": True} if biased <= {"q", "k", "v"} else {"bias": True}

    @property
    def tied(self) -> bool:
        return "output.weight" not in self._tensors

    def weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """litgpt's names and shapes; quantised tensors as the floats that they stand for."""
        config = self.config
        state: dict[str, Tensor] = {}
        layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
        side_by_side = self._kind.side_by_side
        rotated = {"q": config.n_head, "k": config.n_query_groups} if side_by_side else {}
        for full_name, stored in self._tensors.items():
            module, _, kind = full_name.rpartition(".")
            block = re.fullmatch(r"blk\.(\d+)\.(.+)", module)
            part = _PARTS.get(block[2]) if block else _NAMES.get(module)
            if part is None or kind not in ("weight", "bias"):
                raise SprigError(
                    f"{stored.path} holds tensor {full_name}, which no plain {self._architecture} has: use another "
                    "file."
                )
            values = stored.values()
            if block and part in rotated:
                values = self._rotary_halves(full_name, values, rotated[part])
            room = layers[block[1]] if block else state
            room[f"{part}.{kind}"] = floats(full_name, torch.tensor(np.ascontiguousarray(values)), dtype, stored.path)
        held = {name.partition(".")[0] for parts in layers.values() for name in parts if name.endswith(".bias")}
        needed = _ALL_BIASES if config.bias else frozenset("qkv") if config.attn_bias else frozenset()
        # A Qwen2.5 has all of its biases: one that is missing is an error, not a zero.
        added = frozenset() if self._architecture == "qwen2" else needed - held
        for number, parts in layers.items():
            with_zero_biases(parts, added)
            names = joined(parts, f"{self.path}: blk.{number}")
            state |= {f"transformer.h.{number}.{name}": tensor for name, tensor in names.items()}
        return state

    def _rotary_halves(self, name: str, rows: np.ndarray, heads: int) -> np.ndarray:
        """llama.cpp stores q and k with the two entries of a rotary pair side by side; here entry i pairs with
        i + n/2."""
        size = self.config.head_size
        if len(rows) != heads * size:
            raise SprigError(
                f"{self.path} holds {name} with {len(rows)} rows where its metadata says {heads} heads of {size}: use "
                "another file."
            )
        return rows.reshape(heads, size // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)

    def write_tokenizer(self, folder: Path) -> None:
        """Builds tokenizer.json from the metadata.

        Raises:
            SprigError: the file's tokenizer is of an unknown kind, or contradicts itself.
        """
        gguf_tokenizer.write(self._metadata, folder)
