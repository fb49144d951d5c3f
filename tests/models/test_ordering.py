import dataclasses

import numpy as np
import pytest
import tiny
import torch

from pipeline.errors import SprigError
from pipeline.models import ordering
from pipeline.models.extraction import cut, extract
from pipeline.models.families import architecture_of, is_tied
from pipeline.subnetwork.selection import LayerSelection, Selection
from pipeline.subnetwork.value import LayerGenes, SubNetwork, whole

NAMES = ("layers", "embedding", "groups", "heads", "values", "neurons")


def names(teacher):
    return (*NAMES, "experts") if teacher.config.n_expert else NAMES


def measure(teacher, blocks=None, batch=2, precision="fp32"):
    return ordering.importance(teacher, tiny.tokens(5, 18) if blocks is None else blocks, precision, batch, "print")


def architecture(teacher):
    return architecture_of(teacher.config, is_tied(teacher))


@pytest.mark.parametrize("family", tiny.families("olmo2"))
def test_it_is_a_permutation_that_changes_nothing(family):
    teacher = tiny.teacher(family)
    arch, order = architecture(teacher), measure(teacher)
    for name in names(teacher):
        array = getattr(order, name)
        assert np.array_equal(np.sort(array, axis=-1), np.broadcast_to(np.arange(array.shape[-1]), array.shape))
    layers = []
    for layer, groups in enumerate(order.groups):
        experts = None if order.experts is None else order.experts[layer]
        neurons = order.neurons[layer] if experts is None else order.neurons[layer][experts]
        heads, values = order.heads[layer][groups], order.values[layer][groups]
        layers.append(LayerSelection(groups, heads, np.arange(arch.head_size), values, neurons, experts))
    assert order.heads.shape == (3, arch.n_query_groups, arch.heads_per_group)
    permuted = cut(teacher, whole(arch), Selection(order.embedding, tuple(layers)))
    with torch.no_grad():
        torch.testing.assert_close(permuted(tiny.tokens()), teacher(tiny.tokens()), rtol=0, atol=1e-4)


def naive(teacher, blocks):
    """The scores by their definitions, from everything that flows through the modules of one big forward pass."""
    config, seen = teacher.config, {}
    handles = [
        module.register_forward_hook(lambda module, args, output, name=name: seen.update({name: (args[0], output)}))
        for name, module in teacher.named_modules()
        if name.startswith("transformer.")
    ]
    with torch.no_grad():
        teacher(blocks[:, :-1])
    for handle in handles:
        handle.remove()
    seen = {name: [tensor.double().flatten(0, -2).numpy() for tensor in pair] for name, pair in seen.items()}
    if not config.norm_1:  # attention and MLP read the stream itself
        for name in [name for name in seen if name.endswith(("norm_1", "norm_2"))]:
            seen[name][1] /= np.sqrt((seen[name][1] ** 2).mean(1, keepdims=True))
    norms = [output for name, (_, output) in seen.items() if name.endswith(("norm_1", "norm_2", "ln_f"))]
    scores = {"embedding": sum(abs(output).mean(0) for output in norms), "layers": []}
    for layer in range(config.n_layer):
        x, y = seen[f"transformer.h.{layer}"]
        cosines = [one @ two / np.linalg.norm(one) / np.linalg.norm(two) for one, two in zip(x, y, strict=True)]
        scores["layers"].append(1 - np.mean(cosines))
        attention = np.split(seen[f"transformer.h.{layer}.attn.proj"][0], config.n_head, axis=1)
        per_group = config.n_head // config.n_query_groups
        heads = np.reshape([np.linalg.norm(head, axis=1).mean() for head in attention], (-1, per_group))
        values = np.reshape([abs(head).mean(0) for head in attention], (-1, per_group, config.head_size))
        weights = np.split(
            teacher.transformer.h[layer].attn.proj.weight.detach().double().numpy(), config.n_head, axis=1
        )
        wanda = [abs(w) * np.sqrt((head**2).sum(0)) for w, head in zip(weights, attention, strict=True)]
        scores.setdefault("heads", []).append(np.reshape([np.linalg.norm(w) for w in wanda], heads.shape))
        scores.setdefault("groups", []).append(heads.sum(1))
        scores.setdefault("values", []).append(values.sum(1))
        if config.n_expert:
            neurons, experts = naive_experts(config, layer, seen)
            scores.setdefault("neurons", []).append(neurons)
            scores.setdefault("experts", []).append(experts)
            continue
        scores.setdefault("neurons", []).append(abs(seen[f"transformer.h.{layer}.mlp.proj"][0]).mean(0))
    return {name: np.array(array) for name, array in scores.items()}


