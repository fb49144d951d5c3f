"""A model as a litgpt checkpoint folder: lit_model.pth, model_config.yaml, tokenizer files, subnetwork.json."""

import json
import logging
import pickle
import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from litgpt import GPT, Config

from pipeline.artifacts import replacing
from pipeline.errors import SprigError, reason
from pipeline.models.families import is_tied
from pipeline.models.student import build
from pipeline.models.weights import EMBEDDING, HEAD
from pipeline.models.writing import writing
from pipeline.subnetwork.about import About
from pipeline.subnetwork.value import ABOUT, SubNetwork

WEIGHTS, CONFIG, SUBNETWORK = "lit_model.pth", "model_config.yaml", "subnetwork.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "generation_config.json")
# What a broken folder makes torch, pickle, yaml and litgpt's Config raise.
UNREADABLE = (
    OSError,
    RuntimeError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    EOFError,
    RecursionError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    yaml.YAMLError,
)
log = logging.getLogger("sprig")


def _compact(tensor: torch.Tensor) -> torch.Tensor:
    # torch.save writes whole storages: a view into an optimizer's flat buffer would bring all of it.
    tensor = tensor.detach().cpu()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def save(model: GPT, folder: Path, sub: SubNetwork | None, tokenizer: Path, about: About | None = None) -> None:
    """Writes the model with the tokenizer files of folder `tokenizer`. Tied weights share one storage in the file.
    `about` goes into subnetwork.json.

    Raises:
        SprigError: the tokenizer's folder has no tokenizer.json.
        OSError: the disk is full or not writable.
    """
    if not (tokenizer / "tokenizer.json").is_file():
        raise SprigError(f"{tokenizer} has no tokenizer.json, which every checkpoint needs: name a tokenizer's folder.")
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: _compact(tensor) for name, tensor in model.state_dict().items()}
    if is_tied(model):
        weights[HEAD] = weights[EMBEDDING]
    with writing(folder / WEIGHTS), (folder / WEIGHTS).open("wb") as file:
        torch.save(weights, file)
    (folder / CONFIG).write_text(yaml.dump(asdict(model.config)), encoding="utf-8")
    if sub is not None:
        noted = {} if about is None else {ABOUT: about}
        (folder / SUBNETWORK).write_text(json.dumps(sub.to_dict() | noted, indent=1) + "\n")
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)


def load(folder: Path, device: torch.device | str, dtype: torch.dtype = torch.float32) -> GPT:
    """The model of a folder that `save` wrote.

    Raises:
        SprigError: a file is missing or unreadable, or the weights do not fit the config.
    """
    path = Path(folder) / SUBNETWORK
    try:
        sub = SubNetwork.from_dict(json.loads(path.read_text())) if path.is_file() else None
        config = Config.from_file(Path(folder) / CONFIG)
        weights = torch.load(Path(folder) / WEIGHTS, map_location="cpu", mmap=True, weights_only=True)
        tied = weights[HEAD].data_ptr() == weights[EMBEDDING].data_ptr()
        model = build(config, sub, tied, device, dtype)
        model.load_state_dict(weights)
    except (SprigError, *UNREADABLE) as error:
        raise SprigError(
            f"{folder} is not a checkpoint that Sprig can load: {reason(error)}. Make it again."
        ) from error
    return model


def keep(work: dict[str, Any], file: Path) -> None:
    """Puts the state of unfinished work on the disk, in whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as opened, writing(file):
        torch.save(work, opened)


def kept(file: Path) -> dict[str, Any] | None:
    """What `keep` wrote; None where there is nothing, or what is there is damaged: that work has to be done again."""
    if not file.exists():
        return None
    try:
        with zipfile.ZipFile(file) as saved:  # torch.load does not compare the checksums that torch.save wrote
            if changed := saved.testzip():
                raise ValueError(f"{changed} was changed")
        return torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        log.warning("%s cannot be read (%s): Sprig repeats this work.", file, reason(error))
        return None
