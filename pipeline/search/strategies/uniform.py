"""Uniform scaling: the teacher made smaller by one factor in every dimension. A baseline, and a start of searches."""

from pipeline.search.strategies.scaling import scaled
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork


def uniform(space: Space) -> SubNetwork:
    """Depth, width, groups, heads, head size and MLP scaled by the one factor that lands in the bin; held dimensions
    stay. Layers are the space's own: the most influential under layers=rank, else the first.

    Raises SprigError as `scaled`."""
    return scaled("uniform", space, space.grids, space.layers_of)
