"""The files that hold a transformers model's weights: which ones they are, and the tensors in them."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.errors import SprigError, reason
from pipeline.models import tokenizer

# transformers takes the first of these that exists; only then come names that it reads on request.
_STANDARD = ("model.safetensors", "pytorch_model.bin")
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<count>\d+)(?P<ending>\.safetensors|\.bin)")
_VARIANT = re.compile(r"(model\..+\.safetensors|pytorch_model\..+\.bin)")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")  # of training loops


def find(folder: Path) -> list[Path]:
    """The files of a folder that hold its model's weights, all of them there.

    Raises:
        SprigError: there is none, one is missing, or it is not clear which ones they are.
    """
    for name in _STANDARD:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _complete([folder / shard for shard in _shards(index)], index.name)
    if (folder / "adapter_config.json").is_file():
        raise SprigError(
            f"{folder} holds an adapter (LoRA) without its model: merge it into the model first, "
            "model.merge_and_unload() of peft, and save the result."
        )
    names = sorted(file.name for file in folder.glob("*") if file.suffix in (".safetensors", ".bin"))
    numbered = [found for found in map(_SHARD.fullmatch, names) if found]
    variants = [name for name in names if _VARIANT.fullmatch(name)]
    sets = {(found["stem"], found["count"], found["ending"]) for found in numbered}
    if len(sets) + len(variants) > 1:
        raise SprigError(
            f"{folder} holds several sets of weights ({', '.join(names[:4])}{', ...' if names[4:] else ''}): "
            f"keep one, or rename one to {_STANDARD[0]}."
        )
    if variants:
        return [folder / variants[0]]
    if sets:
        ((stem, count, ending),) = sets
        width = len(numbered[0]["number"])
        shards = [folder / f"{stem}-{number:0{width}}-of-{count}{ending}" for number in range(1, len(numbered) + 1)]
        if len(numbered) != int(count):
            raise SprigError(f"{folder} holds {len(numbered)} of {int(count)} shards: fetch the model again.")
        return _complete(shards, "their count")
    raise SprigError(f"{folder} has neither {_STANDARD[0]} nor {_STANDARD[1]}: fetch the model's weights.")


def _complete(files: list[Path], by: str) -> list[Path]:
    for file in files:
        if not file.is_file():
            raise SprigError(f"{file} is missing, though {by} names it: fetch the model again.")
    return files


def _shards(index: Path) -> list[str]:
    shards = tokenizer.read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(shard, str) for shard in shards.values()):
        raise SprigError(f"{index} names no shards under weight_map: fetch it again.")
    for shard in shards.values():
        if re.fullmatch(r"[\w-][\w.-]*\.(safetensors|bin)", shard) is None:
            raise SprigError(
                f"{index} names {shard!r:.80}, which is not a file of its folder that holds weights: do not use "
                "this model."
            )
    return sorted(set(shards.values()))


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of one file, by name.

    Raises:
        SprigError: the file is broken, or holds something other than tensors. A pickle is never executed.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise SprigError(
            f"{file} is not a weight file, or holds Python objects, which Sprig does not execute: save the model with "
            "save_pretrained, or its state_dict as safetensors."
        ) from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError) as error:
        raise SprigError(f"{file} is truncated or not a weight file ({reason(error)}): fetch it again.") from None
    return _unwrapped(file, content)


def _unwrapped(file: Path, content: Any) -> dict[str, Tensor]:
    for _ in range(3):
        inner = [content[key] for key in _WRAPPERS if isinstance(content, dict) and isinstance(content.get(key), dict)]
        if len(inner) != 1:
            break
        content = inner[0]
    if not isinstance(content, dict) or not content:
        raise SprigError(f"{file} holds a {type(content).__name__} instead of tensors by name: save a state_dict.")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise SprigError(
                f"{file} holds {name!r:.80}, a {type(tensor).__name__} instead of a tensor: save a state_dict alone."
            )
    return content
