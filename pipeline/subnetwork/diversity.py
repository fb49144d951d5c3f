"""How much sub-networks differ from one another."""

from itertools import combinations

from pipeline.subnetwork.value import LayerGenes, SubNetwork


def difference(a: SubNetwork, b: SubNetwork) -> float:
    """The share of genes in which two sub-networks differ, 0 to 1: the width, and for every teacher layer that either
    keeps its four sizes. All four differ in a layer that only one of them keeps."""
    of_a, of_b = (dict(zip(sub.layers, sub.genes, strict=True)) for sub in (a, b))
    differing, genes = int(a.n_embd != b.n_embd), 1
    for layer in of_a.keys() | of_b.keys():
        sizes = [_sizes(of[layer]) if layer in of else (None,) * 4 for of in (of_a, of_b)]
        differing += sum(x != y for x, y in zip(*sizes, strict=True))
        genes += 4
    return differing / genes


def diversity(population: list[SubNetwork]) -> float:
    """The mean difference of all pairs; 0 where there is no pair."""
    differences = [difference(a, b) for a, b in combinations(population, 2)]
    return sum(differences) / len(differences) if differences else 0.0


def _sizes(gene: LayerGenes) -> tuple[int, int, int, int]:
    return gene.n_query_groups, gene.heads_per_group, gene.head_size, gene.intermediate_size
