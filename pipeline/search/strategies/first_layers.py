"""The first layers of the teacher, whole: the simplest cut there is, and a baseline."""

from pipeline.config import Layers
from pipeline.errors import SprigError
from pipeline.search.strategies.scaling import refuse_fine
from pipeline.subnetwork.draft import Draft
from pipeline.subnetwork.limits import check_limits
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork


def first_layers(space: Space) -> SubNetwork:
    """The teacher's width, heads and MLP, and its first l layers: the depth of the space whose count is nearest to the
    bin's centre.

    Raises:
        SprigError: the space has no such member, and what it would need.
    """
    refuse_fine("first_layers", space)
    if space.config.layers == Layers.rank:
        raise SprigError(
            "first_layers keeps the first layers, but space.layers=rank the most influential ones: it needs "
            "space.layers=prefix or subset."
        )
    for name in list(space.grids)[1:]:
        if space.grids[name][-1] < getattr(space.architecture, name):
            raise SprigError(
                f"first_layers keeps layers whole, but space.max.{name}={space.grids[name][-1]}: it needs "
                f"space.max.{name}=null."
            )
    draft = min(
        (_whole_layers(space, depth) for depth in space.grids["n_layer"]),
        key=lambda draft: abs(space.fitter.total(draft) - space.bin.center),
    )
    if not space.bin.contains(count := space.fitter.total(draft)):
        raise SprigError(
            f"first_layers of teacher {space.architecture.name} has {count:,} parameters at its nearest depth, "
            f"{len(draft.layers)}, outside bin {space.bin}: it needs a bin that holds a number of whole layers."
        )
    found = space.freeze(draft)
    check_limits(space.fitter.limits, found, f"first_layers of teacher {space.architecture.name}")
    return found


def _whole_layers(space: Space, depth: int) -> Draft:
    row = [getattr(space.architecture, gene) for gene in space.genes]
    rows = 1 if space.uniform else depth
    return Draft(list(range(depth)), space.architecture.n_embd, [row] * rows, [None] * rows, None)
