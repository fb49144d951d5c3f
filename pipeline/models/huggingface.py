"""Reads a transformers model folder (config.json, safetensors or PyTorch weights) as litgpt names it."""

import logging
import re
from collections import defaultdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from litgpt import Config
from torch import Tensor

from pipeline.errors import SprigError, reason
from pipeline.models import config_json, tokenizer, weight_files
from pipeline.models.blocks import joined
from pipeline.models.families.family import Described
from pipeline.models.weights import EMBEDDING, HEAD, floats, with_zero_biases

log = logging.getLogger("sprig")
# Prefixes and infixes of wrapping modules (torch.compile, FSDP, DDP, a causal model's body), which change no weight.
_INFIXES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_PREFIXES = ("module", "_forward_module", "pretrained_model", "model", "gpt_neox")
# What a model computes from its configuration, and never reads from a file.
_BUFFERS = re.compile(
    r"(.*\.)?rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)|layers\.\d+\.attention\.(bias|masked_bias)"
)
_OTHER_HEADS = re.compile(r"score\.(weight|bias)|v_head\.summary\.(weight|bias)")  # classification, and trl's value
_CURES = {
    r"lora_|\.base_layer\.|base_model\.": "merge the adapter first, model.merge_and_unload() of peft",
    r"experts\.(gate_up_proj|down_proj)$": "save the model with save_pretrained(), which keeps experts apart",
    r"qweight|qzeros|g_idx|\.scales$|weight_scale|weight_packed|SCB|absmax|quant_state|quant_map": (
        "dequantise the weights first, or use the model from which they were quantised"
    ),
}


def download(name: str, revision: str | None, weights: bool) -> Path:
    """The folder of a hub model in the local hub cache, fetched where it is not there yet.

    Raises:
        SprigError: the hub cannot be reached or has no such model.
    """
    import huggingface_hub  # imported here: few runs have a model of the hub
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError

    fetch = partial(huggingface_hub.snapshot_download, name, revision=revision, ignore_patterns=["*/*"])
    small = ["*.json", "*.jinja", "merges.txt", "tokenizer.model"]
    try:
        folder = Path(fetch(allow_patterns=[*small, *(["*.safetensors"] if weights else [])]))
        if weights and not any(folder.glob("*.safetensors")):
            fetch(allow_patterns=[*small, "*.bin"])
    except (OSError, HFValidationError) as error:
        cure = "correct the name, or bring the model's folder here and set teacher.path to it"
        if constants.HF_HUB_OFFLINE:
            wrong = "HF_HUB_OFFLINE is set, so only models that were downloaded before are found"
            cure = f"unset it, {cure}"
        else:
            wrong = f"the hub does not provide it{f' (revision {revision})' if revision else ''}: {reason(error)}"
        raise SprigError(f"teacher.path={name} is not a local folder, and {wrong}; {cure}.") from error
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
        if self.folder.is_file():
            raise SprigError(
                f"teacher.path={self.folder} is a file, and teacher.source=hf reads a folder: set teacher.source=gguf "
                "for a GGUF file, or name the model's folder."
            )
        file = self.folder / "config.json"
        if not file.is_file():
            cure = "set teacher.path to a transformers model folder"
            if (self.folder / "adapter_config.json").is_file():
                cure = "this is a LoRA adapter, so merge it first, with peft's model.merge_and_unload()"
            raise SprigError(f"{file} does not exist: {cure}.")
        return tokenizer.read_json(file)

    @property
    def family(self) -> Any:
        return self.plain.get("model_type")

    @cached_property
    def _described(self) -> Described:
        try:
            return config_json.describe(self.plain)
        except SprigError as error:
            raise SprigError(f"{self.folder / 'config.json'}: {error}.") from None

    @property
    def config(self) -> Config:
        return self._described.config

    @property
    def tied(self) -> bool:
        return self._described.tied

    @property
    def files(self) -> list[Path]:
        """What determines the weights and the token that ends a text."""
        names = ("config.json", "generation_config.json")
        return [*(self.folder / name for name in names if (self.folder / name).is_file()), *self.weight_files()]

    def weight_files(self) -> list[Path]:
        return weight_files.find(self.folder)

    def weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """litgpt's names and shapes. `lm_head.weight` is there only where the files hold a head."""
        state: dict[str, Tensor] = {}
        layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for file in self.weight_files():
            tensors = weight_files.read(file)
            for full_name in sorted(tensors):
                tensor = tensors.pop(full_name)  # at once: a converted copy takes its place
                name = _plain_name(full_name)
                if _BUFFERS.fullmatch(name) or name.endswith(".rotary_emb.inv_freq"):
                    continue
                if _OTHER_HEADS.fullmatch(name):
                    log.info("%s: %s belongs to another task and is left out", file.name, full_name)
                    continue
                room, key = self._place(file, full_name, name, state, layers)
                tensor = floats(full_name, tensor, dtype, file)
                if key in room and not torch.equal(room[key], tensor):
                    raise SprigError(f"{file} holds a second {name} with other values: remove one of the two.")
                room[key] = tensor
        for number, parts in layers.items():
            state |= {f"transformer.h.{number}.{name}": tensor for name, tensor in self._joined(number, parts).items()}
        if self.tied and EMBEDDING not in state and HEAD in state:
            state[EMBEDDING] = state[HEAD]  # safetensors keeps one name of tensors that share memory
        if not self.tied and HEAD not in state:
            raise SprigError(
                f"{self.folder} holds a model without a language modelling head ({self._described.names.head}.weight), "
                "and config.json does not tie it to the embedding: save the causal language model, not only its body."
            )
        return self._described.folded.into(state, self.config)

    def _place(
        self, file: Path, full_name: str, name: str, state: dict[str, Tensor], layers: dict[str, dict[str, Tensor]]
    ) -> tuple[dict[str, Tensor], str]:
        """Where a tensor goes: into the state under litgpt's name, or to its layer under its part's."""
        names = self._described.names
        outer = {names.embedding: "transformer.wte", names.norm: "transformer.ln_f", names.head: "lm_head"}
        module, _, kind = name.rpartition(".")
        if module in outer and kind in ("weight", "bias"):
            return state, f"{outer[module]}.{kind}"
        layer = re.fullmatch(r"layers\.(\d+)\.(.+)\.(weight|bias)", name)
        part = names.part(layer[2]) if layer else None
        if layer is None or part is None:
            cure = next((cure for sign, cure in _CURES.items() if re.search(sign, full_name)), "use another checkpoint")
            raise SprigError(f"{file} holds {full_name}, which no plain {self.family} has: {cure}.")
        if layer[3] == "bias" and part in self._described.unbiased:
            raise SprigError(f"{file} holds {full_name}, but config.json says that there is none: correct config.json.")
        return layers[layer[1]], f"{part}.{layer[3]}"

    def _joined(self, number: str, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """A layer's parts under litgpt's names, with zeros for the biases that it does without."""
        with_zero_biases(parts, self._described.unbiased)
        try:
            parts = self._described.unfuse(parts, self.config)
            return joined(parts, f"{self.folder}: layers.{number}")
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise SprigError(
                f"The weights of layer {number} in {self.folder} do not fit config.json ({reason(error)}): fetch them "
                "again."
            ) from None

    def write_tokenizer(self, folder: Path) -> None:
        tokenizer.copy(self.folder, folder)


def _plain_name(name: str) -> str:
    """Without the names of wrapping modules."""
    parts = [part for part in name.split(".") if part not in _INFIXES]
    while len(parts) > 1 and parts[0] in _PREFIXES:
        del parts[0]
    return ".".join(parts)
