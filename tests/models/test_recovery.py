"""Recovery against numpy's least squares on activations that plain hooks collect, and against what it must restore."""

import copy
import dataclasses
import threading
from itertools import product

import numpy as np
import pytest
import tiny
import torch
from covering import slow
from test_extraction import architecture, random_cut

from pipeline.errors import SprigError
from pipeline.models.extraction import cut
from pipeline.models.perplexity import mean_nll
from pipeline.models.recovery import mixture
from pipeline.models.recovery import recover as recovery
from pipeline.models.recovery.recover import Settings, held_out_blocks, recover
from pipeline.models.student import build
from pipeline.subnetwork.selection import Ordering, select
from pipeline.subnetwork.value import SubNetwork, whole

families = pytest.mark.parametrize("family", tiny.families())
SETTINGS = Settings(ridges=(3.0, 30.0, 300.0), held_out=0.25, batch=3)
DENSE = [name for name in tiny.FIRST if name not in tiny.MIXTURES]
without_experts = pytest.mark.parametrize("family", tiny.families(of=sorted(tiny.CONFIGS.keys() - tiny.MIXTURES)))


def double(family, **changes):
    """A tiny teacher in fp64; `parallel` and others replace the family's own config values."""
    config = dataclasses.replace(tiny.config(family), **changes)
    return tiny.randomize(build(config, None, family in tiny.TIED)).double()


def inputs_of(model, tokens, names):
    """What the named modules read and what the stream is after each layer, over a whole forward pass."""
    seen = {}

    def keep(name):
        def hook(module, given, output):
            seen[name] = (given[0].detach(), output.detach())

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    with torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    return seen


def lstsq(features, errors, weights, penalties):
    """The correction (features, outputs) by numpy on the stacked system."""
    root = np.sqrt(weights)[:, None]
    left = np.concatenate([features * root, np.diag(np.sqrt(penalties))])
    right = np.concatenate([errors * root, np.zeros((len(penalties), errors.shape[1]))])
    return np.linalg.lstsq(left, right, rcond=None)[0]


def flat(tensor, rows):
    return tensor[rows].flatten(0, 1).double().numpy()


