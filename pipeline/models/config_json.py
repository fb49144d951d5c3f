"""config.json of a transformers model in litgpt's terms, read by the model's family."""

import reprlib
from typing import Any

from pipeline.errors import SprigError
from pipeline.models.families import FAMILIES
from pipeline.models.families.family import Described

# Parts that no family has, by the keys of config.json that other model types have for them.
_FOREIGN = {
    "kv_lora_rank": "latent attention",
    "n_shared_experts": "shared experts",
    "n_group": "groups of experts",
    "first_k_dense_replace": "dense layers before the mixtures",
}


def describe(plain: dict[str, Any]) -> Described:
    """Reads a config.json.

    Raises:
        SprigError: a value is missing, out of range, in contradiction to another, or of a function that litgpt does
            not compute. Names the key; the caller adds the file.
    """
    readers = {kind: reader for family in FAMILIES.values() for kind, reader in family.readers.items()}
    kind = plain.get("model_type")
    if not isinstance(kind, str) or kind not in readers:
        parts = " and ".join(part for key, part in _FOREIGN.items() if plain.get(key))
        raise SprigError(
            f"it is of model_type {reprlib.repr(kind)}{parts and f', with {parts}'}; supported are "
            f"{', '.join(readers)}: use one of these, or describe your own, teacher.family=my_module.MY_FAMILY "
            "(docs/extend.md)"
        )
    for key in ("quantization_config", "compression_config"):
        if quantised := plain.get(key):
            method = quantised.get("quant_method") if isinstance(quantised, dict) else None
            raise SprigError(
                f"the weights are quantised ({key}: {reprlib.repr(method or quantised)}): dequantise them first, or "
                "use the model from which they were quantised"
            )
    return readers[kind](plain)
