"""Shapes that transformers' stock classes hold as they are: the same in all layers, and what a family adds to that."""

from pipeline.config import Sharing, SpaceConfig
from pipeline.errors import SprigError
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.exported import SPLIT, lacks_stock_class, refuses_heads

Attention = tuple[int, int, int]  # query groups, heads of a group, head size


def check_stock(architecture: Architecture, config: SpaceConfig) -> None:
    """Raises SprigError where no sub-network of this space would export as a stock class."""
    if config.sharing != Sharing.uniform:
        raise SprigError(
            f"space.exportable=stock, but space.sharing={config.sharing} gives layers shapes of their own, which no "
            "stock class holds: use space.sharing=uniform, or export.form=padded."
        )
    if lacks_stock_class(architecture):
        raise SprigError(
            f"space.exportable=stock, but {architecture.name} has a bias in its head, or rotates only a part of each "
            f"attention head, and stock {architecture.family} does neither: use space.exportable=any."
        )


def stock_grids(architecture: Architecture, grids: dict[str, list[int]]) -> dict[str, list[int]]:
    """The grids without the values that a stock class of this family cannot hold.

    Raises:
        SprigError: nothing is left of one.
    """
    grids = dict(grids)
    if architecture.rope_adjusted:  # these frequencies are not a power law: a class names all of them
        grids["head_size"] = [size for size in grids["head_size"] if size == architecture.head_size]
    if is_split(architecture):
        grids["n_embd"] = [width for width in grids["n_embd"] if splits(grids, width)]

    def divide(width: int, heads: list[int]) -> bool:
        """Whether the width suits all of these numbers of heads in a group, with any number of groups."""
        totals = [groups * each for groups in grids["n_query_groups"] for each in heads]
        return not any(refuses_heads(architecture, total, width) for total in totals)

    # Numbers of heads that do not divide the teacher's own width go first, then widths that the others do not divide.
    grids["heads_per_group"] = [each for each in grids["heads_per_group"] if divide(architecture.n_embd, [each])]
    grids["n_embd"] = [width for width in grids["n_embd"] if divide(width, grids["heads_per_group"])]
    for name in ("head_size", "heads_per_group", "n_embd"):
        if not grids[name]:
            raise SprigError(
                f"space.exportable=stock leaves no {name} of {architecture.name}: stock {architecture.family} needs "
                "the teacher's head size where its rotary frequencies are adjusted, in GPT-NeoX and OLMoE heads x head "
                "size = width, in Gemma a width that the heads divide; widen space.min, space.max, space.step or "
                "space.hold."
            )
    return grids


def is_split(architecture: Architecture) -> bool:
    """Whether the stock class has no head size of its own, but splits the width among its heads."""
    return architecture.family in SPLIT


def splits(grids: dict[str, list[int]], width: int) -> list[Attention]:
    """The ways to split a width: groups x heads x head size = width."""
    return [
        (groups, heads, size)
        for heads in grids["heads_per_group"]
        for size in grids["head_size"]
        for groups in grids["n_query_groups"]
        if groups * heads * size == width
    ]
