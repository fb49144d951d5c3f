"""The share of differing genes, counted by hand."""

import pytest

from pipeline.subnetwork.diversity import difference, diversity
from pipeline.subnetwork.value import LayerGenes, SubNetwork

A, B = LayerGenes(1, 2, 4, 6), LayerGenes(1, 2, 2, 3)


def sub(layers, *genes, n_embd=8):
    return SubNetwork(layers, n_embd, genes)


def test_genes_are_compared_by_teacher_layer():
    two = sub((0, 2), A, A)
    assert difference(two, two) == 0
    assert difference(two, sub((0, 2), A, B)) == 2 / 9  # of a width and two layers of four
    assert difference(two, sub((0, 2), A, A, n_embd=4)) == 1 / 9
    assert difference(two, sub((0, 1), A, A)) == difference(sub((0, 1), A, A), two) == 8 / 13  # layers 1 and 2


def test_diversity_is_the_mean_of_all_pairs():
    one, other = sub((0,), A), sub((0,), B)
    assert diversity([one]) == diversity([]) == diversity([one, one]) == 0
    assert diversity([one, one, other]) == pytest.approx((0 + 2 / 5 + 2 / 5) / 3)
