"""Recovery of mixtures: each expert against numpy's least squares on the tokens that pass it."""

import copy
import dataclasses
from itertools import cycle

import numpy as np
import pytest
import tiny
import torch
from covering import slow
from test_extraction import architecture, random_cut
from test_recovery import SETTINGS, Reference, add, double, inputs_of, lstsq

from pipeline.models.extraction import cut
from pipeline.models.recovery import mixture
from pipeline.models.recovery import recover as recovery
from pipeline.models.recovery.recover import Settings, recover
from pipeline.subnetwork.selection import Ordering, select
from pipeline.subnetwork.value import SubNetwork, whole


class Routed(Reference):
    """Rows of tokens, taken one by one where a token's expert is among its largest logits."""

    def __init__(self, *given):
        super().__init__(*given)
        self.originals = {}  # the cut weights

    def solve_rows(self, features, errors, weights, held):
        """As `solve`, of rows (n, ...) of which `held` (n,) are held out."""
        fit, kept = ((features[rows], errors[rows], weights[rows]) for rows in (~held, held))

        def error(delta):
            return (kept[2][:, None] * (kept[1] - kept[0] @ delta) ** 2).sum() / max(len(kept[0]), 1)

        before = error(np.zeros((features.shape[1], errors.shape[1])))
        best = (None, before, None)
        penalties = np.full(features.shape[1], (fit[2][:, None] * fit[0] ** 2).sum(0).mean() / max(len(fit[0]), 1))
        for ridge in self.settings.ridges if penalties.any() else ():
            delta = lstsq(*fit, ridge * penalties)
            if error(delta) < best[1]:
                best = (ridge, error(delta), delta)
        return (*best, before)

    def routing(self, number, expert):
        """Numbers of the tokens that pass an expert, their shares, and whether they are held out."""
        gate = f"transformer.h.{number}.mlp.gate"
        logits = inputs_of(self.student, self.tokens, [gate])[gate][1].flatten(0, -2).numpy()
        passed = self.sub.genes[number].n_expert_per_token
        rows, shares = [], []
        for row, each in enumerate(logits):
            chosen = np.argsort(-each)[:passed]
            if expert in chosen:
                rows.append(row)
                among = each if self.teacher.config.routed_scaling_factor is None else each[chosen]
                shares.append(np.exp(each[expert]) / np.exp(among).sum())
        held = np.repeat(self.held, self.tokens.size(1))
        return np.array(rows, dtype=int), np.array(shares), held[np.array(rows, dtype=int)]

    def rows_of(self, tensor):
        return tensor.flatten(0, -2).double().numpy()

    def router(self, number):
        """Towards the teacher's logits of the kept experts."""
        ours, theirs = (f"transformer.h.{each}.mlp.gate" for each in (number, self.sub.layers[number]))
        x, y = inputs_of(self.student, self.tokens, [ours])[ours]
        target = inputs_of(self.teacher, self.tokens, [theirs])[theirs][1][:, self.selection.layers[number].experts]
        by_token = (each.view(*self.tokens.shape, -1) for each in (x, target - y))
        return [self.student.get_submodule(ours)], self.solve(*by_token, torch.ones(self.tokens.shape), False)

    def expert_inputs(self, number, expert):
        """Towards the teacher's own expert, run on the norm of the teacher's stream."""
        ours, theirs = f"transformer.h.{number}.", f"transformer.h.{self.sub.layers[number]}."
        kept = self.selection.layers[number]
        rows, _, held = self.routing(number, expert)
        x = self.rows_of(inputs_of(self.student, self.tokens, [ours + "mlp"])[ours + "mlp"][0])[rows]
        y = self.rows_of(inputs_of(self.teacher, self.tokens, [theirs + "mlp"])[theirs + "mlp"][0])[rows]
        original = self.teacher.get_submodule(f"{theirs}mlp.experts.{kept.experts[expert]}")
        module = self.student.get_submodule(f"{ours}mlp.experts.{expert}")
        errors = [
            y @ a.weight.detach().numpy()[kept.neurons[expert]].T - x @ b.weight.detach().numpy().T
            for a, b in ((original.fc_1, module.fc_1), (original.fc_2, module.fc_2))
        ]
        return [module.fc_1, module.fc_2], self.solve_rows(x, np.hstack(errors), np.ones(len(rows)), held)

    def expert_output(self, number, expert):
        """The correction of the cut weights while those of the other experts stay."""
        ours = f"transformer.h.{number}"
        module = self.student.get_submodule(f"{ours}.mlp.experts.{expert}.proj")
        original = self.originals.setdefault((number, expert), module.weight.detach().clone())
        module.weight.data = original.clone()
        rows, shares, held = self.routing(number, expert)
        seen = inputs_of(self.student, self.tokens, [ours, f"{ours}.mlp.experts.{expert}.proj"])
        hidden = self.rows_of(seen[f"{ours}.mlp.experts.{expert}.proj"][0])
        target = self.target(number, ["mlp.proj"])
        errors = self.rows_of(target - seen[ours][1])[rows]
        weights = self.weights(target).flatten().numpy()[rows]
        return [module], self.solve_rows(hidden * shares[:, None], errors, weights, held)


