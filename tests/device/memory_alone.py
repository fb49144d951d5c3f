"""What a plan says that activations take, against what autograd saves on a fake card."""

from dataclasses import replace

import pytest
import tiny
import torch
from covering import grid
from litgpt import Config
from torch.nn import functional as F

from benchmarks.fake_cuda import flash_attention
from pipeline.models.families import architecture_of
from pipeline.models.precision import autocast
from pipeline.models.student import build, hidden_states
from pipeline.subnetwork.value import whole
from pipeline.training.memory import layer_activations

# The dimensions of real models; the others at tiny ones, where normalisers and seeds weigh more.
CONFIGS = {"pythia-2.8b": Config.from_name("pythia-2.8b"), "smollm2": Config.from_name("SmolLM2-135M")} | {
    family: replace(tiny.config(family), block_size=256) for family in ("qwen2", "qwen3", "biased", "olmo2")
}
CONFIGS |= {
    family: replace(tiny.config(family), block_size=256, sliding_window_size=256) for family in ("gemma2", "gemma3")
}
BATCH, LENGTH = 2, 256


def saved(config, precision, device):
    """Bytes that the backward pass needs of the forward pass, without autocast's copies of weights."""
    model = build(config, None, False, device)
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    shapes = {parameter.shape for parameter in model.parameters()}
    shapes |= {shape[::-1] for shape in shapes}
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            found[storage._cdata] = (storage, tensor.shape in shapes)
        return tensor

    tokens = torch.zeros(BATCH, LENGTH, dtype=torch.long, device=device)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast(precision, device):
        hidden_states(model, tokens)
    return sum(storage.nbytes() for storage, copy in found.values() if not copy)


@pytest.mark.parametrize(("name", "precision"), grid(CONFIGS, ["fp32", "bf16-mixed"]))
def test_a_block_keeps_what_the_plan_says(cuda, monkeypatch, name, precision):
    monkeypatch.setattr(F, "scaled_dot_product_attention", flash_attention)
    one, two = (saved(replace(CONFIGS[name], n_layer=layers), precision, cuda) for layers in (1, 2))
    architecture = architecture_of(replace(CONFIGS[name], n_layer=1), tied=False)
    gene = whole(architecture).genes[0]
    wanted = BATCH * LENGTH * layer_activations(architecture, architecture.n_embd, gene, precision, LENGTH)
    assert two - one == pytest.approx(wanted, abs=64), "but for the seeds of attention's dropout"


def kept_by_mlp(family, precision):
    """Bytes of a token that autograd keeps of an MLP but for its weights, and those that a plan counts of its block."""
    fields = {"n_embd": 48, "head_size": 16, "n_layer": 1, "n_expert_per_token": 2}
    model = tiny.randomize(build(Config(**tiny.CONFIGS[family] | fields), None, tied=False))
    mlp, arch = model.transformer.h[0].mlp, architecture_of(model.config, tied=False)
    weights = {parameter.shape for parameter in mlp.parameters()}
    weights |= {shape[::-1] for shape in weights}
    found = {}

    def pack(tensor):
        if tensor.shape not in weights:
            found[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    x = torch.randn(8, 64, 48).requires_grad_() * 1  # autocast would keep what it makes of a leaf
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast(precision, x.device):
        mlp(x)
    planned = layer_activations(arch, 48, whole(arch).genes[0], precision, 64)
    return sum(storage.nbytes() for storage in found.values()) / (8 * 64), planned


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_a_mixture_keeps_what_the_plan_says_beyond_one_mlp(precision):
    (plain, one), (mixed, many) = (kept_by_mlp(family, precision) for family in ("llama", "mixtral"))
    assert many - one == pytest.approx(mixed - plain, rel=0.02)