class Reference:
    """Refits a cut student site by site: whole forward passes, hooks, stacked least squares."""

    def __init__(self, teacher, student, sub, selection, blocks, settings):
        self.teacher, self.student, self.sub, self.selection = teacher, student, sub, selection
        self.tokens, self.settings = blocks[:, :-1], settings
        self.held = np.array(held_out_blocks(len(blocks), settings.held_out))

    def solve(self, features, errors, weights, bias):
        if bias:
            features = torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)
        fit, held = (
            (flat(features, r), flat(errors, r), weights[r].flatten().numpy()) for r in (~self.held, self.held)
        )
        diagonal = (fit[2][:, None] * fit[0] ** 2).sum(0)
        penalties = np.full(len(diagonal), diagonal[: len(diagonal) - bias].mean() / len(fit[0]))
        if bias:
            penalties[-1] = 0

        def error(delta):
            return (held[2][:, None] * (held[1] - held[0] @ delta) ** 2).sum() / len(held[0])

        before = error(np.zeros((features.shape[-1], errors.shape[-1])))
        best = (None, before, None)
        for ridge in self.settings.ridges:
            delta = lstsq(*fit, ridge * penalties)
            if error(delta) < best[1]:
                best = (ridge, error(delta), delta)
        return (*best, before)

    def readers(self, number, norm, names):
        """The teacher's pre-activations on the kept rows, from its own module outputs."""
        sub, kept, arch = self.sub, self.selection.layers[number], architecture(self.teacher)
        theirs, ours = f"transformer.h.{sub.layers[number]}.", f"transformer.h.{number}."
        seen_theirs = inputs_of(self.teacher, self.tokens, [theirs + name for name in names])
        seen = inputs_of(self.student, self.tokens, [ours + name for name in names])
        if names == ["attn.qkv"]:
            heads = [g * arch.heads_per_group + h for g, hs in zip(kept.groups, kept.heads, strict=True) for h in hs]
            per_head = seen_theirs[theirs + "attn.qkv"][1].unflatten(-1, (-1, arch.head_size))
            q = per_head[..., heads, :][..., kept.rotary]
            if sub.attention_scale == "teacher" and not arch.qk_norm:
                q = q * (len(kept.rotary) / arch.head_size) ** 0.5
            k = per_head[..., arch.n_head + kept.groups, :][..., kept.rotary]
            v = [per_head[..., arch.n_head + arch.n_query_groups + g, :][..., e]
                 for g, e in zip(kept.groups, kept.values, strict=True)]  # fmt: skip
            target = torch.cat([q.flatten(-2), k.flatten(-2), *v], dim=-1)
        else:
            target = torch.cat([seen_theirs[theirs + name][1][..., kept.neurons] for name in names], dim=-1)
        errors = target - torch.cat([seen[ours + name][1] for name in names], dim=-1)
        modules = [self.student.get_submodule(ours + name) for name in names]
        weights = torch.ones(errors.shape[:2])
        if not arch.norms_before:
            weights = self.weights(seen_theirs[theirs + names[0]][0])
        found = self.solve(seen[ours + names[0]][0], errors, weights, modules[0].bias is not None)
        return modules, found, 1

    def target(self, number, names):
        """The stream past the teacher's attention, or up to the next kept layer, on the kept entries."""
        sub = self.sub
        layer = sub.layers[number]
        after = (*sub.layers[1:], architecture(self.teacher).n_layer)[number]
        added = "post_attention_norm" if architecture(self.teacher).norms_after else "attn"
        ends = inputs_of(self.teacher, self.tokens, [f"transformer.h.{layer}", f"transformer.h.{layer}.{added}",
                         f"transformer.h.{after - 1}"])  # fmt: skip
        if names == ["attn.proj"]:
            target = ends[f"transformer.h.{layer}"][0] + ends[f"transformer.h.{layer}.{added}"][1]
        else:
            target = ends[f"transformer.h.{after - 1}"][1]
        return target[..., self.selection.embedding]

    def weights(self, target):
        return 1 / (target.square().mean(-1) + self.teacher.config.norm_eps)

    def writers(self, number, names):
        ours, target = f"transformer.h.{number}.", self.target(number, names)
        seen = inputs_of(self.student, self.tokens, [ours + name for name in (*names, "attn")] + [ours[:-1]])
        stream = seen[ours[:-1]][0] + seen[ours + "attn"][1] if names == ["attn.proj"] else seen[ours[:-1]][1]
        features = torch.cat([seen[ours + name][0] for name in names], dim=-1)
        modules = [self.student.get_submodule(ours + name) for name in names]
        found = self.solve(features, target - stream, self.weights(target), modules[0].bias is not None)
        return modules, found, len(names)

    def normed(self, number, name, norm):
        """What a projection and the norm after it read and add, and where the stream is before that: all tokens."""
        ours, theirs = (f"transformer.h.{each}." for each in (number, self.sub.layers[number]))
        seen = inputs_of(self.student, self.tokens, [ours + each for each in (name, norm, "post_attention_norm")]
                         + [ours[:-1]])  # fmt: skip
        inside = inputs_of(self.teacher, self.tokens, [theirs + norm])[theirs + norm][0]
        before = seen[ours[:-1]][0]
        if name == "mlp.proj":
            before = before + seen[ours + "post_attention_norm"][1]
        return seen[ours + name][0], *seen[ours + norm], inside, before

    def error(self, number, name, norm):
        """Of the stream, a held-out token."""
        target = self.target(number, [name])
        _, _, added, _, before = self.normed(number, name, norm)
        squares = (target - before - added).square().sum(-1) * self.weights(target)
        return squares[self.held].mean().item()

    def projection_before_a_norm(self, number, name, norm):
        """Towards the teacher's own input of the norm, entry by entry plus what else the stream lacks."""
        kept, eps = self.selection.embedding, self.teacher.config.norm_eps
        features, outputs, _, inside, before = self.normed(number, name, norm)
        target = self.target(number, [name])
        gain = self.teacher.get_submodule(f"transformer.h.{self.sub.layers[number]}.{norm}").weight.detach()[kept]
        size = (inside.square().mean(-1) + eps).sqrt()[..., None]
        lacking = target - before - gain * inside[..., kept] / size
        aim = inside[..., kept] + size * lacking * gain / (gain**2 + 0.01 * (gain**2).mean())
        weights = self.weights(target) / (inside.square().mean(-1) + eps)
        return self.solve(features, aim - outputs, weights, False)

    def gain(self, number, name, norm, ridge):
        """The norm's weights, each by least squares of its own."""
        module = self.student.get_submodule(f"transformer.h.{number}.{norm}")
        _, _, added, _, before = self.normed(number, name, norm)
        target = self.target(number, [name])
        weights = self.weights(target)[~self.held].flatten().numpy()
        unit = flat(added / module.weight.detach(), ~self.held)
        errors = flat(target - before - added, ~self.held)
        penalty = ridge / len(weights) * (weights[:, None] * unit**2).sum(0).mean()
        columns = [
            lstsq(unit[:, [each]], errors[:, [each]], weights, np.array([penalty])) for each in range(unit.shape[1])
        ]
        return module.weight.detach() + torch.from_numpy(np.concatenate(columns)[:, 0])


