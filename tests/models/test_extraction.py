"""Extraction against masked teachers and against a transformer written out entry by entry."""

import copy
import dataclasses

import dense
import numpy as np
import pytest
import tiny
import torch
from covering import grid, slow

from pipeline.errors import SprigError
from pipeline.models.extraction import cut, extract
from pipeline.models.families import architecture_of, is_tied
from pipeline.models.ordering import importance
from pipeline.models.perplexity import mean_nll
from pipeline.models.student import LayerwiseGPT
from pipeline.subnetwork.selection import LayerSelection, Ordering, Selection, select
from pipeline.subnetwork.value import LayerGenes, SubNetwork, head_size_unit, whole

PAIRS = ["last", "strided", "first", "plain"]
families = pytest.mark.parametrize("family", tiny.families("olmo2"))


def close(ours, theirs):
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=0, atol=1e-4)


def run(model):
    with torch.no_grad():
        return model(tiny.tokens())


def architecture(teacher):
    return architecture_of(teacher.config, is_tied(teacher))


def shuffled_ordering(arch, seed=0):
    identity, rng = Ordering.identity(arch), np.random.default_rng(seed)
    names = ["layers", "embedding", "groups", "heads", "values", "neurons", *(["experts"] if arch.n_expert else [])]
    arrays = {name: rng.permuted(getattr(identity, name), axis=-1) for name in names}
    return Ordering(fingerprint="shuffled", **arrays)


def change(sub, **genes):
    return dataclasses.replace(sub, genes=tuple(dataclasses.replace(gene, **genes) for gene in sub.genes))


@families
def test_everything_kept_is_the_teacher(family):
    teacher = tiny.teacher(family)
    student = extract(teacher, whole(architecture(teacher)), Ordering.identity(architecture(teacher)))
    close(run(student), run(teacher))
    assert is_tied(student) == is_tied(teacher) == (family in tiny.TIED)


@families
def test_a_permutation_changes_nothing(family):
    teacher = tiny.teacher(family)
    arch = architecture(teacher)
    order = shuffled_ordering(arch)
    layers = [
        LayerSelection(
            order.groups[layer],
            order.heads[layer][order.groups[layer]],
            np.arange(arch.head_size),
            order.values[layer][order.groups[layer]],
            order.neurons[layer] if order.experts is None else order.neurons[layer][order.experts[layer]],
            None if order.experts is None else order.experts[layer],
        )
        for layer in range(arch.n_layer)
    ]
    student = cut(teacher, whole(arch), Selection(order.embedding, tuple(layers)))
    assert not torch.equal(student.transformer.wte.weight, teacher.transformer.wte.weight)
    close(run(student), run(teacher))


@families
def test_dropped_neurons_are_masked_neurons(family):
    teacher = tiny.teacher(family)
    arch = architecture(teacher)
    order = shuffled_ordering(arch)
    sub = dataclasses.replace(change(whole(arch), intermediate_size=13), ordering="shuffled")
    student = extract(teacher, sub, order)
    masked = copy.deepcopy(teacher)
    with torch.no_grad():
        for layer, block in enumerate(masked.transformer.h):
            for mlp, neurons in zip(tiny.mlps(block), np.atleast_2d(order.neurons[layer]), strict=True):
                mlp.proj.weight[:, neurons[13:]] = 0
    assert student.config.intermediate_size == 13
    close(run(student), run(masked))


@pytest.mark.proves("cut heads and query groups", lambda family: family)
@pytest.mark.parametrize("family", tiny.families("olmo2")[1:])
@pytest.mark.parametrize("groups, heads", [(2, 2), (3, 1), (1, 1)])
def test_dropped_heads_and_groups_are_masked(family, groups, heads):
    teacher = tiny.teacher(family)
    arch = architecture(teacher)
    order = shuffled_ordering(arch)
    sub = dataclasses.replace(
        change(whole(arch), n_query_groups=groups, heads_per_group=heads), ordering=order.fingerprint
    )
    student = extract(teacher, sub, order)
    masked = copy.deepcopy(teacher)
    with torch.no_grad():
        for layer, block in enumerate(masked.transformer.h):
            mask = torch.zeros(arch.n_query_groups, arch.heads_per_group, arch.head_size)
            for group in order.groups[layer][:groups]:
                mask[group, order.heads[layer][group][:heads]] = 1
            block.attn.proj.weight *= mask.view(-1)
            if arch.qk_norm_over_heads:
                _norm_over_kept(block.attn, mask, heads)
    close(run(student), run(masked))


