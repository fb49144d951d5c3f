"""How much sub-networks differ from one another."""

from itertools import combinations

from pipeline.subnetwork.value import SubNetwork


def difference(a: SubNetwork, b: SubNetwork) -> float:
    """The share of genes in which two sub-networks differ, 0 to 1: the width, and for every teacher layer that either
    keeps its sizes. All of them differ in a layer that only one of them keeps."""
    of_a, of_b = (dict(zip(sub.layers, sub.genes, strict=True)) for sub in (a, b))
    differing, genes, none = int(a.n_embd != b.n_embd), 1, (None,) * len(a.genes[0].sizes)
    for layer in of_a.keys() | of_b.keys():
        sizes = [of[layer].sizes if layer in of else none for of in (of_a, of_b)]
        differing += sum(x != y for x, y in zip(*sizes, strict=True))
        genes += len(none)
    return differing / genes


def diversity(population: list[SubNetwork]) -> float:
    """The mean difference of all pairs; 0 where there is no pair."""
    differences = [difference(a, b) for a, b in combinations(population, 2)]
    return sum(differences) / len(differences) if differences else 0.0
