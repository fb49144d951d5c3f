"""Moves genes so that a model's parameter count lies in a bin and its costs within limits, by construction.

The count is affine in each single gene. So if all other genes are fixed, the values of one gene that land in the bin
are a contiguous part of its grid, which two divisions find. And once a layer's attention is chosen, one MLP width meets
a budget best.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import product

import numpy as np

from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.bins import Bin
from pipeline.subnetwork.counting import Count, layer_parameters, outer_parameters
from pipeline.subnetwork.draft import Draft, Place, Pools, nearest, pick, shuffled, split
from pipeline.subnetwork.limits import Limit
from pipeline.subnetwork.stock import splits
from pipeline.subnetwork.value import GENES, genes_of

MLP = GENES.index("intermediate_size")  # the attention's genes come before it, those of experts after it
TRADES = 9  # rounds in which 1, 2, 4, ... attention genes shrink to make room, before a draft is given up


@dataclass(frozen=True)
class Costs:
    """The possible costs of a layer at one embedding width, in parameters.

    `attention` has the costs of a layer without its MLP neurons, ascending, and `options` the corresponding
    (n_query_groups, heads_per_group, head_size). `neuron` is the cost of one more neuron, of every expert, and `router`
    what is added to the attention's, both by the experts of `Fitter.experts`; otherwise they have one entry.
    """

    options: list[list[int]]
    attention: list[int]
    neuron: np.ndarray
    router: np.ndarray
    least: int
    most: int


class Fitter:
    """Draws and moves genes so that the count lands in the bin and no limit is exceeded.

    With `split`, the heads divide the width among them (see stock.py). A layer then has only a few possible attentions,
    and only MLPs can move.
    """

    def __init__(
        self, architecture: Architecture, grids: dict[str, list[int]], bin: Bin, limits: list[Limit], split: bool
    ):
        self.architecture, self.bin, self.limits, self.split = architecture, bin, limits, split
        self.grids = [grids[name] for name in genes_of(architecture)]
        self.experts = list(product(*self.grids[MLP + 1 :]))
        self._by_name = grids
        axes = np.meshgrid(*(np.array(grid) for grid in self.grids[:MLP]), indexing="ij")
        self._options = np.stack([axis.ravel() for axis in axes])
        # A layer's cost by width and genes, for every quantity with a bound: first the count, then each limit.
        self.layer: Callable[..., Count] = partial(layer_parameters, architecture, count=bin.count)
        self.layers: list[Callable[..., Count]] = [self.layer, *(limit.layer for limit in limits)]
        self.costs = cache(self._costs)

    def options(self, n_embd: int) -> np.ndarray:
        """The attentions that a layer can have (3, n): query groups, heads of a group, head size."""
        return np.array(splits(self._by_name, n_embd)).T if self.split else self._options

    def _costs(self, n_embd: int) -> Costs:
        options = self.options(n_embd)
        groups, heads, sizes = options
        experts = np.array(self.experts, dtype=int).T
        attention = self.layer(n_embd, groups, heads, sizes, 0, *experts[:, 0])
        order = np.argsort(attention, kind="stable")
        without = np.atleast_1d(self.layer(n_embd, 1, 1, 1, 0, *experts))
        neuron, router = self.layer(n_embd, 1, 1, 1, 1, *experts) - without, without - without[0]
        attention, neurons = attention[order].tolist(), self.grids[MLP]
        return Costs(
            options=options[:, order].T.tolist(),
            attention=attention,
            neuron=neuron,
            router=router,
            least=attention[0] + int(neuron[0]) * neurons[0],
            most=attention[-1] + int(router[-1] + neuron[-1] * neurons[-1]),
        )

    def total(self, draft: Draft) -> int:
        """The draft's count, as the bin counts."""
        return self._totals(draft)[0]

    def fits(self, draft: Draft) -> bool:
        """Whether the count is in the bin and no limit is exceeded."""
        return self._met(self._totals(draft))

    def _met(self, totals: list[int]) -> bool:
        limits = zip(totals[1:], self.limits, strict=True)
        return self.bin.contains(totals[0]) and all(cost <= limit.most for cost, limit in limits)

    def _totals(self, draft: Draft) -> list[int]:
        """The count and every limit's cost."""
        repeats = len(draft.layers) // len(draft.rows)
        outer = [outer_parameters(self.architecture, draft.n_embd, self.bin.count)]
        outer += [limit.outer(draft.n_embd) for limit in self.limits]
        return [
            base + repeats * sum(layer(draft.n_embd, *row) for row in draft.rows)
            for base, layer in zip(outer, self.layers, strict=True)
        ]

    def places(self, draft: Draft) -> list[Place]:
        """Row and gene of every gene that can take more than one value."""
        return [(row, gene) for row, gene in self._every(draft) if self._has_choice(gene)]

    def _every(self, draft: Draft) -> list[Place]:
        return [(row, gene) for row in range(len(draft.rows)) for gene in range(len(self.grids))]

    def _has_choice(self, gene: int) -> bool:
        return len(self.grids[gene]) > 1 and (gene >= MLP or not self.split)

    def draw_rows(self, n_embd: int, depth: int, rows: int, rng: np.random.Generator) -> list[list[int]]:
        """Genes for `rows` rows (depth, or 1 that all layers share) of a model that aims at a random count in the bin.

        Each row draws experts, then an attention uniformly from those that its budget allows, then takes the MLP width
        nearest to the rest of the budget. The remainder is added to the next row's budget.
        """
        costs, neurons = self.costs(n_embd), self.grids[MLP]
        outer = outer_parameters(self.architecture, n_embd, self.bin.count)
        low = max(self.bin.low - outer, depth * costs.least)
        high = min(self.bin.high - outer, depth * costs.most)
        total = low + rng.random() * (high - low)
        drawn, carried = [], 0.0
        for budget, u in zip(
            split(total * rows / depth, rows, costs.least, costs.most, rng), rng.random(rows).tolist(), strict=True
        ):
            experts = self._draw_experts(costs, budget + carried, rng)
            neuron, budget = int(costs.neuron[experts]), budget + carried - int(costs.router[experts])
            first = bisect_left(costs.attention, budget - neuron * neurons[-1])
            last = bisect_right(costs.attention, budget - neuron * neurons[0])
            if first >= last:
                first, last = _nearest_run(costs.attention, budget - neuron * neurons[0])
            choice = first + int(u * (last - first))
            width = nearest(neurons, (budget - costs.attention[choice]) / neuron)
            carried = budget - costs.attention[choice] - neuron * width
            drawn.append([*costs.options[choice], width, *self.experts[experts]])
        return drawn

    def _draw_experts(self, costs: Costs, budget: float, rng: np.random.Generator) -> int:
        """The place in `experts` of any that some attention and MLP width take to a layer's budget, or to half a step
        of the width from it: the nearest one is taken then, too."""
        if len(self.experts) == 1:
            return 0
        widths = self.grids[MLP]
        least = costs.attention[0] + costs.router + costs.neuron * (widths[0] - (widths[:2][-1] - widths[0]) / 2)
        most = costs.attention[-1] + costs.router + costs.neuron * (widths[-1] + (widths[-1] - widths[-2:][0]) / 2)
        fitting = np.flatnonzero((least <= budget) & (budget <= most)).tolist()
        return pick(fitting or [0 if budget < costs.least else len(self.experts) - 1], rng)

    def fit(self, draft: Draft, free: list[Place], rng: np.random.Generator) -> bool:
        """Moves genes until the count is in the bin and no limit is exceeded: first the `free` ones, then any.

        Genes are visited in random order. A gene that can land in the bin takes a random value that does. A gene that
        cannot moves a random part of the way, so that many genes share the change. If a limit keeps a small model from
        growing, its attention shrinks to make room for MLPs, which use no more of any limit per parameter than
        attention does; from then on, MLPs move first. Returns False if the last gap is smaller than every gene's step,
        or if no room is found.
        """
        if self.split:
            self._resplit(draft, rng)
        totals = self._totals(draft)
        if self._met(totals):
            return True
        every = self._every(draft)
        pools: Pools = (free, every)
        for trade in range(TRADES):
            if not self._shrink(draft, pools, totals, rng):
                return False
            if self._land(draft, pools, totals, rng):
                return True
            if not self.limits or totals[0] > self.bin.high or not self._trade(draft, 2**trade, totals, rng):
                return False
            pools = [place for place in every if place[1] >= MLP], every
        return False

    def _resplit(self, draft: Draft, rng: np.random.Generator) -> None:
        """Gives every row an attention of this width: of those that share most with its own, any."""
        options = self.costs(draft.n_embd).options
        for row in draft.rows:
            shared = [sum(a == b for a, b in zip(option, row, strict=False)) for option in options]
            best = [option for option, same in zip(options, shared, strict=True) if same == max(shared)]
            row[:MLP] = pick(best, rng)

    def _shrink(self, draft: Draft, pools: Pools, totals: list[int], rng: np.random.Generator) -> bool:
        """Moves genes down until no limit is exceeded; False where one still is."""
        for number, limit in enumerate(self.limits, start=1):
            for pool in pools:
                moved = True
                while moved and totals[number] > limit.most:
                    moved = False
                    for index, gene in shuffled(pool, rng):
                        grid, value = self.grids[gene], draft.rows[index][gene]
                        here, slopes = bisect_left(grid, value), self._slopes(draft, index, gene)
                        if totals[number] <= limit.most or here == 0 or not (slopes[number] and self._has_choice(gene)):
                            continue
                        excess = -(-(totals[number] - limit.most) // slopes[number])
                        way = range(max(bisect_right(grid, value - excess) - 1, 0), here)
                        self._move(draft, (index, gene), way, slopes, totals, rng)
                        moved = True
            if totals[number] > limit.most:
                return False
        return True

    def _land(self, draft: Draft, pools: Pools, totals: list[int], rng: np.random.Generator) -> bool:
        """Moves genes until the count is in the bin, up only as far as the limits allow; False where it is not."""
        for pool in pools:
            moved = True
            while moved:
                moved = False
                for index, gene in shuffled(pool, rng):
                    if self.bin.contains(totals[0]):
                        return True
                    if not self._has_choice(gene):
                        continue
                    grid, value = self.grids[gene], draft.rows[index][gene]
                    here, slopes = bisect_left(grid, value), self._slopes(draft, index, gene)
                    if not slopes[0]:
                        continue
                    first, last = self._run(grid, value, totals, slopes)
                    way = range(first, here) if totals[0] > self.bin.high else range(here + 1, last)
                    if choices := range(first, last) or way:
                        self._move(draft, (index, gene), choices, slopes, totals, rng)
                        moved = True
        return self.bin.contains(totals[0])

    def _trade(self, draft: Draft, count: int, totals: list[int], rng: np.random.Generator) -> bool:
        """Shrinks up to `count` attention genes by a random part; False where all are as small as they can be."""
        attention = [(row, gene) for row, gene in self.places(draft) if gene < MLP]
        large = [(row, gene) for row, gene in attention if draft.rows[row][gene] > self.grids[gene][0]]
        for index, gene in shuffled(large, rng)[:count]:
            here = bisect_left(self.grids[gene], draft.rows[index][gene])
            self._move(draft, (index, gene), range(here), self._slopes(draft, index, gene), totals, rng)
        return bool(large)

    def _move(
        self, draft: Draft, place: Place, choices: range, slopes: list[int], totals: list[int], rng: np.random.Generator
    ) -> None:
        """Gives a gene any of the chosen entries of its grid, and books what that costs."""
        index, gene = place
        row, value = draft.rows[index], self.grids[gene][pick(choices, rng)]
        for number, slope in enumerate(slopes):
            totals[number] += slope * (value - row[gene])
        row[gene] = value

    def landing(self, draft: Draft, index: int, gene: int) -> list[int]:
        """The values of one gene of row `index` that land in the bin within the limits while all others stay,
        ascending."""
        grid = self.grids[gene]
        first, last = self._run(grid, draft.rows[index][gene], self._totals(draft), self._slopes(draft, index, gene))
        return grid[first:last]

    def slope(self, draft: Draft, index: int, gene: int) -> int:
        """Parameters of the whole model for one more unit of a gene of row `index`."""
        return self._slopes(draft, index, gene)[0]

    def _run(self, grid: list[int], value: int, totals: list[int], slopes: list[int]) -> tuple[int, int]:
        """First and end of the entries that land in the bin within the limits in place of `value`. The experts of a
        token may cost no parameters."""
        first, last = 0, len(grid) if self.bin.contains(totals[0]) else 0
        if slopes[0]:
            first = bisect_left(grid, value - (totals[0] - self.bin.low) // slopes[0])
            last = bisect_right(grid, value + (self.bin.high - totals[0]) // slopes[0])
        for limit, total, slope in zip(self.limits, totals[1:], slopes[1:], strict=True):
            if slope:
                last = min(last, bisect_right(grid, value + (limit.most - total) // slope))
            elif total > limit.most:
                last = first
        return first, last

    def _slopes(self, draft: Draft, index: int, gene: int) -> list[int]:
        """What one more unit of a gene of row `index` costs the whole model: in parameters, and of every limit."""
        row, repeats = draft.rows[index], len(draft.layers) // len(draft.rows)
        grown = [*row]
        grown[gene] += 1
        return [repeats * (layer(draft.n_embd, *grown) - layer(draft.n_embd, *row)) for layer in self.layers]


def _nearest_run(values: list[int], value: float) -> tuple[int, int]:
    """First and end of the run of equal entries that is nearest to a value, in an ascending list."""
    entry = nearest(values, value)
    return bisect_left(values, entry), bisect_right(values, entry)
