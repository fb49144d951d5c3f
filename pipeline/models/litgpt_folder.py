"""Reads a litgpt checkpoint folder: one that litgpt wrote, or a uniform student of Sprig's."""

import json
from functools import cached_property
from pathlib import Path

import torch
from litgpt import Config
from torch import Tensor

from pipeline.errors import SprigError
from pipeline.models import checkpoint, tokenizer
from pipeline.models.student import is_stock
from pipeline.subnetwork.value import SubNetwork


class LitGPTFolder:
    """One folder, read on demand.

    Raises (when a part is read):
        SprigError: a file is missing or unreadable, or the layers differ in their sizes.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.files = [folder / checkpoint.WEIGHTS, folder / checkpoint.CONFIG]
        for file in self.files:
            if not file.is_file():
                raise SprigError(f"{file} does not exist: set teacher.path to a litgpt checkpoint folder.")

    @cached_property
    def config(self) -> Config:
        try:
            config = Config.from_file(self.files[1])
        except checkpoint.UNREADABLE as error:
            raise SprigError(
                f"{self.files[1]} is no litgpt configuration ({checkpoint.reason(error)}): make it anew."
            ) from None
        if (self.folder / checkpoint.SUBNETWORK).is_file() and not is_stock(config, self._student()):
            raise SprigError(
                f"{self.folder} is a layer-wise student, and a teacher's layers are all alike: export it with "
                "export.form=padded to use it as a teacher."
            )
        return config

    def _student(self) -> SubNetwork:
        file = self.folder / checkpoint.SUBNETWORK
        try:
            return SubNetwork.from_dict(json.loads(file.read_text(encoding="utf-8")))
        except (SprigError, ValueError) as error:
            raise SprigError(
                f"{file} is no sub-network of a student ({checkpoint.reason(error)}): make it anew."
            ) from None

    @cached_property
    def _state(self) -> dict[str, Tensor]:
        try:
            state = torch.load(self.files[0], map_location="cpu", mmap=True, weights_only=True)
            state = state.get("model", state)  # litgpt's own training wraps it
            if strange := [name for name, weight in state.items() if not isinstance(weight, Tensor)]:
                raise TypeError(f"{strange[0]!r} is no tensor")
        except checkpoint.UNREADABLE as error:
            raise SprigError(
                f"{self.files[0]} is cut short or no weight file ({checkpoint.reason(error)}): make it anew."
            ) from None
        return state

    @cached_property
    def tied(self) -> bool:
        head, embedding = self._state.get("lm_head.weight"), self._state.get("transformer.wte.weight")
        return head is None or (embedding is not None and torch.equal(head, embedding))

    def weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        return {name: weight.to(dtype) for name, weight in self._state.items()}

    def write_tokenizer(self, folder: Path) -> None:
        tokenizer.copy(self.folder, folder)
