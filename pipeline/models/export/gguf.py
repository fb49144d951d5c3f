"""A stock Llama student as one GGUF file, for llama.cpp and what is built on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
from torch import Tensor

from pipeline.config import GGUFKind
from pipeline.errors import SprigError
from pipeline.models.bpe import PRE_TOKENIZERS
from pipeline.models.tokenizer import Tokenizer, read_json
from pipeline.subnetwork.architecture import Architecture

if TYPE_CHECKING:  # imported where a file is written: few runs write one
    import gguf

CURE = "leave export.gguf=none"


def refuse(architecture: Architecture) -> None:
    """Raises SprigError where GGUF cannot name what the model computes."""
    if architecture.family != "llama":
        raise SprigError(
            f"export.gguf is for the Llama family, and {architecture.name} is of family {architecture.family}: {CURE}."
        )
    if architecture.bias:
        raise SprigError(f"{architecture.name} has biases, which Sprig does not write to GGUF files: {CURE}.")
    if architecture.rope_adjusted:
        raise SprigError(
            f"{architecture.name} has Llama 3.1's rotary scaling, which GGUF files have no key for: {CURE}."
        )


def has_merges(tokenizer: Path) -> bool:
    """Whether llama.cpp loads the tokenizer of this folder as far as its merges are concerned: BPE needs some."""
    model = read_json(tokenizer / "tokenizer.json")["model"]
    return model.get("type") != "BPE" or bool(model["merges"])


def caveat(config: dict) -> str:
    """What to know before the file of a LlamaForCausalLM with this config.json is read; empty where there is nothing.

    Rotary positions are scaled where heads lost pairs, or the teacher had scaled them. llama.cpp (b9190) and Sprig read
    the scale; transformers (5.3, `gguf_file=`) does not look at it.
    """
    if config["rope_parameters"]["rope_type"] == "default":
        return ""
    return (
        f"Rotary positions in the GGUF file are divided by {config['rope_parameters']['factor']:.6g} "
        "(`llama.rope.scaling`), which transformers' own GGUF reader leaves out: it would compute another model. "
        "llama.cpp reads it; with transformers, load the folder."
    )


def file_name(name: str, kind: GGUFKind) -> str:
    return f"{name}-{kind}.gguf"


def write(file: Path, name: str, config: dict, state: dict[str, Tensor], tokenizer: Path, kind: GGUFKind) -> None:
    """Writes the weights `state` of LlamaForCausalLM with its config.json `config`, and the tokenizer's folder.

    Matrices are of `kind`; norms stay in fp32, as llama.cpp wants them.

    Raises:
        SprigError: llama.cpp has no name for this tokenizer.
    """
    import gguf

    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name(name)
    f16 = kind == GGUFKind.f16
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if f16 else gguf.LlamaFileType.ALL_F32)
    heads, groups, size = (config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config["rope_parameters"]
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    _add_tokenizer(writer, tokenizer, config["vocab_size"])

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for theirs, tensor in state.items():
        values = tensor.numpy()
        rotated = {"q_proj": heads, "k_proj": groups}.get(theirs.split(".")[-2])
        if rotated:
            values = _pairs_side_by_side(values, rotated)
        values = values.astype(np.float16 if f16 and values.ndim == 2 else np.float32)
        ours = names.get_name(theirs, try_suffixes=(".weight",))
        assert ours is not None  # llama.cpp has every tensor of a llama
        writer.add_tensor(ours, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _pairs_side_by_side(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp turns entries 2i and 2i + 1 of a head together, transformers i and i + n/2."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, size: int) -> None:
    plain = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model, pre = plain["model"], _pre_tokenizer(plain)
    if model["type"] != "BPE" or plain["normalizer"] is not None or pre is None:
        raise SprigError(
            f"GGUF files have no name for the tokenizer of {folder}; Sprig writes byte-level BPE, split as one of "
            f"{', '.join(PRE_TOKENIZERS)}: {CURE}."
        )
    if not has_merges(folder):
        raise SprigError(
            f"llama.cpp loads no tokenizer without merges, and that of {folder} has {len(model['vocab'])} entries and "
            f"no merge: {CURE}."
        )
    from gguf import TokenType

    tokens, kinds = [f"[PAD{number}]" for number in range(size)], [TokenType.UNUSED] * size
    for token, number in model["vocab"].items():
        tokens[number], kinds[number] = token, TokenType.NORMAL
    for token in plain["added_tokens"]:
        kind = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        tokens[token["id"]], kinds[token["id"]] = token["content"], kind
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    # Files before tokenizers 0.20 have them joined already.
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    end = Tokenizer(folder).eos_id
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(end)
    writer.add_add_bos_token(False)
    if isinstance(template := read_json(folder / "tokenizer_config.json").get("chat_template"), str):
        writer.add_chat_template(template)


def _pre_tokenizer(plain: dict) -> str | None:
    """llama.cpp's name for how a tokenizer.json splits text before BPE; None where it has none."""
    for name, known in PRE_TOKENIZERS.items():
        built = tokenizers.Tokenizer(tokenizers.models.BPE())
        built.pre_tokenizer = known
        if _splitting(plain["pre_tokenizer"]) == _splitting(json.loads(built.to_str())["pre_tokenizer"]):
            return name
    return None


def _splitting(pre_tokenizer: Any) -> Any:
    """Without what changes offsets alone, and a sequence of one as that one."""
    if isinstance(pre_tokenizer, dict):
        parts = pre_tokenizer.get("pretokenizers")
        if parts and len(parts) == 1:
            return _splitting(parts[0])
        return {key: _splitting(value) for key, value in pre_tokenizer.items() if key != "trim_offsets"}
    return [_splitting(part) for part in pre_tokenizer] if isinstance(pre_tokenizer, list) else pre_tokenizer
