"""Sub-networks of one shape for all layers, whose size one factor sets: what `uniform` and `importance` choose by."""

import math
from bisect import bisect_right
from collections.abc import Callable, Collection
from itertools import pairwise

import numpy as np

from pipeline.errors import SprigError
from pipeline.subnetwork.draft import Draft, nearest
from pipeline.subnetwork.fitting import MLP
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork


def scaled(name: str, space: Space, dimensions: Collection[str], layers_of: Callable[[int], list[int]]) -> SubNetwork:
    """The teacher with `dimensions` scaled by one factor, each to the nearest value of its grid, the others as large
    as the space allows; `layers_of` maps a depth to teacher layers. `name` is what an error calls this choice.

    Every shape on that line is looked at, with the MLP width that lands in the bin nearest to its own. The shape whose
    MLP moved least wins, then the one nearest to the bin's centre. Where no MLP width lands, layers may have two
    neighbouring widths, the more influential ones the wider. Where these do not land either, the shape nearest to the
    centre that can be is fitted like a mutant, with fixed draws.

    Raises:
        SprigError: the space is fine, or the bin lies between the steps of that line.
    """
    refuse_fine(name, space)
    shapes = [_draft(space, dimensions, layers_of, factor) for factor in _factors(space, dimensions)]
    landed = []
    for draft in shapes:
        if widths := space.fitter.landing(draft, 0, MLP):
            wanted = draft.rows[0][MLP]
            draft.rows[0][MLP] = nearest(widths, wanted)
            landed.append((abs(draft.rows[0][MLP] - wanted), _distance(space, draft), draft))
    if landed:
        _, _, best = min(landed, key=lambda found: found[:2])
        return space.freeze(_for_space(space, best))
    if mixed := [found for draft in shapes if (found := _mixed(space, draft))]:
        _, best = min(mixed, key=lambda found: found[0])
        return space.freeze(best)
    shapes.sort(key=lambda draft: _distance(space, draft))
    missed = space.fitter.total(shapes[0])
    for near in (_for_space(space, draft) for draft in shapes):
        if space.fitter.fit(near, [(row, MLP) for row in range(len(near.rows))], np.random.default_rng(0)):
            return space.freeze(near)
    raise SprigError(
        f"{name} finds no shape of teacher {space.architecture.name} in bin {space.bin}; the nearest has {missed:,} "
        "parameters: widen the bin, or lower space.step."
    )


def refuse_fine(name: str, space: Space) -> None:
    """Raises SprigError where the space has no first entries, which the choice called `name` keeps."""
    if space.fine:
        raise SprigError(
            f"{name} keeps first entries, but space.granularity=fine keeps random ones: it needs "
            "space.granularity=coarse."
        )


def _factors(space: Space, dimensions: Collection[str]) -> list[float]:
    """One factor for each shape on the line: between any two factors at which a dimension goes to its next value."""
    turns = {
        (low + high) / 2 / getattr(space.architecture, name)
        for name in dimensions
        for low, high in pairwise(space.grids[name])
    }
    return [(low + high) / 2 for low, high in pairwise([0.0, *sorted(turns), 2.0])]


def _draft(space: Space, dimensions: Collection[str], layers_of: Callable[[int], list[int]], factor: float) -> Draft:
    sizes = {
        name: nearest(space.grids[name], factor * getattr(space.architecture, name))
        if name in dimensions
        else space.grids[name][-1]
        for name in space.grids
    }
    row = [sizes[gene] for gene in space.genes]
    if space.fitter.split:  # only some attentions share out the width: the one of the nearest proportions
        row[:MLP] = min(
            space.fitter.costs(sizes["n_embd"]).options,
            key=lambda option: sum(abs(math.log(size / wanted)) for size, wanted in zip(option, row, strict=False)),
        )
    return Draft(layers_of(sizes["n_layer"]), sizes["n_embd"], [row], [None], None)


def _mixed(space: Space, draft: Draft) -> tuple[float, Draft] | None:
    """How far the mean of the MLP widths moves, and the draft with two neighbouring widths that lands in the bin by
    it; None where none does."""
    grid, wanted, depth = space.fitter.grids[MLP], draft.rows[0][MLP], len(draft.layers)
    slope, total = space.fitter.slope(draft, 0, MLP), space.fitter.total(draft)
    mean = wanted + min(max(0, (space.bin.low - total) / slope), (space.bin.high - total) / slope)
    if space.uniform or not grid[0] < mean < grid[-1]:
        return None
    narrow, wide = grid[bisect_right(grid, mean) - 1 :][:2]
    share = depth * (mean - narrow) / (wide - narrow)
    ranked = draft.layers if space.ordering is None else space.ordering.layers.tolist()
    found = _for_space(space, draft)
    for count in (math.floor(share), math.ceil(share)):
        widest = [layer for layer in ranked if layer in draft.layers][:count]
        for layer, row in zip(found.layers, found.rows, strict=True):
            row[MLP] = wide if layer in widest else narrow
        if space.fitter.fits(found):
            return abs(mean - wanted), found
    return None


def _distance(space: Space, draft: Draft) -> int:
    return abs(space.fitter.total(draft) - space.bin.center)


def _for_space(space: Space, draft: Draft) -> Draft:
    """The draft with as many rows as the space's drafts have: the shared one, or a copy of it for each layer."""
    if space.uniform:
        return draft
    depth = len(draft.layers)
    return Draft(draft.layers, draft.n_embd, [[*draft.rows[0]] for _ in range(depth)], [None] * depth, None)
