"""Reads a Llama model out of a GGUF file: llama.cpp's format, weights and tokenizer in one."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
from litgpt import Config
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from torch import Tensor

from pipeline.errors import SprigError
from pipeline.models import tokenizer
from pipeline.models.gguf_header import Header, read_header

_NAMES = {
    "token_embd.weight": "transformer.wte.weight",
    "output_norm.weight": "transformer.ln_f.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK_NAMES = {
    "attn_norm.weight": "norm_1.weight",
    "attn_output.weight": "attn.proj.weight",
    "ffn_norm.weight": "norm_2.weight",
    "ffn_gate.weight": "mlp.fc_1.weight",
    "ffn_up.weight": "mlp.fc_2.weight",
    "ffn_down.weight": "mlp.proj.weight",
}
# How text is split before BPE, by llama.cpp's names.
PRE_TOKENIZERS = {
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
}


class GGUFFile:
    """One file, read on demand.

    Raises (when a part is read):
        SprigError: the file is missing, cut short, no GGUF file, or holds what Sprig cannot read.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise SprigError(f"Teacher file {path} does not exist: correct teacher.path.")
        self.path = path
        self.files = [path]

    @cached_property
    def _header(self) -> Header:
        return read_header(self.path)

    def _get(self, key: str, default: Any = None) -> Any:
        value = self._header.metadata.get(key, default)
        if value is None:
            raise SprigError(f"{self.path} has no {key} in its metadata: it is no complete model, use another file.")
        return value

    @cached_property
    def config(self) -> Config:
        architecture = self._get("general.architecture")
        if architecture != "llama":
            raise SprigError(
                f"{self.path} is of architecture {architecture!r}, of GGUF files Sprig reads 'llama' alone: use "
                "teacher.source=hf with the model's safetensors."
            )
        heads, width = self._get("llama.attention.head_count"), self._get("llama.embedding_length")
        head_size = self._get("llama.attention.key_length", width // heads)
        tensors = self._header.tensors
        scaling = self._get("llama.rope.scaling.type", "none")
        unsupported = {
            "rotary scaling": scaling not in ("none", "linear") or "rope_freqs.weight" in tensors,
            "a mixture of experts": self._get("llama.expert_count", 0) > 0,
            "values of another size than keys": self._get("llama.attention.value_length", head_size) != head_size,
        }
        for part in (part for part, present in unsupported.items() if present):
            raise SprigError(f"{self.path} has {part}, which Sprig does not read from GGUF: use teacher.source=hf.")
        if "token_embd.weight" not in tensors:
            raise SprigError(f"{self.path} has no token_embd.weight: it is no complete model, use another file.")
        rows = tensors["token_embd.weight"].shape[0]
        base = self._get("llama.rope.freq_base", 10000.0)
        return Config(
            name=self.path.stem,
            block_size=self._get("llama.context_length"),
            n_layer=self._get("llama.block_count"),
            n_embd=width,
            n_head=heads,
            n_query_groups=self._get("llama.attention.head_count_kv", heads),
            head_size=head_size,
            intermediate_size=self._get("llama.feed_forward_length"),
            vocab_size=rows,
            padded_vocab_size=rows,
            norm_class_name="RMSNorm",
            norm_eps=self._get("llama.attention.layer_norm_rms_epsilon"),
            rope_base=int(base) if base == int(base) else base,
            rope_condense_ratio=self._get("llama.rope.scaling.factor") if scaling == "linear" else 1,
            rotary_percentage=self._get("llama.rope.dimension_count", head_size) / head_size,
            parallel_residual=False,
            bias=False,
            mlp_class_name="LLaMAMLP",
        )

    @property
    def tied(self) -> bool:
        return "output.weight" not in self._header.tensors

    def weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """litgpt's names and shapes; quantised tensors as the floats that they stand for."""
        config, state, attention = self.config, {}, {}
        rotated = {"attn_q.weight": config.n_head, "attn_k.weight": config.n_query_groups}
        for full_name, stored in self._header.tensors.items():
            values = stored.values(self.path)
            block = re.fullmatch(r"blk\.(\d+)\.(.+)", full_name)
            layer, name = block.groups() if block else (None, full_name)
            if name in rotated:
                values = _rotary_halves(values, rotated[name], config.head_size)
            weight = torch.tensor(np.ascontiguousarray(values)).to(dtype)
            if name in (*rotated, "attn_v.weight"):
                attention.setdefault(layer, {})[name] = weight
            elif name in (names := _BLOCK_NAMES if block else _NAMES):
                state[f"transformer.h.{layer}.{names[name]}" if block else names[name]] = weight
            else:
                raise SprigError(f"{self.path} holds tensor {full_name}, which no plain Llama has: use another file.")
        for layer, parts in attention.items():
            if len(parts) == 3:
                q, k, v = (parts[f"attn_{part}.weight"] for part in "qkv")
                state[f"transformer.h.{layer}.attn.qkv.weight"] = torch.cat([q, k, v])
        return state

    def write_tokenizer(self, folder: Path) -> None:
        """Builds tokenizer.json from the metadata.

        Raises:
            SprigError: the file's tokenizer is no byte-level BPE that splits text in a known way.
        """
        kind, pre = self._get("tokenizer.ggml.model"), self._get("tokenizer.ggml.pre", "default")
        if kind != "gpt2" or pre not in PRE_TOKENIZERS:
            raise SprigError(
                f"{self.path} has a tokenizer of kind {kind}/{pre}, of GGUF files Sprig reads gpt2 with "
                f"{', '.join(PRE_TOKENIZERS)} alone: set teacher.tokenizer to a folder with the model's tokenizer.json."
            )
        tokens = self._get("tokenizer.ggml.tokens")
        types = self._get("tokenizer.ggml.token_type")
        merges = [
            tuple(merge.split(" ")) for merge in self._get("tokenizer.ggml.merges", [])
        ]  # the package writes no empty list
        built = tokenizers.Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
        built.pre_tokenizer = PRE_TOKENIZERS[pre]
        built.decoder = decoders.ByteLevel()
        for token, kind in zip(tokens, types, strict=True):
            if kind in (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED):
                built.add_tokens([AddedToken(token, normalized=False, special=kind == gguf.TokenType.CONTROL)])
        template = self._header.metadata.get("tokenizer.chat_template")
        tokenizer.write(built, tokens[self._get("tokenizer.ggml.eos_token_id")], folder, template)


def _rotary_halves(rows: np.ndarray, heads: int, head_size: int) -> np.ndarray:
    """llama.cpp stores q and k with the two entries of a rotary pair side by side; here entry i pairs with i + n/2."""
    return rows.reshape(heads, head_size // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)