def steps(reference, number):
    """Every refit of a layer in order: what it is called, and the reference's own. Recovery reports the last of two
    sweeps over the experts' outputs."""
    layer = [("attn.qkv", lambda: reference.readers(number, "norm_1", ["attn.qkv"])[:2])]
    layer += [("attn.proj", lambda: reference.writers(number, ["attn.proj"])[:2])]
    layer += [("mlp.gate", lambda: reference.router(number))]
    experts = range(reference.sub.genes[number].n_expert)
    for expert in experts:
        name = f"mlp.experts.{expert}."
        layer += [(f"{name}fc_1+{name}fc_2", lambda expert=expert: reference.expert_inputs(number, expert))]
    first = [("", lambda expert=expert: reference.expert_output(number, expert)) for expert in experts]
    return [*layer, *first, *((f"mlp.experts.{expert}.proj", refit) for expert, (_, refit) in enumerate(first))]


@pytest.mark.proves("recovery", lambda family: family)
@pytest.mark.parametrize("family", sorted(tiny.MIXTURES))
@pytest.mark.parametrize("seed", [1, *slow([[0]])])
def test_every_refit_of_an_expert_is_least_squares_on_its_tokens(family, seed):
    teacher = double(family)
    sub, selection = random_cut(architecture(teacher), seed, "last", "teacher", uniform=seed == 0)
    blocks, student = tiny.tokens(12, 17), cut(teacher, sub, selection)
    reference = Routed(teacher, copy.deepcopy(student), sub, selection, blocks, SETTINGS)
    finished = {}
    refits = list(recover(teacher, student, sub, selection, blocks, SETTINGS, on_layer=finished.__setitem__).refits)
    kept = 0
    for number in range(sub.n_layer):
        for name, reference_refit in steps(reference, number):
            modules, (ridge, after, delta, before) = reference_refit()
            refit = refits.pop(0) if name else None
            assert refit is None or (refit.layer, refit.projection, refit.ridge) == (number, name, ridge)
            # Routing weights are in fp32.
            assert refit is None or (refit.before, refit.after) == pytest.approx((before, after), rel=1e-5)
            if delta is None:
                continue
            kept += "experts" in name
            for module, each in zip(modules, np.split(delta, len(modules), axis=1), strict=True):
                add(module, each)
        for name, expected in reference.student.transformer.h[number].state_dict().items():
            torch.testing.assert_close(finished[number].weights[name], expected, rtol=1e-4, atol=1e-5)
    assert not refits and kept > 4


def test_two_sweeps_come_near_to_the_joint_solution(monkeypatch):
    """Of the stream on held-out tokens, with five of eight experts kept, where one sweep leaves some more."""
    fields = {"n_expert": 8, "intermediate_size": 64, "n_layer": 1}
    teacher = double("mixtral", **fields)
    arch = architecture(teacher)
    gene = dataclasses.replace(whole(arch).genes[0], n_expert=5)
    sub = SubNetwork((0,), arch.n_embd, (gene,))
    selection = select(sub, arch, Ordering.identity(arch))
    blocks, settings = tiny.tokens(256, 17), Settings(ridges=(30.0,), held_out=0.125, batch=32)
    losses, errors = cycle([2.0, 1.0]), {}  # the loss of random text may rise, which would undo a recovery
    monkeypatch.setattr(recovery, "_loss", lambda *_: next(losses))
    for sweeps in (1, 2, 8):
        monkeypatch.setattr(mixture, "SWEEPS", sweeps)
        student = cut(teacher, sub, selection)
        reference = Reference(teacher, student, sub, selection, blocks, settings)
        recover(teacher, student, sub, selection, blocks, settings)
        target = reference.target(0, ["mlp.proj"])
        left = target - inputs_of(student, blocks[:, :-1], ["transformer.h.0"])["transformer.h.0"][1]
        errors[sweeps] = (left.square().sum(-1) * reference.weights(target))[reference.held].sum().item()
    assert errors[2] < 1.005 * errors[8] and errors[1] > 1.01 * errors[8]