def sampled(teacher, rows, length):
    """Text of the teacher's own, so that whoever is nearer to the teacher has the lower loss on it."""
    generator, text = torch.Generator().manual_seed(2), tiny.tokens(rows, 1)
    with torch.no_grad():
        while text.size(1) < length:
            probabilities = teacher(text)[:, -1, : teacher.config.vocab_size].softmax(-1)
            text = torch.cat([text, torch.multinomial(probabilities, 1, generator=generator)], dim=1)
    return text


def steps(model):
    mlp = ["mlp.fc_1", "mlp.fc_2"] if hasattr(model.transformer.h[0].mlp, "fc_1") else ["mlp.fc"]
    if model.config.parallel_residual:
        return [("norm_1", ["attn.qkv"]), ("norm_2", mlp), (None, ["attn.proj", "mlp.proj"])]
    return [("norm_1", ["attn.qkv"]), (None, ["attn.proj"]), ("norm_2", mlp), (None, ["mlp.proj"])]


def refit_before_a_norm(reference, number, name, norm, refits):
    """Refits a projection and its norm in the reference, and compares each with what recovery reports."""
    projection = reference.student.get_submodule(f"transformer.h.{number}.{name}")
    module = reference.student.get_submodule(f"transformer.h.{number}.{norm}")
    before = reference.error(number, name, norm)
    original = projection.weight.detach().clone()
    ridge, _, delta, _ = reference.projection_before_a_norm(number, name, norm)
    if delta is not None:
        add(projection, delta)
        if (after := reference.error(number, name, norm)) >= before:
            projection.weight.data, ridge = original, None
    after = reference.error(number, name, norm)
    expected = [(name, ridge, before, after)]
    best, chosen = module.weight.detach().clone(), None
    gains = [(each, reference.gain(number, name, norm, each)) for each in reference.settings.ridges]
    before = after
    for each, gain in gains:
        module.weight.data = gain
        if (error := reference.error(number, name, norm)) < after:
            best, chosen, after = gain, each, error
    module.weight.data = best
    for refit, (named, ridge, first, last) in zip(refits, [*expected, (norm, chosen, before, after)], strict=True):
        assert (refit.layer, refit.projection, refit.ridge) == (number, named, ridge)
        assert (refit.before, refit.after) == pytest.approx((first, last), rel=1e-6)


