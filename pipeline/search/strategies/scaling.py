"""Sub-networks of one shape for all layers, whose size one factor sets: what `uniform` and `importance` choose by."""

import math
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
    MLP moved least wins, then the one nearest to the bin's centre. Where no MLP width lands, the shape nearest to the
    centre is fitted like a mutant, with fixed draws.

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
    near = _for_space(space, min(shapes, key=lambda draft: _distance(space, draft)))
    missed = space.fitter.total(near)
    if not space.fitter.fit(near, [], np.random.default_rng(0)):
        raise SprigError(
            f"{name} scales teacher {space.architecture.name} to {missed:,} parameters where bin {space.bin} begins or "
            "ends: widen the bin, or lower space.step."
        )
    return space.freeze(near)


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


def _distance(space: Space, draft: Draft) -> int:
    return abs(space.fitter.total(draft) - space.bin.center)


def _for_space(space: Space, draft: Draft) -> Draft:
    """The draft with as many rows as the space's drafts have: the shared one, or a copy of it for each layer."""
    if space.uniform:
        return draft
    depth = len(draft.layers)
    return Draft(draft.layers, draft.n_embd, [[*draft.rows[0]] for _ in range(depth)], [None] * depth, None)
