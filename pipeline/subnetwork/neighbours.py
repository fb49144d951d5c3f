"""Small steps inside the bin: members that differ from another one in a gene or two, layers and width kept.

Unlike `Space.mutate`, which draws any number of genes again, these move one gene a step of 1, 2, 4, ... entries along
its grid, and let at most one other gene answer: both fine and long steps, from any place.
"""

from collections.abc import Iterator

import numpy as np

from pipeline.subnetwork.draft import Draft, Place, nearest, shuffled
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork


def neighbour(space: Space, parent: SubNetwork, rng: np.random.Generator) -> SubNetwork:
    """A member one gene away from `parent`; two where one alone would leave the bin, the second then taking any value
    that lands. The parent itself where no such member exists among the steps drawn."""
    for draft, place in _stepped(space, parent, rng):
        if space.fitter.fits(draft):
            return space.freeze(draft)
        for row, gene in shuffled(space.fitter.places(draft), rng):
            if (row, gene) != place and (values := space.fitter.landing(draft, row, gene)):
                draft.rows[row][gene] = int(rng.choice(values))
                return space.freeze(draft)
    return parent


def swap(space: Space, parent: SubNetwork, rng: np.random.Generator, most: int) -> SubNetwork:
    """A member near `parent` at its count, as nearly as the grids allow: one to `most` times, a gene grows where
    another shrinks. Few swaps are likelier than many: the smaller of two uniform draws (EvoPress, arXiv 2410.14649).
    The parent itself where no swap stays in the bin."""
    child = parent
    for _ in range(1 + int(rng.integers(most, size=2).min())):
        child = _swapped(space, child, rng)
    return child


def _swapped(space: Space, parent: SubNetwork, rng: np.random.Generator) -> SubNetwork:
    fitter = space.fitter
    before = fitter.total(space.thaw(parent))
    for draft, place in _stepped(space, parent, rng):
        excess = fitter.total(draft) - before
        if not excess and fitter.fits(draft):
            return space.freeze(draft)
        for row, gene in shuffled(fitter.places(draft), rng):
            old, grid = draft.rows[row][gene], fitter.grids[gene]
            other_way = [value for value in grid if (value < old if excess > 0 else value > old)]
            if (row, gene) == place or not other_way:
                continue
            if not (slope := fitter.slope(draft, row, gene)):
                continue
            draft.rows[row][gene] = nearest(other_way, old - excess / slope)
            if fitter.fits(draft):
                return space.freeze(draft)
            draft.rows[row][gene] = old
    return parent


def _stepped(space: Space, parent: SubNetwork, rng: np.random.Generator) -> Iterator[tuple[Draft, Place]]:
    """For every gene that has a choice, in random order: the parent with that gene moved one random step."""
    for row, gene in shuffled(space.fitter.places(space.thaw(parent)), rng):
        draft, grid = space.thaw(parent), space.fitter.grids[gene]
        here = grid.index(draft.rows[row][gene])
        steps = [2**power for power in range(len(grid).bit_length())]
        there = [here + sign * step for step in steps for sign in (-1, 1) if 0 <= here + sign * step < len(grid)]
        draft.rows[row][gene] = grid[int(rng.choice(there))]
        yield draft, (row, gene)