def _norm_over_kept(attention, mask, heads):
    """Rows of dropped heads become zeros, and norms of q and k over all heads become those over the kept entries: with
    k of n entries, x / sqrt(sum / k + eps) = sqrt(k / n) x / sqrt(sum / n + eps k / n)."""
    groups = mask[:, :, 0].amax(1)
    kept_rows = torch.cat([mask.view(-1), groups.repeat_interleave(mask.size(2)), torch.ones(mask[:, 0].numel())])
    attention.qkv.weight *= kept_rows[:, None]
    shares = groups.sum() * heads / mask[:, :, 0].numel(), groups.mean()
    for norm, share in zip((attention.norm_q, attention.norm_k), shares, strict=True):
        norm.weight *= share.sqrt()
        norm.eps *= share.item()


@pytest.mark.proves("cut heads and query groups", "gpt_neox")
def test_dropped_heads_of_gpt_neox_are_masked():
    teacher = tiny.teacher("gpt_neox")
    arch = architecture(teacher)
    student = extract(teacher, change(whole(arch), n_query_groups=2), Ordering.identity(arch))
    masked = copy.deepcopy(teacher)
    with torch.no_grad():
        for block in masked.transformer.h:
            block.attn.proj.weight[:, 2 * arch.head_size :] = 0
    close(run(student), run(masked))


@families
def test_dropped_layers_are_skipped(family):
    teacher = tiny.teacher(family)
    arch = architecture(teacher)
    everything = whole(arch)
    sub = dataclasses.replace(everything, layers=(0, 2), genes=everything.genes[:2])
    masked = copy.deepcopy(teacher)
    with torch.no_grad():
        for module in (masked.transformer.h[1].attn, *tiny.mlps(masked.transformer.h[1])):
            for parameter in module.proj.parameters():
                parameter.zero_()
    close(run(extract(teacher, sub, Ordering.identity(arch))), run(masked))


