"""The Minitron-like choice (arXiv 2407.14679): cut by importance to one uniform shape, without a search."""

from pipeline.config import Layers
from pipeline.errors import SprigError
from pipeline.search.strategies.scaling import scaled
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork

SCALED = ("n_layer", "n_embd", "intermediate_size")


def importance(space: Space) -> SubNetwork:
    """Attention stays whole (groups, heads and head size as large as the space allows), while depth, embedding width
    and MLP width are scaled by the one factor that lands in the bin, or nearly so. The most influential layers are
    kept, and in them, as in every coarse space, the entries that the ordering puts first.

    Raises SprigError as `scaled`, and where the space cannot keep layers by rank."""
    if space.config.layers == Layers.prefix or space.ordering is None:
        raise SprigError(
            f"importance keeps the most influential layers, but space.layers={space.config.layers}: it needs "
            "space.layers=rank or subset, and ordering=importance."
        )
    ranked = space.ordering.layers
    return scaled("importance", space, SCALED, lambda depth: sorted(ranked[:depth].tolist()))
