"""Reads a student that was exported in a modelling file of its own, padded with zeros until its layers are alike."""

import re
from collections import defaultdict
from functools import cached_property

import torch
from litgpt import Config
from torch import Tensor

from pipeline.errors import SprigError, reason
from pipeline.models import checkpoint, weight_files
from pipeline.models.blocks import joined
from pipeline.models.families import checked
from pipeline.models.huggingface import HuggingFaceFolder
from pipeline.models.padding import uniform, uniform_config
from pipeline.models.student import assemble
from pipeline.models.weights import EMBEDDING, HEAD, floats
from pipeline.subnetwork.value import SubNetwork

MODEL_TYPE = "sprig"
_LAYER = re.compile(r"layers\.(\d+)\.(?:attention\.|mlp\.)?(.+)")
_ENDS = {"embed_tokens": "transformer.wte", "norm": "transformer.ln_f", "lm_head": "lm_head"}


class OwnFolder(HuggingFaceFolder):
    """In addition to the modelling file's keys, its config.json says what Sprig builds the student from, so that it
    survives when transformers saves the model again, after fine-tuning for example. See pipeline.models.export.own."""

    @cached_property
    def _built_from(self) -> tuple[Config, SubNetwork | None]:
        """litgpt's configuration, and the sub-network where layers differ."""
        try:
            described, rows = self.plain["student"], self.plain["vocab_size"]
            sub = None if described["subnetwork"] is None else SubNetwork.from_dict(described["subnetwork"])
            # transformers may have resized the embedding since.
            return checked({**described["litgpt"], "vocab_size": rows, "padded_vocab_size": rows}), sub
        except (SprigError, *checkpoint.UNREADABLE) as error:
            raise SprigError(
                f"{self.folder / 'config.json'} does not say what Sprig built the student from "
                f"({reason(error)}): export it again."
            ) from None

    @property
    def tied(self) -> bool:
        return bool(self.plain.get("tie_word_embeddings", False))

    @cached_property
    def config(self) -> Config:
        return uniform_config(*self._built_from, self.folder / "config.json")

    def weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        blocks: dict[str, dict[str, Tensor]] = defaultdict(dict)
        config, sub = self._built_from
        try:
            for file in self.weight_files():
                for name, stored in weight_files.read(file).items():
                    tensor = floats(name, stored, dtype, file)
                    if layer := _LAYER.fullmatch(name):
                        blocks[layer[1]][layer[2]] = tensor
                    else:
                        part, kind = name.split(".")
                        state[f"{_ENDS[part]}.{kind}"] = tensor
            for number, parts in blocks.items():
                state |= {f"transformer.h.{number}.{name}": tensor for name, tensor in joined(parts).items()}
            state.setdefault(HEAD, state[EMBEDDING])
            if sub is not None:
                state = uniform(assemble(config, sub, self.tied, state)).state_dict()
        except (LookupError, ValueError, RuntimeError):  # whose text may have a line for each weight
            raise SprigError(
                f"The weights in {self.folder} do not fit its config.json: export the student again."
            ) from None
        return state
