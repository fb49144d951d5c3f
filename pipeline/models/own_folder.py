"""Reads a student that was exported in a modelling file of its own, padded with zeros until its layers are alike."""

from collections import defaultdict
from functools import cached_property
from pathlib import Path

from torch import Tensor

from pipeline.errors import SprigError
from pipeline.models import checkpoint
from pipeline.models.blocks import joined
from pipeline.models.huggingface import HuggingFaceFolder, read_weights
from pipeline.models.litgpt_folder import LitGPTFolder

MODEL_TYPE = "sprig"
_ENDS = {"embed_tokens": "transformer.wte", "norm": "transformer.ln_f", "lm_head": "lm_head"}


class OwnFolder(LitGPTFolder):
    """litgpt's configuration and the sub-network lie beside the weights, which have the modelling file's names."""

    cure = "export the student anew"

    def _weight_files(self) -> list[Path]:
        return HuggingFaceFolder(self.folder).weight_files()

    @cached_property
    def _state(self) -> dict[str, Tensor]:
        state, blocks = {}, defaultdict(dict)
        try:
            for file in self._weight_files():
                for name, tensor in read_weights(file).items():
                    *place, part, kind = name.split(".")
                    if place:  # layers, number, and attention or mlp
                        blocks[place[1]][f"{part}.{kind}"] = tensor
                    else:
                        state[f"{_ENDS[part]}.{kind}"] = tensor
            for number, parts in blocks.items():
                state |= {f"transformer.h.{number}.{name}": tensor for name, tensor in joined(parts).items()}
        except (LookupError, ValueError) as error:
            raise SprigError(
                f"The weights in {self.folder} are none of its modelling file's ({checkpoint.reason(error)}): "
                f"{self.cure}."
            ) from None
        return state
