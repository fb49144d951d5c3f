"""A model of the fitness, which says before any evaluation which children are worth one.

Ridge regression of the logarithm of the fitness on the sizes of every layer, fitted to all evaluations so far. It is
linear in its features, so it is fitted and asked in milliseconds.
"""

import math
from collections.abc import Sequence

import numpy as np

from pipeline.search.strategies.protocol import Scored
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.value import SubNetwork, genes_of

RIDGES = 10.0 ** np.arange(-2, 4)  # candidates, for features of unit variance
DECIMALS = 9  # of a prediction: beyond them, the number of threads may change the sum


def most_promising(
    architecture: Architecture, scored: Sequence[Scored], drawn: Sequence[SubNetwork], count: int
) -> list[SubNetwork]:
    """The `count` of the drawn sub-networks whose predicted fitness is lowest, best first; equal ones keep their
    order. Without two finite evaluations, the first ones."""
    finite = [each for each in scored if math.isfinite(each.fitness)]
    if len(finite) < 2:
        return list(drawn[:count])
    known = np.array([features(architecture, each.subnetwork) for each in finite])
    asked = np.array([features(architecture, each) for each in drawn]).reshape(len(drawn), known.shape[1])
    smallest = np.finfo(float).tiny  # a KL of 0 has no logarithm
    losses = np.log([max(each.fitness, smallest) for each in finite])
    predicted = predict(known, losses, asked).round(DECIMALS)
    return [drawn[place] for place in np.argsort(predicted, kind="stable")[:count]]


def features(a: Architecture, sub: SubNetwork) -> np.ndarray:
    """The sizes of every teacher layer as shares of the teacher's, 0 where it is dropped, and their logarithms, because
    returns diminish; their sums over layers and the squares of these, because layers stand in for one another; depth
    and width."""
    layers = np.zeros((a.n_layer, 1 + len(genes_of(a))))
    for layer, gene in zip(sub.layers, sub.genes, strict=True):
        layers[layer] = [1, *(getattr(gene, name) / getattr(a, name) for name in genes_of(a))]
    sums = layers.sum(axis=0)
    width = sub.n_embd / a.n_embd
    return np.array([*layers.ravel(), *np.log1p(8 * layers).ravel(), *layers.prod(axis=1), *sums, *sums**2, width])


def predict(known: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Ridge regression of `values` (n,) on `known` (n, f), read at `asked` (m, f). Features are scaled to unit
    variance, and the ridge is the one with the least leave-one-out error, in closed form."""
    mean, spread = known.mean(axis=0), known.std(axis=0)
    varies = spread > 1e-9
    scaled = [(each[:, varies] - mean[varies]) / spread[varies] for each in (known, asked)]
    left, singular, right = np.linalg.svd(scaled[0], full_matrices=False)
    centred = values - values.mean()
    projected = left.T @ centred

    def error(ridge: float) -> float:
        shrunk = singular**2 / (singular**2 + ridge)
        leverage = left**2 @ shrunk + 1 / len(values)
        residuals = centred - left @ (shrunk * projected)
        return float(((residuals / np.maximum(1 - leverage, 1e-3)) ** 2).sum())

    ridge = min(RIDGES, key=error)
    coefficients = right.T @ (singular / (singular**2 + ridge) * projected)
    found: np.ndarray = values.mean() + scaled[1] @ coefficients
    return found
