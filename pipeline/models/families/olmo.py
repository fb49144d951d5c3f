"""OLMo 2: norms after attention and MLP and none before, and norms of q and k over all heads together.

When heads are cut, these norms run over the kept entries, as in a stock OLMo 2 of the student's size. So the scale of q
and k changes a little, as that of the stream does when its width is cut.
"""

from typing import Any

from pipeline.models.families import reading as read
from pipeline.models.families.family import GGUF, Described, Family, Names, Stock

_NAMES = Names(
    "model",
    "embed_tokens",
    "norm",
    "lm_head",
    {part: name for part, name in read.LLAMA_NAMES.parts.items() if part not in ("attention_norm", "mlp_norm")}
    | {"attention_post_norm": "post_attention_layernorm", "mlp_post_norm": "post_feedforward_layernorm"},
)
_FIELDS: dict[str, Any] = {
    "norm_1": False,
    "norm_2": False,
    "post_attention_norm": True,
    "post_mlp_norm": True,
    "norm_qk": True,
    "norm_qk_type": "olmo2",
}


def _read(plain: dict[str, Any]) -> Described:
    read.refuse_keys(plain, "OLMo 2", "attention_bias", "layer_types")
    config = read.llama_like(plain, None, norm_eps=plain.get("rms_norm_eps", 1e-5), **_FIELDS)
    return Described(config, read.flag(plain, "tie_word_embeddings", False), _NAMES)


OLMO2 = Family(
    name="olmo2",
    called="OLMo 2",
    parts={
        "norms before": ((False, False),),
        "norms after": ((True, True),),
        "qk norm": (True,),
        "qk norm over heads": (True,),
    },
    names=_NAMES,
    readers={"olmo2": _read},
    stock=Stock("olmo2", "Olmo2ForCausalLM", lambda config: {"attention_bias": False}, typed_scaling=True),
    gguf={"olmo2": GGUF(_FIELDS)},
)