def assert_refits(teacher, sub, selection, settings=SETTINGS):
    """Recovers, and compares every refit, its ridge and its errors with the reference's, in order."""
    blocks = tiny.tokens(12, 17)
    student = cut(teacher, sub, selection)
    reference = Reference(teacher, copy.deepcopy(student), sub, selection, blocks, settings)
    finished = {}
    report = recover(teacher, student, sub, selection, blocks, settings, on_layer=finished.__setitem__)
    refits = list(report.refits)
    for number in range(sub.n_layer):
        for norm, names in steps(teacher):
            if norm and sub.n_embd == teacher.config.n_embd:
                continue
            if not norm and architecture(teacher).norms_after:
                post = "post_attention_norm" if names == ["attn.proj"] else "post_mlp_norm"
                refit_before_a_norm(reference, number, names[0], post, refits[:2])
                del refits[:2]
                continue
            modules, (ridge, after, delta, before) = (
                reference.readers(number, norm, names) if norm else reference.writers(number, names)
            )[:2]
            refit = refits.pop(0)
            assert (refit.layer, refit.projection, refit.ridge) == (number, "+".join(names), ridge)
            assert refit.before == pytest.approx(before, rel=1e-6) and refit.after == pytest.approx(after, rel=1e-6)
            if delta is None:
                continue
            if norm:
                deltas = np.split(delta, np.cumsum([module.out_features for module in modules])[:-1], axis=1)
                for module, each in zip(modules, deltas, strict=True):
                    add(module, each)
            else:
                deltas = np.split(delta, np.cumsum([module.in_features for module in modules])[:-1], axis=0)
                for module, each in zip(modules, deltas, strict=True):
                    add(module, each)
        for name, expected in reference.student.transformer.h[number].state_dict().items():
            torch.testing.assert_close(finished[number].weights[name], expected, rtol=1e-6, atol=1e-7)
    assert not refits
    return report


def add(module, delta):
    with torch.no_grad():
        module.weight += torch.from_numpy(delta[: module.in_features]).T
        if len(delta) > module.in_features:
            module.bias += torch.from_numpy(delta[-1])


def narrow(teacher, **genes):
    """Two layers of three, width whole."""
    arch = architecture(teacher)
    gene = dataclasses.replace(whole(arch).genes[0], **genes)
    sub = SubNetwork((0, 2), arch.n_embd, (gene, dataclasses.replace(gene, intermediate_size=9)))
    return sub, select(sub, arch, Ordering.identity(arch))


@pytest.mark.proves("recovery", lambda family: family)
@pytest.mark.parametrize(
    ("family", "seed"),
    [
        *product(DENSE, [1]),
        ("olmo2", 0),
        *slow([*product(DENSE, [0]), ("olmo2", 1), *product(("gemma2", "smollm3"), (0, 1))]),
    ],
)
def test_every_refit_is_least_squares(family, seed):
    """Heads, head sizes, groups, neurons and width cut at random, by index sets of their own; uniform and not."""
    teacher = double(family)
    assert_refits(teacher, *random_cut(architecture(teacher), seed, "last", "teacher", uniform=seed == 0))


@without_experts
def test_at_full_width_only_output_projections_are_refitted(family):
    teacher = double(family)
    report = assert_refits(teacher, *narrow(teacher, intermediate_size=12))
    refitted = {part for refit in report.refits for part in refit.projection.split("+")}
    assert refitted - {"post_attention_norm", "post_mlp_norm"} == {"attn.proj", "mlp.proj"}


def test_gpt_neox_without_the_parallel_residual():
    teacher = double("gpt_neox", parallel_residual=False)
    assert_refits(teacher, *random_cut(architecture(teacher), 2, "last", "teacher", uniform=False))


def test_a_gap_before_the_first_layer_is_folded_into_it():
    teacher = double("llama")
    sub, selection = narrow(teacher)
    assert_refits(teacher, dataclasses.replace(sub, layers=(1, 2)), selection)


