"""Reconstruction errors against numpy's least squares on what plain hooks collect."""

import numpy as np
import pytest
import tiny
from covering import slow
from test_recovery import double, inputs_of, lstsq
from torch.nn import functional as F

from pipeline.errors import SprigError
from pipeline.models.families import architecture_of, is_tied
from pipeline.models.reconstruction import RIDGE, measure
from pipeline.subnetwork.selection import Ordering


def shuffled(a, seed=0):
    """An ordering in which nothing is in the teacher's own place."""
    rng = np.random.default_rng(seed)
    plain = Ordering.identity(a)
    arrays = {name: value for name, value in vars(plain).items() if name != "fingerprint"}
    return Ordering(
        "shuffled", **{name: rng.permuted(value, axis=-1) for name, value in arrays.items() if value is not None}
    )


def error_of_a_cut(features, weights, projection, kept):
    """The weighted squared error that is left of a projection whose other inputs are dropped, the prior's part
    included, by numpy on the stacked system."""
    x, root = features.numpy(), weights.sqrt().numpy()[:, None]
    dropped = np.setdiff1d(np.arange(x.shape[1]), kept)
    penalty = RIDGE / len(x) * (x**2 * root**2).sum(0).mean()
    teacher = projection.weight.detach().numpy()
    written = x[:, dropped] @ teacher[:, dropped].T
    constant = [np.ones((len(x), 1))] if projection.bias is not None else []
    read = np.concatenate([x[:, kept], *constant], axis=1)
    penalties = np.array([penalty] * len(kept) + [0.0] * len(constant))
    delta = lstsq(read, written, weights.numpy(), penalties)
    left = ((written - read @ delta) ** 2 * root**2).sum()
    return left + penalty * ((delta[: len(kept)] ** 2).sum() + (teacher[:, dropped] ** 2).sum())


@pytest.mark.proves("`search=allocation`", lambda family: family)
@pytest.mark.parametrize("family", ["llama", "biased", "gpt_neox", "qwen3", *slow([["qwen2"], ["smollm3"]])])
def test_errors_are_those_of_least_squares_times_what_the_loss_feels(family):
    teacher, tokens = double(family), tiny.tokens(5, 17)
    a = architecture_of(teacher.config, is_tied(teacher))
    ordering = shuffled(a)
    found = measure(teacher, ordering, tokens, "fp32", 2)
    names = [f"transformer.h.1.{name}" for name in ("attn.proj", "mlp.proj", "norm_2")]
    seen = inputs_of(teacher, tokens[:, :-1], [*names, "transformer.h.0", "transformer.h.1"])
    before, output = seen["transformer.h.0"][1], seen["transformer.h.1"][1]
    middle = output if a.parallel_residual else before + seen[names[0]][1]

    gradients = {}
    hook = teacher.transformer.h[1].register_full_backward_hook(lambda m, i, o: gradients.update(output=o[0]))
    embedded = teacher.transformer.wte.weight.requires_grad_()
    logits = teacher(tokens[:, :-1])[..., : a.vocab_size]
    F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum").backward()
    embedded.requires_grad_(False)
    hook.remove()

    weights = (1 / (output.square().mean(-1) + teacher.config.norm_eps)).flatten()
    felt = (gradients["output"].square().sum() / weights.sum()).item()
    projection, features = teacher.transformer.h[1].mlp.proj, seen[names[1]][0].flatten(0, 1)
    for width in (1, 7, a.intermediate_size):
        kept = np.sort(ordering.neurons[1][:width])
        wanted = felt * error_of_a_cut(features, weights, projection, kept)
        assert found.mlp[1, width] == pytest.approx(wanted, rel=1e-6, abs=1e-9)
    whole = ((output - before).square().sum(-1).flatten() * weights).sum().item()
    assert found.dropped[1] == pytest.approx(felt * whole, rel=1e-6)

    weights = (1 / (middle.square().mean(-1) + teacher.config.norm_eps)).flatten()
    projection, features = teacher.transformer.h[1].attn.proj, seen[names[0]][0].flatten(0, 1)
    wanted, table = [], []
    for groups in range(1, a.n_query_groups + 1):
        for heads in range(1, a.heads_per_group + 1):
            chosen = [
                group * a.heads_per_group + head
                for group in ordering.groups[1][:groups]
                for head in ordering.heads[1][group][:heads]
            ]
            kept = np.sort((np.array(chosen)[:, None] * a.head_size + np.arange(a.head_size)).ravel())
            wanted.append(error_of_a_cut(features, weights, projection, kept))
            table.append(found.attention[1, groups, heads])
    wanted, table = np.array(wanted), np.array(table)
    assert table[-1] == 0 == pytest.approx(wanted[-1], abs=1e-9)
    np.testing.assert_allclose(table[:-1] / table[0], wanted[:-1] / wanted[0], rtol=1e-6)  # the unit is one factor


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "olmo2"])
def test_projections_in_front_of_a_norm_are_refused(family):
    teacher = double(family)
    ordering = Ordering.identity(architecture_of(teacher.config, is_tied(teacher)))
    with pytest.raises(SprigError, match=f"{family} has norms after attention and MLP: choose another search"):
        measure(teacher, ordering, tiny.tokens(2, 17), "fp32", 2)
