"""config.json of a transformers model in litgpt's terms, read by the model's family."""

import reprlib
from typing import Any

from pipeline.errors import SprigError
from pipeline.models.families import FAMILIES
from pipeline.models.families.family import Described


def describe(plain: dict[str, Any]) -> Described:
    """Reads a config.json.

    Raises:
        SprigError: a value is missing, out of range, in contradiction to another, or of a function that litgpt does
            not compute. Names the key; the caller adds the file.
    """
    readers = {kind: reader for family in FAMILIES.values() for kind, reader in family.readers.items()}
    kind = plain.get("model_type")
    if not isinstance(kind, str) or kind not in readers:
        raise SprigError(
            f"it is of model_type {reprlib.repr(kind)}; supported are {', '.join(readers)}: use one of these"
        )
    if quantised := plain.get("quantization_config") or plain.get("compression_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise SprigError(
            f"the weights are quantised (quantization_config: {reprlib.repr(method)}): dequantise them first, or use "
            "the model from which they were quantised"
        )
    return readers[kind](plain)