def naive_experts(config, layer, seen):
    """Each token's share of an expert, token by token."""
    router = seen[f"transformer.h.{layer}.mlp.gate"][1]
    neurons, sums = np.zeros((config.n_expert, config.intermediate_size)), np.zeros(config.n_expert)
    row = [0] * config.n_expert
    for logits in router:
        chosen = np.argsort(-logits)[: config.n_expert_per_token]
        for expert in chosen:
            among = logits if config.routed_scaling_factor is None else logits[chosen]
            share = np.exp(logits[expert]) / np.exp(among).sum()
            hidden, output = seen[f"transformer.h.{layer}.mlp.experts.{expert}.proj"]
            neurons[expert] += share * abs(hidden[row[expert]])
            sums[expert] += share * np.linalg.norm(output[row[expert]])
            row[expert] += 1
    return neurons, sums


@pytest.mark.proves("importance ordering", lambda family: family)
@pytest.mark.parametrize("family", tiny.families("olmo2", "olmoe"))
def test_scores_follow_their_definitions_whatever_the_batch(family):
    teacher, blocks = tiny.teacher(family), tiny.tokens(5, 18)
    scores = naive(teacher, blocks)
    assert set(scores) == set(names(teacher))
    for batch in (1, 3, 5):
        order = measure(teacher, blocks, batch)
        for name in names(teacher):
            ranked = np.take_along_axis(scores[name], getattr(order, name), axis=-1)
            # Descending up to the rounding of fp32 activations.
            assert (np.diff(ranked) <= 1e-5 * ranked.max()).all(), name


def test_ties_keep_the_teachers_order_and_nothing_stays_behind():
    teacher = tiny.teacher("llama").train()
    with torch.no_grad():
        for block in teacher.transformer.h:
            block.mlp.fc_2.weight.zero_()
    order = measure(teacher, precision="bf16-mixed")
    assert np.array_equal(order.neurons, np.broadcast_to(np.arange(40), (3, 40)))
    assert teacher.training and not any(module._forward_hooks for module in teacher.modules())


def test_an_important_cut_is_nearer_to_the_teacher():
    teacher = tiny.teacher("llama")
    arch = architecture(teacher)
    with torch.no_grad():
        for block in teacher.transformer.h:
            block.mlp.fc_2.weight[:20] *= 0.05
    order = measure(teacher)
    sub = SubNetwork((0, 1, 2), arch.n_embd, (LayerGenes(3, 2, 16, 20),) * 3, ordering="print")
    plain = dataclasses.replace(sub, ordering="none")
    with torch.no_grad():
        expected = teacher(tiny.tokens())
        ours = (extract(teacher, sub, order)(tiny.tokens()) - expected).abs().mean()
        theirs = (extract(teacher, plain, order.identity(arch))(tiny.tokens()) - expected).abs().mean()
    assert ours < theirs / 4


@pytest.mark.parametrize("family", ["gpt_neox", "mixtral"])
def test_it_survives_its_file(family, tmp_path):
    teacher = tiny.teacher(family)
    order = measure(teacher)
    ordering.save(order, tmp_path / "order")
    loaded = ordering.load(tmp_path / "order")
    assert loaded.fingerprint == "print"
    assert all(np.array_equal(getattr(loaded, name), getattr(order, name)) for name in names(teacher))
    assert (loaded.experts is None) == (family == "gpt_neox")
    content = (tmp_path / "order" / "ordering.npz").read_bytes()
    for broken in (content[: len(content) // 2], content[:-1], b"PK", b""):
        (tmp_path / "order" / "ordering.npz").write_bytes(broken)
        with pytest.raises(SprigError, match="is not an ordering"):
            ordering.load(tmp_path / "order")
    with pytest.raises(SprigError, match="is not an ordering"):
        ordering.load(tmp_path)
