"""Loads the exported folders that it is given as their users do, without Sprig, and says what they compute.

Run with the arguments FOLDER...; reads tokens.pt, writes results.pt.
"""

import json
import sys
from pathlib import Path

sys.modules.update(pipeline=None, litgpt=None)
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

torch.set_num_threads(1)


def load(folder: str, **options):
    """Only what brings its own modelling file has to be trusted; only eager attention caps scores."""
    trusted = (Path(folder) / "modeling_sprig.py").is_file()
    if json.loads((Path(folder) / "config.json").read_text()).get("attn_logit_softcapping"):
        options["attn_implementation"] = "eager"
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trusted, **options).eval()


def takes_static_caches(model) -> bool:
    """Version 4 calls the masks of its own OLMoE without an argument that they need, where a cache is static."""
    return model.config.model_type != "olmoe" or not transformers.__version__.startswith("4.")


@torch.no_grad()
def results(folder: str, tokens: torch.Tensor) -> dict:
    model, prompt = load(folder), tokens[:1, :10]
    asked = {"max_new_tokens": 32, "attention_mask": torch.ones_like(prompt)}
    computed = {
        "logits": model(tokens).logits,
        "continued": model.generate(prompt, **asked)[0, 10:],
        "beams": model.generate(prompt, num_beams=2, **asked).shape,
        "uncached": model.generate(prompt, use_cache=False, **asked)[0, 10:],
        "words": AutoTokenizer.from_pretrained(folder, config=model.config)("Fellow citizens")["input_ids"],
        "special": [model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id],
    }
    if takes_static_caches(model):
        static = {"cache_implementation": "static", "disable_compile": True}
        computed["static"] = model.generate(prompt, **static, **asked)[0, 10:]
    left = torch.cat([torch.full((1, 5), 256), tokens[:1]], dim=1)
    mask = (torch.arange(left.shape[1]) >= 5)[None].long()
    computed["padded"] = model(left, attention_mask=mask).logits[:, 5:]
    if (Path(folder) / "modeling_sprig.py").is_file():
        attentions = model(tokens, output_attentions=True).attentions
        computed["attentions"] = [each.sum(dim=-1).sub(1).abs().max() for each in attentions]
        computed["eager"] = load(folder, attn_implementation="eager")(left, attention_mask=mask).logits[:, 5:]
    again = f"{folder}-again"
    model.save_pretrained(again)
    computed["again"] = load(again)(tokens).logits
    model.resize_token_embeddings(264)
    model.save_pretrained(f"{folder}-resized")
    computed["resized"] = load(f"{folder}-resized")(tokens).logits[..., :257]
    return computed


torch.save({folder: results(folder, torch.load("tokens.pt")) for folder in sys.argv[1:]}, "results.pt")
assert [name for name in sys.modules if name.split(".")[0] == "pipeline"] == ["pipeline"]