@families
def test_the_unchanged_teacher_stays(family):
    teacher = double(family)
    sub = whole(architecture(teacher))
    selection = select(sub, architecture(teacher), Ordering.identity(architecture(teacher)))
    student = cut(teacher, sub, selection)
    blocks = tiny.tokens(6, 17)
    recover(teacher, student, sub, selection, blocks, SETTINGS)
    with torch.no_grad():
        torch.testing.assert_close(student(blocks), teacher(blocks), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", tiny.families(of=sorted(tiny.CONFIGS.keys() - {"qwen3_moe", "olmoe"})))
def test_what_depends_linearly_on_kept_entries_is_restored(family, monkeypatch):
    """Every dropped neuron is the copy of a kept one, but for what it writes: recovery finds the sum of both. Experts
    that share tokens come to it in a few more sweeps."""
    monkeypatch.setattr(mixture, "SWEEPS", 30)
    teacher = double(family)
    arch = architecture(teacher)
    half = arch.intermediate_size // 2
    with torch.no_grad():
        for mlp in (mlp for block in teacher.transformer.h for mlp in tiny.mlps(block)):
            for name, parameter in mlp.named_parameters():
                if not name.startswith("proj"):
                    parameter[half:] = parameter[:half]
    genes = tuple(dataclasses.replace(gene, intermediate_size=half) for gene in whole(arch).genes)
    sub = dataclasses.replace(whole(arch), genes=genes)
    selection = select(sub, arch, Ordering.identity(arch))
    student, blocks = cut(teacher, sub, selection), sampled(teacher, 32, 17)
    with torch.no_grad():
        assert (student(blocks) - teacher(blocks)).abs().max() > 1e-2
        report = recover(teacher, student, sub, selection, blocks, Settings(ridges=(1e-7,), batch=8))
        seen = blocks[:, :-1]
        torch.testing.assert_close(student(seen), teacher(seen), rtol=0, atol=1e-5)
    assert report.helped


def test_a_recovery_that_does_not_help_returns_the_cut_student(monkeypatch):
    teacher = double("llama")
    sub, selection = narrow(teacher)
    student, untouched = cut(teacher, sub, selection), cut(teacher, sub, selection)
    losses = iter([2.0, 2.5])
    monkeypatch.setattr(recovery, "_loss", lambda *_: next(losses))
    report = recover(teacher, student, sub, selection, tiny.tokens(4, 17), SETTINGS)
    assert (report.helped, report.before, report.after) == (False, 2.0, 2.5)
    assert any(refit.ridge for refit in report.refits)
    for name, tensor in untouched.state_dict().items():
        assert torch.equal(student.state_dict()[name], tensor)


@families
def test_two_blocks_never_raise_the_held_out_loss(family):
    teacher = tiny.teacher(family)
    for seed in range(4):
        sub, selection = random_cut(architecture(teacher), seed, "last", "teacher", uniform=False)
        student, blocks = cut(teacher, sub, selection), tiny.tokens(2, 17)
        before = mean_nll(student, blocks[1:], 1, "fp32")
        report = recover(teacher, student, sub, selection, blocks, SETTINGS)
        assert report.before == pytest.approx(before)
        assert report.held_out_tokens == 16 and report.tokens == 32
        after = mean_nll(student, blocks[1:], 1, "fp32")
        assert after <= before and after == pytest.approx(min(report.after, before))


@pytest.mark.parametrize("family", ["gpt_neox", "qwen3", "mixtral"])
def test_a_resumed_recovery_is_the_same_to_the_bit(family):
    teacher = tiny.teacher(family)
    sub, selection = random_cut(architecture(teacher), 3, "last", "teacher", uniform=False)
    blocks, layers, again = sampled(teacher, 24, 17), [], {}
    student, resumed = cut(teacher, sub, selection), cut(teacher, sub, selection)
    report = recover(
        teacher, student, sub, selection, blocks, SETTINGS, on_layer=lambda number, layer: layers.append(layer)
    )
    second = recover(
        teacher, resumed, sub, selection, blocks, SETTINGS, finished=layers[:1], on_layer=again.__setitem__
    )
    assert second == report and list(again) == [1] and report.helped
    for name, tensor in student.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor)


