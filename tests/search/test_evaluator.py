"""Losses of candidates: against a plain forward pass, and what changes no bit of them."""

import math

import numpy as np
import pytest
import tiny
import torch
from litgpt import Config
from torch.nn import functional as F

from pipeline.config import BinConfig, Fitness, SpaceConfig
from pipeline.models.extraction import extract
from pipeline.models.families import architecture_of
from pipeline.models.student import build
from pipeline.search.evaluator import Evaluator
from pipeline.search.fitness import fitness_of
from pipeline.subnetwork.bins import make_bin
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import whole

FAMILIES = tiny.families()
BLOCKS = tiny.tokens(8, 17)
STATE = 16 * 96 * 4  # bytes of one block's hidden states


def space_of(teacher, **config) -> Space:
    architecture = architecture_of(teacher.config, teacher.config.name in tiny.TIED)
    return Space(architecture, SpaceConfig(**config), make_bin(BinConfig(low=1, high=10**9)), None)


def evaluator(teacher, **options) -> Evaluator:
    architecture = architecture_of(teacher.config, teacher.config.name in tiny.TIED)
    return Evaluator(teacher, Ordering.identity(architecture), BLOCKS, "fp32", 3, **options)


def all_losses(evaluate: Evaluator, subs) -> list[list[float]]:
    found = dict(evaluate.run(subs))
    return [found[number] for number in range(len(subs))]


def dense_losses(teacher, sub, fitness: Fitness) -> list[float]:
    """One block at a time, whole logits, torch's own losses."""
    model = extract(teacher, sub, Ordering.identity(architecture_of(teacher.config, teacher.config.name in tiny.TIED)))
    losses = []
    with torch.no_grad():
        for number in range(8):
            tokens = BLOCKS[number : number + 1]
            ours, theirs = (each(tokens[:, :-1])[0, :, : teacher.config.vocab_size] for each in (model, teacher))
            if fitness == Fitness.perplexity:
                losses.append(F.cross_entropy(ours, tokens[0, 1:]).item())
            else:
                kl = F.kl_div(ours.log_softmax(1), theirs.log_softmax(1), log_target=True, reduction="batchmean")
                losses.append(kl.item())
    return losses


@pytest.mark.parametrize("fitness", Fitness)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_a_plain_forward_pass(family, fitness):
    teacher = tiny.teacher(family)
    sub = space_of(teacher).sample(np.random.default_rng(1))
    (ours,) = all_losses(evaluator(teacher, fitness=fitness), [sub])
    assert ours == pytest.approx(dense_losses(teacher, sub, fitness), abs=1e-4)


def test_kl_is_zero_for_the_teacher_itself_and_positive_for_any_other():
    teacher = tiny.teacher("llama")
    space = space_of(teacher)
    evaluate = evaluator(teacher, fitness=Fitness.kl)
    same, other = all_losses(evaluate, [whole(space.architecture), space.sample(np.random.default_rng(0))])
    assert same == pytest.approx([0.0] * 8, abs=1e-6) and min(other) > 0.01


def test_a_loss_that_is_not_finite_is_inf_and_costs_no_other_block():
    teacher = tiny.teacher("llama")
    sub = space_of(teacher, hold=["n_embd"]).sample(np.random.default_rng(7))
    (whole,) = all_losses(evaluator(teacher), [sub])
    with torch.no_grad():
        teacher.transformer.wte.weight[BLOCKS[0, 0]] = math.nan
    (broken,) = all_losses(evaluator(teacher), [sub])
    assert math.inf in broken and not any(map(math.isnan, broken))
    for fitness in Fitness:
        assert fitness_of(fitness, broken) == math.inf and math.isfinite(fitness_of(fitness, whole))


def test_threads_change_no_bit_at_sizes_in_steps_of_16():
    """Ranks may share out the cores. At other sizes MKL sums in an order that depends on its threads."""
    teacher = tiny.randomize(build(Config(**tiny.CONFIGS["llama"] | {"intermediate_size": 128}), None, tied=True))
    sub = whole(architecture_of(teacher.config, tied=True))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(all_losses(evaluator(teacher), [sub]))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("fitness", Fitness)
def test_bf16_autocast_is_near_fp32(fitness):
    """The stated tolerance: 2 % in a block's loss, and in the fitness 1 %."""
    teacher = tiny.teacher("llama")
    space, rng = space_of(teacher), np.random.default_rng(9)
    subs = [space.sample(rng) for _ in range(5)]
    architecture = space.architecture
    mixed = Evaluator(teacher, Ordering.identity(architecture), BLOCKS, "bf16-mixed", 3, fitness=fitness)
    for ours, exact in zip(all_losses(mixed, subs), all_losses(evaluator(teacher, fitness=fitness), subs), strict=True):
        assert ours == pytest.approx(exact, rel=0.02)
        assert sum(ours) == pytest.approx(sum(exact), rel=0.01)
        assert ours != exact
