"""Which depths and widths of a space can meet the bin and the limits, and what to say where none can."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import ceil

import numpy as np

from pipeline.errors import SprigError
from pipeline.subnetwork.counting import Count, outer_parameters, parameters
from pipeline.subnetwork.fitting import MLP, Fitter
from pipeline.subnetwork.limits import Limit

WEIGHTS = 9  # of two limits in a mean of them, from the one alone to the other
CURE = "change space.min, space.max, space.step or space.hold"


@dataclass(frozen=True)
class Reach:
    """`least` and `most` parameters in the space, whatever the bin and the limits; the widths that each depth can have,
    and the depths of each width."""

    least: int
    most: int
    widths_of: dict[int, list[int]]
    depths_of: dict[int, list[int]]


def least_cost(fitter: Fitter, limit: Limit, reach: Reach) -> int:
    """A bound from below on what a member of the bin costs, counted as by `limit`, whatever that allows."""
    depths, widths = list(reach.widths_of), list(reach.depths_of)
    met = np.array([[width in reach.widths_of[depth] for width in widths] for depth in depths])
    outer = outer_parameters(fitter.architecture, np.array(widths)[None], fitter.bin.count)
    wanted = (fitter.bin.low - outer) / np.array(depths)[:, None]
    return ceil(_needs(fitter, limit, depths, widths, wanted)[met].min())


def find(fitter: Fitter, depths: list[int], widths: list[int]) -> Reach:
    """Exact for the bin alone. With limits, a shape may pass although it holds no member.

    Raises:
        SprigError: no depth and width can meet bin and limits; names those that contradict, and by how much.
    """
    bin, column = fitter.bin, np.array(depths)[:, None]
    outer = outer_parameters(fitter.architecture, np.array(widths)[None], bin.count)
    costs = [fitter.costs(width) for width in widths]
    least = outer + column * np.array([cost.least for cost in costs])
    most = outer + column * np.array([cost.most for cost in costs])
    met = (least <= bin.high) & (most >= bin.low)
    if not met.any():
        found = [*least.ravel().tolist(), *most.ravel().tolist()]
        raise bin_unreachable(fitter, int(least.min()), int(most.max()), found)
    possible, wanted = met, (bin.low - outer) / column
    for limit in fitter.limits:
        needed = _needs(fitter, limit, depths, widths, wanted)
        if (least_with_others := ceil(needed[possible].min())) > limit.most:
            least_of_all = ceil(_needs(fitter, limit, depths, widths, np.zeros_like(most)).min())
            raise _too_low(fitter, limit, least_of_all, least_with_others)
        met = met & (needed <= limit.most)
    if len(fitter.limits) == 2:
        share = _share_needed(fitter, depths, widths, wanted)
        if (least_share := share[possible].min()) > 1:
            raise SprigError(
                f"bin {bin}, {_names(fitter)} contradict one another: for a member in the bin, each limit must "
                f"be at least {least_share - 1:.1%} higher, or one of them even higher; raise them, lower the bin, or "
                f"{CURE}."
            )
        met = possible & (share <= 1)
    return Reach(
        int(least.min()),
        int(most.max()),
        {depth: np.array(widths)[row].tolist() for depth, row in zip(depths, met, strict=True)},
        {width: np.array(depths)[row].tolist() for width, row in zip(widths, met.T, strict=True)},
    )


def _needs(fitter: Fitter, limit: Limit, depths: list[int], widths: list[int], wanted: np.ndarray) -> np.ndarray:
    """A bound from below on a limit's cost at each depth and width (depths, widths), where layers have `wanted`
    parameters on average: layers are mixed as if they could be had in parts."""
    column = np.array(depths)
    needs = []
    for width, mean in zip(widths, wanted.T, strict=True):
        attentions = fitter.options(width)[:, :, None]
        ends = np.array(list(product(*((grid[0], grid[-1]) for grid in fitter.grids[MLP:])))).T
        sizes, costs = (
            np.broadcast_to(layer(width, *attentions, *ends), (attentions.shape[1], ends.shape[1])).ravel()
            for layer in (fitter.layer, limit.layer)
        )
        frontier = np.interp(mean, *_frontier(sizes, costs))
        needs.append((limit.outer(width) + column * frontier) * (1 - 1e-12))  # rounding must not exclude
    return np.stack(needs, axis=1)


def _share_needed(fitter: Fitter, depths: list[int], widths: list[int], wanted: np.ndarray) -> np.ndarray:
    """A bound from below, as _needs, on the factor by which all limits must be raised to be met together: what keeps
    each keeps every weighted mean of them, too (the dual of a linear program, at a few weights)."""
    first, second = fitter.limits
    shares = []
    for weight in np.linspace(0, 1, WEIGHTS):
        parts = [(weight / first.most, first), ((1 - weight) / second.most, second)]
        mean = Limit(
            "",
            "",
            1,
            partial(_weighted, [(part, limit.outer) for part, limit in parts]),
            partial(_weighted, [(part, limit.layer) for part, limit in parts]),
        )
        shares.append(_needs(fitter, mean, depths, widths, wanted))
    return np.max(shares, axis=0)


def _weighted(parts: list[tuple[float, Callable[..., Count]]], *arguments: Count) -> Count:
    """The weighted sum of costs."""
    return sum(weight * cost(*arguments) for weight, cost in parts)


def _frontier(sizes: np.ndarray, costs: np.ndarray) -> tuple[list[float], list[float]]:
    """The least cost of at least a size, over mixtures of the given layers: its corners, both coordinates ascending."""
    order = np.lexsort((costs, -sizes))
    costs, sizes = costs[order], sizes[order]
    cheaper = np.concatenate([[True], costs[1:] < np.minimum.accumulate(costs)[:-1]])
    corners: list[tuple[float, float]] = []
    for x, y in zip(sizes[cheaper][::-1].tolist(), costs[cheaper][::-1].tolist(), strict=True):
        while len(corners) > 1:
            (x0, y0), (x1, y1) = corners[-2:]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            corners.pop()
        corners.append((x, y))
    return [x for x, _ in corners], [y for _, y in corners]


def _names(fitter: Fitter) -> str:
    return " and ".join(limit.name for limit in fitter.limits)


def _too_low(fitter: Fitter, limit: Limit, least_of_all: int, least_with_others: int) -> SprigError:
    if least_of_all > limit.most:
        return SprigError(
            f"{limit.name} cannot be reached from teacher {fitter.architecture.name} in this space: the minimum is "
            f"{least_of_all:,} {limit.unit}, {least_of_all - limit.most:,} more; raise the limit, or {CURE}."
        )
    return SprigError(
        f"{limit.name} and bin {fitter.bin} contradict each other: in the bin a sub-network takes at least "
        f"{least_with_others:,} {limit.unit}, {least_with_others - limit.most:,} more; raise the limit, lower the bin, "
        f"or {CURE}."
    )


class BinUnreachable(SprigError):
    """No sub-network of a space has as many parameters as the bin asks for."""


def bin_unreachable(fitter: Fitter, least: int, most: int, found: list[int]) -> BinUnreachable:
    """What to say of a bin where `found` are counts that were met outside it, whatever the limits."""
    bin = fitter.bin
    below = [count for count in (least, *found) if count < bin.low]
    above = [count for count in (most, *found) if count > bin.high]
    total = parameters(fitter.architecture, count=bin.count)
    gap = f", but nothing was found between {max(below):,} and {min(above):,}" if below and above else ""
    return BinUnreachable(
        f"bin {bin} cannot be reached from teacher {fitter.architecture.name} ({total:,}) in this space: it reaches "
        f"{least:,}..{most:,}{gap}; choose a bin inside, or {CURE}."
    )


def unreachable_within_limits(fitter: Fitter, least: int, found: list[int]) -> BinUnreachable:
    """What to say of a bin that is reached, but not within the limits: `found` are counts that were met there."""
    nearest = max(count for count in (least, *found) if count < fitter.bin.low)
    return BinUnreachable(
        f"bin {fitter.bin} cannot be reached within {_names(fitter)}: the nearest that was found has {nearest:,} "
        f"parameters, {fitter.bin.low - nearest:,} too few; raise the limits, lower the bin, or {CURE}."
    )