class Ranks:
    """Threads that add up tensors among themselves, as an all-reduce does."""

    def __init__(self, count):
        self.barrier, self.given = threading.Barrier(count), []

    def reduce(self, tensor):
        self.given.append(tensor.clone())
        self.barrier.wait()
        total = torch.stack(self.given).sum(0)
        self.barrier.wait()
        self.given = []
        self.barrier.wait()
        return total


@pytest.mark.parametrize("family", ["gpt_neox", "qwen2", "mixtral"])
def test_two_ranks_share_out_the_blocks(family):
    teacher = double(family)
    sub, selection = random_cut(architecture(teacher), 1, "last", "teacher", uniform=False)
    blocks, alone = tiny.tokens(13, 17), cut(teacher, sub, selection)
    report = recover(teacher, alone, sub, selection, blocks, SETTINGS)
    ranks, students, reports = Ranks(2), [cut(teacher, sub, selection) for _ in range(2)], [None, None]

    def work(rank):
        reports[rank] = recover(
            teacher, students[rank], sub, selection, blocks, SETTINGS, share=(rank, 2), reduce=ranks.reduce
        )

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reports[0] == reports[1]
    assert reports[0].after == pytest.approx(report.after) and reports[0].tokens == report.tokens
    for student in students:
        for name, tensor in alone.state_dict().items():
            torch.testing.assert_close(student.state_dict()[name], tensor, rtol=1e-6, atol=1e-8)


def test_held_out_blocks_are_spread_evenly():
    assert held_out_blocks(8, 0.25) == [False, False, True, False, False, False, True, False]
    assert [sum(held_out_blocks(count, 0.125)) for count in (2, 3, 16, 256)] == [1, 1, 2, 32]
    assert sum(held_out_blocks(4, 1.0)) == 3


@pytest.mark.parametrize(
    "settings, rows, message",
    [
        (SETTINGS, 1, "needs at least 2 blocks of text, one to fit and one held out, and has 1"),
        (dataclasses.replace(SETTINGS, ridges=(1.0, 0.0)), 4, r"ridges=\[1.0, 0.0\] must be positive"),
        (dataclasses.replace(SETTINGS, ridges=()), 4, r"ridges=\[\] must be positive"),
        (dataclasses.replace(SETTINGS, ridges=(1e-300,)), 2, "attn.proj.* of layer 0 .teacher layer 0. .* singular"),
    ],
)
def test_bad_input_is_one_sentence(settings, rows, message):
    teacher = double("gpt_neox")
    sub, selection = narrow(teacher)
    with pytest.raises(SprigError, match=message):
        recover(teacher, cut(teacher, sub, selection), sub, selection, tiny.tokens(rows, 17), settings)


def test_broken_weights_are_named():
    teacher = double("llama")
    sub, selection = narrow(teacher)
    with torch.no_grad():
        teacher.transformer.h[2].mlp.proj.weight[0, 0] = torch.nan
    with pytest.raises(SprigError, match=r"mlp.proj of layer 1 \(teacher layer 2\) are not finite"):
        recover(teacher, cut(teacher, sub, selection), sub, selection, tiny.tokens(4, 17), SETTINGS)


def test_a_token_without_a_stream_has_a_finite_weight():
    """The embedding of a token that a model never saw may be zero."""
    teacher = double("llama")
    with torch.no_grad():
        teacher.transformer.wte.weight[:30] = 0
        for block in teacher.transformer.h:
            block.attn.proj.weight[:] = 0
    sub, selection = narrow(teacher, intermediate_size=20)
    report = recover(teacher, cut(teacher, sub, selection), sub, selection, tiny.tokens(8, 17), SETTINGS)
    assert np.isfinite([refit.after for refit in report.refits]).all()
