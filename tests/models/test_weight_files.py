"""Weight files as people have them: loaded as transformers loads them, or refused in one sentence."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from test_huggingface import assert_same_logits, convert, make, teacher
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification

from pipeline.errors import SprigError
from pipeline.models import sources
from pipeline.models.families import is_tied


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Folders of tiny models by name, written once."""
    folders = {}

    def folder(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("saved")
            make(name).save_pretrained(folders[name])
        return folders[name]

    return folder


@pytest.fixture
def copied(saved, tmp_path):
    """A folder to change, of the model of this name."""

    def copy(name):
        shutil.copytree(saved(name), tmp_path / "theirs")
        return tmp_path / "theirs"

    return copy


def rewrite(folder, change_names, drop=()):
    """Writes model.safetensors again with each name changed."""
    weights = load_file(folder / "model.safetensors")
    changed = {change_names(name): weight for name, weight in weights.items() if name not in drop}
    save_file(changed, folder / "model.safetensors")


def refused(folder, message, tmp_path, **changes):
    with pytest.raises(SprigError, match=message) as caught:
        sources.convert(teacher(folder, **changes), tmp_path / "ours")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ours").exists()


def stale_buffers(folder):
    weights = load_file(folder / "model.safetensors")
    extra = {"model.rotary_emb.inv_freq": torch.ones(4)}
    extra |= {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(4) for layer in range(3)}
    save_file(weights | extra, folder / "model.safetensors")


def neox_buffers(folder):
    weights = load_file(folder / "model.safetensors")
    for layer in range(3):
        start = f"gpt_neox.layers.{layer}.attention"
        weights[f"{start}.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool)
        weights[f"{start}.masked_bias"] = torch.tensor(-1e9)
        weights[f"{start}.rotary_emb.inv_freq"] = torch.ones(2)
    save_file(weights, folder / "model.safetensors")


def wrapped(*keys):
    def change_folder(folder):
        content = load_file(folder / "model.safetensors")
        for key in keys:
            content = {key: content, "epoch": 3}
        (folder / "model.safetensors").unlink()
        torch.save(content, folder / "pytorch_model.bin")

    return change_folder


def shards_without_an_index(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for number in range(3):
        part = dict(list(weights.items())[number::3])
        save_file(part, folder / f"model-0000{number + 1}-of-00003.safetensors")


def value_head(folder):
    weights = load_file(folder / "model.safetensors")
    head = {"v_head.summary.weight": torch.ones(1, 48), "v_head.summary.bias": torch.ones(1)}
    save_file(weights | head, folder / "model.safetensors")


def head_alone(folder):
    """safetensors keeps one name of tensors that share memory, the alphabetically first."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    save_model(model, str(folder / "model.safetensors"))
    assert "model.embed_tokens.weight" not in load_file(folder / "model.safetensors")


def both_names(folder):
    weights = load_file(folder / "model.safetensors")
    head = weights["model.embed_tokens.weight"].clone()
    save_file(weights | {"lm_head.weight": head}, folder / "model.safetensors")


def classifier(folder):
    LlamaForSequenceClassification.from_pretrained(folder).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    assert "score.weight" in weights and "lm_head.weight" not in weights


def single_file_next_to_an_index(folder):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "none.safetensors"}}))


def half(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({name: weight.double() for name, weight in weights.items()}, folder / "model.safetensors")


WHOLE = {
    "tied, the head alone": ("llama tied", head_alone),
    "tied, both names": ("llama tied", both_names),
    "tied GPT-NeoX, both names": ("neox tied", lambda f: rewrite(f, lambda n: n)),
    "no prefix": ("llama tied", lambda f: rewrite(f, lambda n: n.removeprefix("model."))),
    "no prefix, GPT-NeoX": ("neox", lambda f: rewrite(f, lambda n: n.removeprefix("gpt_neox."))),
    "torch.compile": ("llama", lambda f: rewrite(f, lambda n: f"_orig_mod.{n}")),
    "torch.compile of the body": ("qwen3", lambda f: rewrite(f, lambda n: n.replace("model.", "model._orig_mod."))),
    "data parallel": ("neox serial", lambda f: rewrite(f, lambda n: f"module.{n}")),
    "Lightning": ("llama", lambda f: rewrite(f, lambda n: f"model.{n}")),
    "FSDP": ("qwen2", lambda f: rewrite(f, lambda n: n.replace("layers", "_fsdp_wrapped_module.layers"))),
    "rotary buffers": ("llama", stale_buffers),
    "GPT-NeoX's buffers": ("neox", neox_buffers),
    "state_dict": ("llama", wrapped("state_dict")),
    "two wrappers": ("neox", wrapped("module", "state_dict")),
    "shards without an index": ("qwen2", shards_without_an_index),
    "value head": ("llama", value_head),
    "classifier with tied embedding": ("llama tied", classifier),
    "one file next to an index": ("llama", single_file_next_to_an_index),
    "a variant": ("llama", lambda f: (f / "model.safetensors").rename(f / "model.fp16.safetensors")),
    "float64": ("llama", half),
}


@pytest.mark.parametrize("case", WHOLE)
def test_what_people_have_is_loaded_with_equal_logits(case, copied, tmp_path):
    name, change_folder = WHOLE[case]
    folder = copied(name)
    change_folder(folder)
    assert_same_logits(convert(teacher(folder), tmp_path / "ours"), make(name))


def test_transformers_agrees_where_it_reads_them_too(copied, tmp_path):
    """The two cases whose meaning is transformers' own choice."""
    folder = copied("llama tied")
    classifier(folder)
    assert_same_logits(convert(teacher(folder), tmp_path / "ours"), AutoModelForCausalLM.from_pretrained(folder))


def test_a_differing_head_of_a_tied_config_is_refused_or_taken_as_it_is(copied, tmp_path):
    folder = copied("llama tied")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = torch.randn(300, 48, generator=torch.Generator().manual_seed(1))
    save_file(weights, folder / "model.safetensors")
    refused(folder, r"head differs from its embedding: set teacher\.tied=false", tmp_path)
    ours = convert(teacher(folder, tied=False), tmp_path / "ours")
    assert not is_tied(ours)
    assert torch.equal(ours.lm_head.weight, weights["lm_head.weight"])