@pytest.mark.parametrize("family", tiny.families(of=[each for each in tiny.CONFIGS if not tiny.config(each).norm_qk]))
@pytest.mark.parametrize("scale", ["teacher", "own"])
@pytest.mark.parametrize(
    "pairs, kept_pairs",
    [("last", lambda total, m: range(total - m, total)), ("first", lambda _, m: range(m)),
     ("strided", lambda total, m: range(total // m - 1, total, total // m))],
)  # fmt: skip
def test_a_cut_head_is_the_masked_head(family, scale, pairs, kept_pairs):
    """Half of every head's pairs go. Norms of q cannot be masked: those families are left to the dense reference."""
    teacher = tiny.teacher(family)
    arch = architecture(teacher)
    size, rotary = arch.head_size // 2, arch.rope_entries
    sub = dataclasses.replace(change(whole(arch), head_size=size), head_pairs=pairs, attention_scale=scale)
    student = extract(teacher, sub, Ordering.identity(arch))

    half = rotary // 2
    chosen = list(kept_pairs(half, half // 2))
    chosen += [pair + half for pair in chosen]
    rest = list(range(rotary, arch.head_size))
    chosen += {"last": rest[len(rest) // 2 :], "first": rest[: len(rest) // 2], "strided": rest[::2]}[pairs]
    dropped = [entry for entry in range(arch.head_size) if entry not in chosen]
    masked = copy.deepcopy(teacher)
    with torch.no_grad():
        for block in masked.transformer.h:
            qk, v = arch.n_head + arch.n_query_groups, arch.n_query_groups
            for parameter in block.attn.qkv.parameters():
                by_head = parameter.view(qk + v, arch.head_size, -1)
                by_head[:qk, dropped] = 0
                by_head[qk:, size:] = 0
            if scale == "own":
                block.attn.config = dataclasses.replace(block.attn.config, attention_scores_scalar=size)
    assert len(chosen) == size
    close(run(student), run(masked))


def random_cut(arch, seed, pairs, scale, uniform):
    """Genes and index sets of every kind at once, drawn without `select`."""
    rng = np.random.default_rng(seed)

    def some(size, count):
        return np.sort(rng.permutation(size)[:count])

    def genes():
        unit = head_size_unit(arch)
        return LayerGenes(
            int(rng.integers(1, arch.n_query_groups + 1)),
            int(rng.integers(1, arch.heads_per_group + 1)),
            unit * int(rng.integers(1, arch.head_size // unit + 1)),
            int(rng.integers(1, arch.intermediate_size + 1)),
            None,
            *((int(rng.integers(2, arch.n_expert + 1)), int(rng.integers(1, 3))) if arch.n_expert else ()),
        )

    def neurons(gene):
        if not arch.n_expert:
            return (some(arch.intermediate_size, gene.intermediate_size),)
        of_each = [some(arch.intermediate_size, gene.intermediate_size) for _ in range(gene.n_expert)]
        return np.array(of_each), some(arch.n_expert, gene.n_expert)

    chosen = (genes(),) * 2 if uniform else (genes(), genes())
    sub = SubNetwork((0, 2), int(rng.integers(arch.n_embd // 2, arch.n_embd)), chosen, pairs, scale)
    pairs_kept = select(sub, arch, Ordering.identity(arch)).layers
    layers = tuple(
        LayerSelection(
            some(arch.n_query_groups, g.n_query_groups),
            np.array([some(arch.heads_per_group, g.heads_per_group) for _ in range(g.n_query_groups)]),
            pairs_kept[i].rotary if pairs != "plain" else some(arch.head_size, g.head_size),
            np.array([some(arch.head_size, g.head_size) for _ in range(g.n_query_groups)]),
            *neurons(g),
        )
        for i, g in enumerate(chosen)
    )
    return sub, Selection(some(arch.n_embd, sub.n_embd), layers)


@pytest.mark.proves("cut depth, width and MLP", lambda family: family)
@pytest.mark.proves("cut head size", lambda family: family)
@pytest.mark.parametrize(
    ("family", "pairs", "scale", "uniform"),
    grid(tiny.FIRST, PAIRS, ["teacher", "own"], [True, False], times=2)
    + grid(tiny.LATER, PAIRS, ["teacher", "own"], [True, False]),
)
def test_any_cut_is_the_dense_formula(family, pairs, scale, uniform):
    teacher = tiny.teacher(family)
    double = copy.deepcopy(teacher).double()
    for seed in range(3):
        sub, selection = random_cut(architecture(teacher), seed, pairs, scale, uniform)
        passed = [gene.n_expert_per_token for gene in sub.genes]
        expected = dense.logits(double, tiny.tokens(), sub.layers, selection, pairs == "plain", scale == "own", passed)
        close(run(cut(teacher, sub, selection)), expected)


@families
def test_the_dense_formula_is_litgpt(family):
    teacher = tiny.teacher(family)
    arch = architecture(teacher)
    everything = select(whole(arch), arch, Ordering.identity(arch))
    double = copy.deepcopy(teacher).double()
    close(run(teacher), dense.logits(double, tiny.tokens(), range(arch.n_layer), everything))


@families
def test_a_student_owns_its_memory(family):
    teacher = tiny.teacher(family)
    before = copy.deepcopy(teacher.state_dict())
    student = extract(teacher, whole(architecture(teacher)), Ordering.identity(architecture(teacher)))
    with torch.no_grad():
        for parameter in student.parameters():
            assert parameter.requires_grad
            parameter.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


@families
def test_who_only_scores_shares_what_is_kept_whole_and_changes_none_of_it(family):
    teacher = tiny.teacher(family).requires_grad_(False)
    before, theirs = copy.deepcopy(teacher.state_dict()), {tensor.data_ptr() for tensor in teacher.parameters()}
    arch = architecture(teacher)
    neurons = change(whole(arch), intermediate_size=arch.intermediate_size - 1)
    for sub in (neurons, change(neurons, head_size=arch.head_size // 2)):
        owner, reader = (extract(teacher, sub, Ordering.identity(arch), own=own) for own in (True, False))
        shared = {name for name, tensor in reader.state_dict().items() if tensor.data_ptr() in theirs}
        assert {"transformer.wte.weight", "transformer.ln_f.weight"} < shared
        assert not any("mlp." in name and "proj.weight" in name for name in shared)
        assert torch.equal(run(reader), run(owner))
        assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
        assert not any(tensor.requires_grad for tensor in teacher.parameters())


@pytest.mark.parametrize("family", tiny.families())
@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
@pytest.mark.parametrize("uniform", [False, *slow([[True]])])
def test_a_bf16_teacher_works_like_its_fp32_copy(family, precision, uniform):
    """Large teachers are held in bf16: ordered, cut, scored and run as they are, with rope tables in fp32."""
    teacher = tiny.teacher(family).to(torch.bfloat16)
    teacher.cos, teacher.sin = teacher.rope_cache()
    copy_in_fp32 = copy.deepcopy(teacher).float()
    arch = architecture(teacher)
    blocks = tiny.tokens(4, 18)
    orders = [importance(model, blocks, precision, 2, "measured") for model in (teacher, copy_in_fp32)]
    sub = dataclasses.replace(
        change(whole(arch), head_size=arch.head_size // 2, intermediate_size=20), ordering="measured"
    )
    if not uniform:
        sub = dataclasses.replace(sub, genes=(*sub.genes[:2], dataclasses.replace(sub.genes[0], n_query_groups=1)))
    student = extract(teacher, sub, orders[0])
    assert {parameter.dtype for parameter in student.parameters()} == {torch.bfloat16}
    assert student.cos.dtype == student.sin.dtype == torch.float32
    # Activations in bf16 are good for two digits: the upper half of the neurons is mostly the same.
    halves = [[set(row[:20].tolist()) for layer in order.neurons for row in np.atleast_2d(layer)] for order in orders]
    assert all(len(ours & theirs) >= 17 for ours, theirs in zip(*halves, strict=True))
    for ours, theirs in ((teacher, copy_in_fp32), (student, extract(copy_in_fp32, sub, orders[0]))):
        nll = [mean_nll(model, blocks, 2, precision) for model in (ours, theirs)]
        assert nll[0] == pytest.approx(nll[1], rel=0.05)
        assert mean_nll(ours.float(), blocks, 2, "fp32") == pytest.approx(nll[1], rel=0.05)


def test_what_the_teacher_does_not_contain_is_rejected():
    teacher = tiny.teacher("llama")
    arch = architecture(teacher)
    with pytest.raises(SprigError, match=r"intermediate_size at layer 0=41 is outside 1\.\.40"):
        extract(teacher, change(whole(arch), intermediate_size=41), Ordering.identity(arch))
    with pytest.raises(SprigError, match="found under ordering none"):
        extract(teacher, whole(arch), shuffled_ordering(arch))
    genes = (LayerGenes(3, 2, 16, 40), LayerGenes(3, 2, 8, 40), LayerGenes(1, 2, 4, 30))
    mixed = dataclasses.replace(whole(arch), genes=genes)
    student = extract(teacher, mixed, Ordering.identity(arch))
    assert isinstance(student, LayerwiseGPT)
    with pytest.raises(SprigError, match="layer-wise student"):
        extract(student, whole(arch), Ordering.identity(arch))
