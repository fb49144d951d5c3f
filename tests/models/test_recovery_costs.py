"""Recovery's closed-form costs against what torch counts and allocates."""

import pytest
import tiny
from architectures import PYTHIA_6_9B
from covering import slow
from test_extraction import architecture, random_cut
from test_recovery import families
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models.extraction import cut
from pipeline.models.recovery.costs import flops, memory
from pipeline.models.recovery.recover import Settings, recover
from pipeline.subnetwork.value import LayerGenes, SubNetwork

SETTINGS = Settings(ridges=(30.0, 300.0), held_out=0.25, batch=3)


def solves(sizes, ridges):
    return ridges * sum(rows**3 // 3 + 2 * rows * rows * outputs for rows, outputs in sizes)


@families
@pytest.mark.parametrize("seed", [1, *slow([[0]])])
def test_flops_are_what_torch_counts(family, seed):
    """Matrix products, that is: torch counts neither attention on a CPU (length=0 leaves it out) nor Cholesky."""
    teacher = tiny.teacher(family)
    arch = architecture(teacher)
    sub, selection = random_cut(arch, seed, "last", "teacher", uniform=seed == 0)
    student, blocks = cut(teacher, sub, selection), tiny.tokens(9, 17)
    neox, bias, sizes = family == "gpt_neox", int(arch.bias), []
    for gene in sub.genes:
        queries, keys = gene.n_head * gene.head_size, gene.n_query_groups * gene.head_size
        neurons, experts = gene.intermediate_size, gene.n_expert or 1
        solved = [neurons] * (2 * experts if gene.n_expert else 1)  # in two sweeps
        sizes += [(each + bias, sub.n_embd) for each in ([queries + neurons] if neox else [queries, *solved])]
        sizes += [(sub.n_embd + int(arch.attention_bias), queries + 2 * keys)]
        sizes += [(sub.n_embd + bias, neurons * (1 if neox else 2))] * experts
        sizes += [(sub.n_embd, gene.n_expert)] if gene.n_expert else []
    with FlopCounterMode(display=False) as counter:
        recover(teacher, student, sub, selection, blocks, SETTINGS)
    student_attention = sum(2 * 16 * gene.n_head * gene.head_size for gene in sub.genes)
    teacher_attention = arch.n_layer * 2 * 16 * arch.n_head * arch.head_size
    attention = 16 * (9 * teacher_attention + (9 + 2 * 2) * student_attention)
    expected = flops(arch, sub, 9, 16, SETTINGS) - solves(sizes, 2) - attention
    if arch.capped_scores:  # these are plain matrix products, whole instead of causal
        expected += 2 * attention
    # A projection in front of a norm is checked once less where no ridge helped.
    held_out = 2 * 16 if arch.norms_after else 0
    unchecked = sum(
        2 * held_out * sub.n_embd * (gene.n_head * gene.head_size + gene.intermediate_size) for gene in sub.genes
    )
    # Nor has an expert a change, in either sweep.
    changes = sum((gene.n_expert_per_token or 0) * gene.intermediate_size for gene in sub.genes)
    unchecked += 3 * 9 * 16 * 2 * sub.n_embd * changes
    assert expected - unchecked <= counter.get_total_flops() <= expected


def test_a_large_model_needs_what_its_gram_matrices_take():
    gene = LayerGenes(32, 1, 128, 16384)
    sub = SubNetwork(tuple(range(16)), 4096, (gene,) * 16)
    settings = Settings(ridges=(1500.0,), held_out=0.125)
    rows, tokens = 4096 + 16384 + 1, 96 * 2048
    bytes_ = memory(PYTHIA_6_9B, sub, 96, 2048, settings)
    solve = 8 * (2 * rows**2 + 3 * rows * 4096)
    assert bytes_ == 4 * tokens * (2 * 4096 + rows - 1) + solve + 4 * tokens // 8 * (rows + 4096)
