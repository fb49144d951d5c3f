"""Reads a transformers model folder (config.json, safetensors or PyTorch weights) as litgpt names it."""

import operator
import pickle
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import HFValidationError
from litgpt import Config
from litgpt.scripts.convert_hf_checkpoint import (
    copy_weights_gpt_neox,
    copy_weights_hf_llama,
    copy_weights_qwen_2_5,
    copy_weights_qwen_3,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.errors import SprigError
from pipeline.models import tokenizer
from pipeline.models.checkpoint import reason

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def download(name: str, revision: str | None, weights: bool) -> Path:
    """The folder of a hub model in the local hub cache, fetched where it is not there yet.

    Raises:
        SprigError: the hub cannot be reached or has no such model.
    """
    fetch = partial(huggingface_hub.snapshot_download, name, revision=revision, ignore_patterns=["*/*"])
    try:
        folder = Path(fetch(allow_patterns=["*.json", "*.jinja", *(["*.safetensors"] if weights else [])]))
        if weights and not any(folder.glob("*.safetensors")):
            fetch(allow_patterns=["*.json", "*.bin"])
    except (OSError, HFValidationError) as error:
        raise SprigError(
            f"teacher.path={name} is no folder here, and the hub does not give it (revision {revision}): "
            f"{reason(error)}. Correct the name, or bring the model's folder here and set teacher.path to it."
        ) from error
    return folder


class HuggingFaceFolder:
    """One folder, read on demand.

    Raises (when a part is read):
        SprigError: a file is missing, unreadable, or of a model that Sprig does not support.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def plain(self) -> dict[str, Any]:
        """config.json."""
        file = self.folder / "config.json"
        if not file.is_file():
            raise SprigError(f"{file} does not exist: set teacher.path to a transformers model folder.")
        return tokenizer.read_json(file)

    @property
    def family(self) -> Any:
        return self.plain.get("model_type")

    @cached_property
    def config(self) -> Config:
        family = self.family
        if family not in tuple(_FAMILIES):  # what is no text may not be hashable
            raise SprigError(
                f"{self.folder} is of model_type {family!r}; supported are {', '.join(_FAMILIES)}: use one of these."
            )
        try:
            return _FAMILIES[family][0](self.plain)
        except KeyError as error:
            raise SprigError(f"{self.folder / 'config.json'} lacks {error}: fetch it again.") from None
        except (TypeError, ValueError, AttributeError, AssertionError, ArithmeticError) as error:
            raise SprigError(
                f"{self.folder / 'config.json'} describes no model ({reason(error)}): fetch it again."
            ) from None
        except SprigError as error:
            raise SprigError(f"{self.folder / 'config.json'}: {error}") from None

    @property
    def tied(self) -> bool:
        return bool(self.plain.get("tie_word_embeddings", False))

    @property
    def files(self) -> list[Path]:
        """What determines the weights and the token that ends a text."""
        names = ("config.json", "generation_config.json")
        return [*(self.folder / name for name in names if (self.folder / name).is_file()), *self.weight_files()]

    def weight_files(self) -> list[Path]:
        for name in _WEIGHTS:
            index = self.folder / f"{name}.index.json"
            if index.is_file():
                files = _shards(index)
            else:
                files = [self.folder / name]
            if index.is_file() or files[0].is_file():
                for file in files:
                    if not file.is_file():
                        raise SprigError(f"{file} is missing, though {index.name} names it: fetch the model again.")
                return files
        raise SprigError(f"{self.folder} has neither {_WEIGHTS[0]} nor {_WEIGHTS[1]}: fetch the model's weights.")

    def weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """litgpt's names and shapes. `lm_head.weight` is there only where the files hold a head."""
        copy = _FAMILIES[self.family][1]
        # litgpt falls back on the embedding where a file holds no head: with shards, that would hit the wrong one.
        state: dict[str, Tensor | None] = {"lm_head.weight": None}
        split_attention: dict = {}  # q, k and v of a layer may lie in different shards
        before = () if copy is copy_weights_gpt_neox else (split_attention,)
        for file in self.weight_files():
            try:
                copy(self.config, *before, state, read_weights(file), dtype=dtype)
            except KeyError as error:
                raise SprigError(f"{file} holds {error}, which no plain {self.family} has.") from None
            except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
                raise SprigError(f"{file} does not fit config.json ({reason(error)}): fetch them again.") from None
        return {name: weight for name, weight in state.items() if weight is not None}

    def write_tokenizer(self, folder: Path) -> None:
        tokenizer.copy(self.folder, folder)


def _shards(index: Path) -> list[Path]:
    """The files that an index names. They lie in its own folder: whoever wrote the index must not choose another."""
    named = tokenizer.read_json(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(shard, str) for shard in named.values()):
        raise SprigError(f"{index} names no shards under weight_map: fetch it again.")
    shards = sorted(set(named.values()))
    for shard in shards:
        # Looked at as text: in the hub's cache each file is a link to elsewhere.
        if PurePosixPath(shard).name != shard or shard in ("", ".."):
            raise SprigError(f"{index} names {shard!r}, which is not a file of its folder: do not use this model.")
    return [index.with_name(shard) for shard in shards]


def read_weights(file: Path) -> dict[str, Tensor]:
    """Raises SprigError where the file is broken."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise SprigError(f"{file} is cut short or no weight file ({reason(error)}): fetch it again.") from error


def _demand(plain: dict[str, Any], key: str, supported: Any, absent: Any) -> None:
    """Refuses a feature that litgpt's model would compute otherwise; `absent` is what a missing key means."""
    value = plain.get(key, absent)
    if value != supported:
        raise SprigError(f"{key}={value!r} is not supported, only {supported!r}: use another model.")


def _rope(plain: dict[str, Any], base_key: str) -> dict[str, Any]:
    """transformers 5 keeps all of it under `rope_parameters`, earlier ones beside and under `rope_scaling`."""
    rope = plain.get("rope_parameters") or plain.get("rope_scaling") or {}
    base = rope.get("rope_theta", plain.get(base_key, 10000.0))
    fields: dict[str, Any] = {"rope_base": int(base) if base == int(base) else base}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "linear":
        fields["rope_condense_ratio"] = rope["factor"]
    elif kind == "llama3":
        fields["rope_adjustments"] = {
            "factor": rope["factor"],
            "low_freq_factor": rope["low_freq_factor"],
            "high_freq_factor": rope["high_freq_factor"],
            "original_max_seq_len": rope["original_max_position_embeddings"],
        }
    elif kind != "default":
        raise SprigError(f"rotary scaling {kind!r} is not supported, only linear and llama3: use another model.")
    return fields


def _common(plain: dict[str, Any]) -> dict[str, Any]:
    names = {
        "block_size": "max_position_embeddings",
        "n_layer": "num_hidden_layers",
        "n_embd": "hidden_size",
        "n_head": "num_attention_heads",
        "intermediate_size": "intermediate_size",
        "vocab_size": "vocab_size",
        "padded_vocab_size": "vocab_size",
    }
    sizes = {ours: operator.index(plain[theirs]) for ours, theirs in names.items()}
    if min(sizes.values()) < 1:
        raise ValueError(f"a size is {min(sizes.values())}")
    return {"name": plain["model_type"], **sizes}


def _gpt_neox(plain: dict[str, Any]) -> Config:
    _demand(plain, "hidden_act", "gelu", "gelu")
    _demand(plain, "attention_bias", True, True)
    rope = plain.get("rope_parameters") or {}
    return Config(
        **_common(plain),
        **_rope(plain, "rotary_emb_base"),
        rotary_percentage=rope.get("partial_rotary_factor", plain.get("rotary_pct", 0.25)),
        norm_class_name="LayerNorm",
        norm_eps=plain.get("layer_norm_eps", 1e-5),
        parallel_residual=plain.get("use_parallel_residual", True),
        bias=True,
        mlp_class_name="GptNeoxMLP",
    )


def _llama_like(plain: dict[str, Any], attention_bias: bool = False, norm_qk: bool = False) -> Config:
    _demand(plain, "hidden_act", "silu", "silu")
    _demand(plain, "mlp_bias", False, False)
    _demand(plain, "use_sliding_window", False, False)
    if "sliding_attention" in (plain.get("layer_types") or []):
        raise SprigError(
            "layer_types with sliding_attention are not supported, only full_attention: use another model."
        )
    return Config(
        **_common(plain),
        **_rope(plain, "rope_theta"),
        n_query_groups=plain.get("num_key_value_heads"),
        head_size=plain.get("head_dim"),
        rotary_percentage=1.0,
        norm_class_name="RMSNorm",
        norm_eps=plain.get("rms_norm_eps", 1e-6),
        norm_qk=norm_qk,
        attn_bias=attention_bias,
        parallel_residual=False,
        bias=False,
        mlp_class_name="LLaMAMLP",
    )


def _llama(plain: dict[str, Any]) -> Config:
    # transformers' attention_bias is one of the output projection too, which litgpt has no word for.
    _demand(plain, "attention_bias", False, False)
    return _llama_like(plain)


def _qwen2(plain: dict[str, Any]) -> Config:
    return _llama_like(plain, attention_bias=True)


def _qwen3(plain: dict[str, Any]) -> Config:
    _demand(plain, "attention_bias", False, False)
    return _llama_like(plain | {"head_dim": plain.get("head_dim", 128)}, norm_qk=True)


_FAMILIES = {
    "gpt_neox": (_gpt_neox, copy_weights_gpt_neox),
    "llama": (_llama, copy_weights_hf_llama),
    "qwen2": (_qwen2, copy_weights_qwen_2_5),
    "qwen3": (_qwen3, copy_weights_qwen_3),
}
