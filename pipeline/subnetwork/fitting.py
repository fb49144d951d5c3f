"""Genes that bring a model's parameter count into a bin by construction.

A count is affine in every single gene. So the values of one gene that land in the bin, all else fixed, are a run of its
grid that two divisions find; and a layer whose attention is chosen has one MLP width that meets a budget.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cache

import numpy as np

from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.bins import Bin
from pipeline.subnetwork.counting import layer_parameters, outer_parameters
from pipeline.subnetwork.grids import GENES


@dataclass
class Draft:
    """A sub-network in the making. `rows` holds the genes of each kept layer in the order of GENES, or one row that all
    layers share; `seeds` one index seed a row. Seeds are None in coarse spaces."""

    layers: list[int]
    n_embd: int
    rows: list[list[int]]
    seeds: list[int | None]
    width_seed: int | None


@dataclass(frozen=True)
class Costs:
    """What a layer can cost at one embedding width, in parameters.

    `options` are the (n_query_groups, heads_per_group, head_size) of `attention`, the costs of a layer without its MLP
    neurons, ascending; `neuron` is the cost of one neuron.
    """

    options: list[list[int]]
    attention: list[int]
    neuron: int
    least: int
    most: int


def split(total: int, rows: int, least: int, most: int, rng: np.random.Generator) -> list[float]:
    """Random budgets in least..most, one a row, that sum to `total` (within rows * least..rows * most).

    Uniform draws to a random power are rescaled towards the end of the range that they are short of. The power runs
    from nearly equal rows to a few rows that take nearly all, because plain uniform draws would never leave a single
    row a large share of a small total, and so starve the large genes.
    """
    if rows == 1 or least == most:
        return [total / rows] * rows
    share = (total - rows * least) / (rows * (most - least))
    small = min(share, 1 - share)  # below one half: mirrored, so that both ends are treated alike
    drawn = rng.random(rows) ** (max(small, 1e-3) ** rng.uniform(-1, 1))
    mean = drawn.mean()
    drawn = drawn * (small / mean) if mean > small else 1 - (1 - drawn) * ((1 - small) / (1 - mean))
    parts = drawn if share == small else 1 - drawn
    return (least + parts * (most - least)).tolist()


class Fitter:
    """Draws and moves genes so that the count lands in the bin."""

    def __init__(self, architecture: Architecture, grids: dict[str, list[int]], bin: Bin):
        self.architecture, self.bin = architecture, bin
        self.grids = [grids[name] for name in GENES]
        axes = np.meshgrid(*(np.array(grid) for grid in self.grids[:3]), indexing="ij")
        self._options = np.stack([axis.ravel() for axis in axes])
        self.costs = cache(self._costs)

    def _costs(self, n_embd: int) -> Costs:
        attention = layer_parameters(self.architecture, n_embd, *self._options, 0)
        order = np.argsort(attention, kind="stable")
        neuron = layer_parameters(self.architecture, n_embd, 1, 1, 1, 1) - layer_parameters(
            self.architecture, n_embd, 1, 1, 1, 0
        )
        attention, neurons = attention[order].tolist(), self.grids[3]
        return Costs(
            options=self._options[:, order].T.tolist(),
            attention=attention,
            neuron=neuron,
            least=attention[0] + neuron * neurons[0],
            most=attention[-1] + neuron * neurons[-1],
        )

    def total(self, draft: Draft) -> int:
        layers = sum(layer_parameters(self.architecture, draft.n_embd, *row) for row in draft.rows)
        repeats = len(draft.layers) // len(draft.rows)
        return outer_parameters(self.architecture, draft.n_embd, self.bin.count) + repeats * layers

    def draw_rows(self, n_embd: int, depth: int, rows: int, rng: np.random.Generator) -> list[list[int]]:
        """Genes for `rows` rows (depth, or 1 that all layers share) of a model that aims at a random count in the bin.

        Each row takes an attention uniformly among those that its budget allows, then the MLP width that comes nearest
        to what is left; what a row misses is added to the next one's budget.
        """
        costs, neurons = self.costs(n_embd), self.grids[3]
        outer = outer_parameters(self.architecture, n_embd, self.bin.count)
        low = max(self.bin.low - outer, depth * costs.least)
        high = min(self.bin.high - outer, depth * costs.most)
        total = low + rng.random() * (high - low)
        drawn, carried = [], 0.0
        for budget, u in zip(
            split(total * rows / depth, rows, costs.least, costs.most, rng), rng.random(rows).tolist(), strict=True
        ):
            budget += carried
            first = bisect_left(costs.attention, budget - costs.neuron * neurons[-1])
            last = bisect_right(costs.attention, budget - costs.neuron * neurons[0])
            if first >= last:
                first, last = _nearest_run(costs.attention, budget - costs.neuron * neurons[0])
            choice = first + int(u * (last - first))
            width = nearest(neurons, (budget - costs.attention[choice]) / costs.neuron)
            carried = budget - costs.attention[choice] - costs.neuron * width
            drawn.append([*costs.options[choice], width])
        return drawn

    def fit(self, draft: Draft, free: list[list[int]], rng: np.random.Generator) -> bool:
        """Moves genes until the count is in the bin: first the `free` ones, (row, gene) pairs, then any.

        Genes come in random order. One that can land in the bin takes any value that does; one that cannot goes a
        random part of the way, so that many genes share the burden. Returns False where the last gap is smaller than a
        step of every gene.
        """
        low, high = self.bin.low, self.bin.high
        repeats, total = len(draft.layers) // len(draft.rows), self.total(draft)
        if low <= total <= high:
            return True
        every = [(row, gene) for row in range(len(draft.rows)) for gene in range(len(GENES))]
        for pool in (free, every):
            moved = True
            while moved:
                moved = False
                for number in rng.permutation(len(pool)).tolist():
                    if low <= total <= high:
                        return True
                    index, gene = pool[number]
                    row, grid = draft.rows[index], self.grids[gene]
                    if len(grid) == 1:
                        continue
                    slope = repeats * self._slope(draft.n_embd, row, gene)
                    here = bisect_left(grid, row[gene])
                    first, last = self._run(grid, row[gene], total, slope)
                    way = range(first, here) if total > high else range(here + 1, last)
                    choices = range(first, last) or way
                    if not choices:
                        continue
                    value = grid[choices[int(rng.random() * len(choices))]]
                    total += slope * (value - row[gene])
                    row[gene], moved = value, True
        return low <= total <= high

    def landing(self, draft: Draft, index: int, gene: int) -> list[int]:
        """The values of one gene of row `index` that land in the bin while all others stay, ascending."""
        row, grid = draft.rows[index], self.grids[gene]
        first, last = self._run(grid, row[gene], self.total(draft), self.slope(draft, index, gene))
        return grid[first:last]

    def slope(self, draft: Draft, index: int, gene: int) -> int:
        """Parameters of the whole model for one more unit of a gene of row `index`."""
        return len(draft.layers) // len(draft.rows) * self._slope(draft.n_embd, draft.rows[index], gene)

    def _run(self, grid: list[int], value: int, total: int, slope: int) -> tuple[int, int]:
        """First and end of the entries that land in the bin in place of `value`, where the count is `total`."""
        first = bisect_left(grid, value - (total - self.bin.low) // slope)
        return first, bisect_right(grid, value + (self.bin.high - total) // slope)

    def _slope(self, n_embd: int, row: list[int], gene: int) -> int:
        grown = [*row]
        grown[gene] += 1
        return layer_parameters(self.architecture, n_embd, *grown) - layer_parameters(self.architecture, n_embd, *row)


def nearest(grid: list[int], value: float) -> int:
    """The entry of an ascending list that is nearest to a value."""
    above = bisect_left(grid, value)
    return min(grid[max(above - 1, 0) : above + 1], key=lambda entry: abs(entry - value))


def _nearest_run(values: list[int], value: float) -> tuple[int, int]:
    """First and end of the run of equal entries that is nearest to a value, in an ascending list."""
    entry = nearest(values, value)
    return bisect_left(values, entry), bisect_right(values, entry)
