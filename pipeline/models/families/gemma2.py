"""Gemma 2: Gemma 3's norms and scaled embedding, without norms of q and k; soft caps of attention scores and of the
logits; and a sliding window in every other layer."""

from typing import Any

from litgpt import Config

from pipeline.errors import SprigError
from pipeline.models.families import reading as read
from pipeline.models.families.family import GGUF, Described, Family, Folded, Stock
from pipeline.models.families.gemma import COMMON, NAMES, all_but_every, common_keys, described, sliding_layers

_PATTERN = 2  # every second layer has full attention
_CAPS = {"attention_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"}
_DEFAULTS = {"attention_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}


def _read(plain: dict[str, Any]) -> Described:
    read.refuse_keys(plain, "Gemma 2", "use_bidirectional_attention", "attention_bias")
    rope, _ = read.rope(plain, "rope_theta")
    caps = {ours: plain.get(theirs, _DEFAULTS[ours]) for ours, theirs in _CAPS.items()}
    return described(plain, sliding_layers(plain, _PATTERN), COMMON | rope | caps)


def _keys(config: Config) -> dict[str, Any]:
    return common_keys(config) | {"attention_bias": False}


def _as_llama_cpp(fields: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp's own code has the pattern of layers, and the caps of a file that names none."""
    depth = fields["n_layer"]
    if depth == 46:
        raise SprigError("Gemma 2 27B divides scores by a different number, which GGUF files do not record")
    return _DEFAULTS | fields | {"sliding_window_indices": all_but_every(_PATTERN, depth)}


GEMMA2 = Family(
    name="gemma2",
    called="Gemma 2",
    parts={
        "MLP": ("GemmaMLP",),
        "norms after": ((True, True),),
        "scaled embeddings": (True,),
        "windows": (True,),
        "soft caps": ((True, True), (True, False), (False, True), (False, False)),
    },
    names=NAMES,
    readers={"gemma2": _read},
    stock=Stock("gemma2", "Gemma2ForCausalLM", _keys),
    folded=Folded(norms=1.0),
    # Files hold the norms' weights with one added.
    gguf={
        "gemma2": GGUF(COMMON | {"gelu_approximate": "tanh"}, derived=_as_llama_cpp, windows=True, numbers=_CAPS),
    },
)
