"""Reads a litgpt checkpoint folder: one that litgpt wrote, or a student of Sprig's, padded where its layers differ."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from litgpt import Config
from torch import Tensor

from pipeline import outside
from pipeline.errors import SprigError, reason
from pipeline.models import checkpoint, tokenizer
from pipeline.models.families import checked
from pipeline.models.families.checking import folded
from pipeline.models.padding import uniform, uniform_config
from pipeline.models.student import assemble, is_stock
from pipeline.models.weights import EMBEDDING, HEAD, floats
from pipeline.subnetwork.value import SubNetwork


class LitGPTFolder:
    """One folder, read on demand.

    Raises (when a part is read):
        SprigError: a file is missing or unreadable, or no padding makes the layers alike.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.files = [folder / checkpoint.WEIGHTS, folder / checkpoint.CONFIG]
        for file in self.files:
            if not file.is_file():
                raise SprigError(f"{file} does not exist: set teacher.path to a litgpt checkpoint folder.")
        if self._layerwise is not None:
            self.files.append(folder / checkpoint.SUBNETWORK)

    @cached_property
    def _fields(self) -> dict[str, Any]:
        file = self.folder / checkpoint.CONFIG
        try:
            fields = outside.read_yaml(file)
        except ValueError as error:
            raise SprigError(f"{file} {error}: correct it, or write it again.") from None
        try:
            if not isinstance(fields, dict):
                raise SprigError(f"it holds a {type(fields).__name__} instead of fields")
            checked(fields)
            return fields
        except (SprigError, *checkpoint.UNREADABLE) as error:
            raise SprigError(
                f"{file} is not a litgpt configuration ({reason(error)}): correct it, or write it again."
            ) from None

    @property
    def _own(self) -> Config:
        return checked(self._fields)

    @cached_property
    def _layerwise(self) -> SubNetwork | None:
        """The sub-network of a student whose layers differ."""
        file = self.folder / checkpoint.SUBNETWORK
        if not file.is_file():
            return None
        try:
            sub = SubNetwork.from_dict(outside.read_json(file))
        except ValueError as error:
            raise SprigError(f"{file} {error}: make it again.") from None
        except SprigError as error:
            raise SprigError(f"{file} is not a sub-network of a student ({reason(error)}): make it again.") from None
        return None if is_stock(self._own, sub) else sub

    @cached_property
    def config(self) -> Config:
        return uniform_config(self._own, self._layerwise, self.folder / checkpoint.SUBNETWORK)

    @cached_property
    def _state(self) -> dict[str, Tensor]:
        try:
            state = torch.load(self.files[0], map_location="cpu", mmap=True, weights_only=True)
            state = state.get("model", state)  # litgpt's own training wraps it
            if strange := [name for name, weight in state.items() if not isinstance(weight, Tensor)]:
                raise TypeError(f"{strange[0]!r} is not a tensor")
        except checkpoint.UNREADABLE as error:
            raise SprigError(
                f"{self.files[0]} is truncated or not a weight file ({reason(error)}): make it again."
            ) from None
        return state

    @cached_property
    def tied(self) -> bool:
        head, embedding = self._state.get(HEAD), self._state.get(EMBEDDING)
        return head is None or (embedding is not None and torch.equal(head, embedding))

    def weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        file = self.files[0]
        state = {name: floats(name, weight, dtype, file) for name, weight in self._state.items()}
        state = folded(self._fields).into(state, self._own)
        if self._layerwise is not None:
            if EMBEDDING in state:
                state.setdefault(HEAD, state[EMBEDDING])
            try:
                state = uniform(assemble(self._own, self._layerwise, self.tied, state)).state_dict()
            except (RuntimeError, AttributeError):  # whose text has a line for each weight
                raise SprigError(
                    f"The weights in {self.folder} do not fit its {checkpoint.SUBNETWORK}: make the folder again."
                ) from None
        return state

    def write_tokenizer(self, folder: Path) -> None:
        tokenizer.copy(self.folder, folder)
