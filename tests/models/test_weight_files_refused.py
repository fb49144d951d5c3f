"""Weight files that are refused, each in one sentence that names the part."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_huggingface import change
from test_weight_files import classifier, copied, refused, rewrite, saved, shards_without_an_index
from transformers import AutoModelForCausalLM

__all__ = ["copied", "saved"]  # fixtures


def set_tensor(name, value):
    def change_folder(folder):
        weights = load_file(folder / "model.safetensors")
        weights[name] = value(weights[name]) if callable(value) else value
        save_file(weights, folder / "model.safetensors")

    return change_folder


def poisoned(value):
    def poison(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[7] = value
        return tensor

    return poison


def untied_without(name):
    return lambda folder: rewrite(folder, lambda n: n, drop=(name,))


def lora(folder):
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")


def two_variants(folder):
    shutil.copyfile(folder / "model.safetensors", folder / "model.fp16.safetensors")
    (folder / "model.safetensors").rename(folder / "model.bf16.safetensors")


def a_shard_short(folder):
    shards_without_an_index(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()


def index_outside(target):
    def change_folder(folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": target}}))

    return change_folder


def whole_pickle(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model, folder / "pytorch_model.bin")


def pickled(content):
    def change_folder(folder):
        (folder / "model.safetensors").unlink()
        torch.save(content, folder / "pytorch_model.bin")

    return change_folder


Q, GATE, UP = (
    "model.layers.1.self_attn.q_proj.weight",
    "model.layers.2.mlp.gate_proj.weight",
    "model.layers.0.mlp.up_proj.weight",
)
REFUSED = {
    "no embedding, untied": (
        "llama",
        untied_without("model.embed_tokens.weight"),
        "weights lack transformer.wte.weight",
    ),
    "no head, untied": ("llama", untied_without("lm_head.weight"), "without a language modelling head"),
    "neither, tied": ("llama tied", untied_without("model.embed_tokens.weight"), "weights lack transformer.wte.weight"),
    "classifier, untied": ("llama", classifier, "without a language modelling head"),
    "no k": ("llama", untied_without("model.layers.1.self_attn.k_proj.weight"), "layers.1 has no weight of k"),
    "NaN": ("llama", set_tensor(UP, poisoned(float("nan"))), rf"^{UP} in .*/model.safetensors holds .* not finite"),
    "inf": (
        "neox",
        set_tensor("embed_out.weight", poisoned(float("inf"))),
        "^embed_out.weight in .* holds .* not finite",
    ),
    "-inf": (
        "llama tied",
        set_tensor("model.norm.weight", poisoned(-float("inf"))),
        "^model.norm.weight in .* holds .* not finite",
    ),
    "int8": ("llama", set_tensor(GATE, lambda t: (t * 40).to(torch.int8)), rf"{GATE} as int8, not as plain floats"),
    "uint8": ("neox", set_tensor("embed_out.weight", lambda t: t.to(torch.uint8)), "as uint8, not as plain floats"),
    "float8": ("llama", set_tensor(Q, lambda t: t.to(torch.float8_e4m3fn)), rf"{Q} as float8_e4m3fn, not as plain"),
    "bool": ("llama", set_tensor(Q, lambda t: t > 0), "as bool, not as plain floats"),
    "complex": ("llama", set_tensor(Q, lambda t: t.to(torch.complex64)), "as complex64, not as plain floats"),
    "embedding longer": (
        "llama",
        set_tensor("model.embed_tokens.weight", lambda t: torch.cat([t, t[:4]])),
        "embedding has 304 rows and its head 300",
    ),
    "head longer": (
        "neox",
        set_tensor("embed_out.weight", lambda t: torch.cat([t, t[:1]])),
        "300 rows and its head 301",
    ),
    "both longer": (
        "llama tied",
        set_tensor("model.embed_tokens.weight", lambda t: torch.cat([t, t])),
        r"\(600, 48\) where its configuration says \(300, 48\)",
    ),
    "GPTQ": ("llama", lambda f: rewrite(f, lambda n: n.replace("up_proj.weight", "up_proj.qweight")), "dequantise"),
    "scales": ("llama", lambda f: rewrite(f, lambda n: n.replace("norm.weight", "norm.scales")), "dequantise"),
    "LoRA names": ("llama", lambda f: rewrite(f, lambda n: n.replace("q_proj", "q_proj.lora_A")), "merge the adapter"),
    "LoRA folder": ("llama", lora, r"an adapter \(LoRA\) without its model: merge"),
    "another model": (
        "llama",
        lambda f: rewrite(f, lambda n: n.replace("mlp", "moe")),
        "moe.down_proj.weight, which no",
    ),
    "twice, differing": (
        "llama",
        lambda f: save_file(
            load_file(f / "model.safetensors") | {"_orig_mod.lm_head.weight": torch.zeros(300, 48)},
            f / "model.safetensors",
        ),
        "holds a second lm_head.weight with other values",
    ),
    "bias of none": (
        "neox",
        lambda f: change(f, attention_bias=False),
        "query_key_value.bias, but config.json says that there is none|attention.dense.bias, but config.json says",
    ),
    "two variants": ("llama", two_variants, "holds several sets of weights .*keep one"),
    "a shard short": ("llama", a_shard_short, "holds 2 of 3 shards"),
    "index to /etc": ("llama", index_outside("/etc/passwd"), "names '/etc/passwd', which is not a file of its"),
    "index upwards": ("llama", index_outside("../x.safetensors"), "which is not a file of its folder"),
    "index to a subfolder": ("llama", index_outside("a/x.safetensors"), "which is not a file of its folder"),
    "index to itself": ("llama", index_outside("config.json"), "which is not a file of its folder"),
    "whole model": ("llama", whole_pickle, "holds Python objects, which Sprig does not execute: save"),
    "a list": ("llama", pickled([torch.zeros(1)]), "holds a list instead of tensors by name"),
    "numbers": ("llama", pickled({"a": 1}), "holds 'a', a int instead of a tensor"),
    "numbered tensors": ("llama", pickled({1: torch.zeros(1)}), "holds 1, a Tensor instead of a tensor"),
    "sparse": ("llama", pickled({"lm_head.weight": torch.eye(3).to_sparse()}), "sparse_coo, not as plain floats"),
    "empty": ("llama", pickled({}), "instead of tensors by name"),
    "no rows": ("llama", set_tensor(UP, lambda t: t[:0]), r"fc_2.weight, by litgpt's name, has shape \(0, 48\) where"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_rest_is_refused_in_one_sentence(case, copied, tmp_path):
    name, change_folder, message = REFUSED[case]
    folder = copied(name)
    change_folder(folder)
    refused(folder, re.sub(r"(?<!\\)\.(?=\w)", r"\\.", message), tmp_path)


def test_not_finite_in_16_bits_alone(copied, tmp_path):
    """A weight may be finite as published and not in the dtype of the run."""
    folder = copied("llama")
    set_tensor(UP, poisoned(3.4e38))(folder)
    refused(folder, "not finite", tmp_path, dtype="bf16")
