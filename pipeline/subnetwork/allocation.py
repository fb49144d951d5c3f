"""The sub-network of a bin with the least predicted loss, when every part of every layer adds its own."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config import Layers
from pipeline.errors import SprigError
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.counting import Count, outer_parameters
from pipeline.subnetwork.draft import Draft
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork

OPTIMAL = 0  # HiGHS' status of a solved program


@dataclass(frozen=True)
class Errors:
    """What each cut of one layer adds to the loss, in one unit for all layers.

    `attention` (L, G + 1, H/G + 1) if the first g groups and of each the first h heads are kept, `mlp` (L, D + 1) if
    the first d neurons are, `dropped` (L,) if the layer is left out. Keeping everything costs 0.
    """

    attention: np.ndarray
    mlp: np.ndarray
    dropped: np.ndarray

    @classmethod
    def none(cls, a: Architecture) -> "Errors":
        """Zeros, to be filled in; as they are, they ask whether a space has a member at all."""
        groups, heads = a.n_query_groups + 1, a.heads_per_group + 1
        return cls(
            np.zeros((a.n_layer, groups, heads)), np.zeros((a.n_layer, a.intermediate_size + 1)), np.zeros(a.n_layer)
        )


@dataclass(frozen=True)
class _Menu:
    """The sizes that every layer may have: `attentions` (n, 3) of groups, heads of a group and head size, `widths` (m,)
    of the MLP; and how many parameters (then how much of each limit) an attention and a neuron cost: (costs, n) and
    (costs,). A kept layer costs the sum of both."""

    attentions: np.ndarray
    widths: np.ndarray
    attention_costs: np.ndarray
    neuron_costs: np.ndarray


def allocate(space: Space, errors: Errors) -> SubNetwork:
    """The member of a coarse space whose errors sum to the least, exactly: by a mixed-integer linear program (HiGHS),
    or by looking at every shape where all layers share one.

    Raises:
        SprigError: the space cuts what the errors do not know, or has no member.
    """
    check_allocation(space)
    menu = _menu(space)
    draft = _uniform(space, errors, menu) if space.uniform else _layerwise(space, errors, menu)
    if draft is None or not space.fitter.fits(draft):
        raise SprigError(
            f"search allocation finds no member of bin {space.bin} in this space: widen the bin, or lower space.step."
        )
    return space.freeze(draft)


def check_allocation(space: Space) -> None:
    """Whether the errors of output projections say what the space's cuts cost.

    Raises:
        SprigError: they do not; names the key.
    """
    refuse_experts(space.architecture)
    if space.fine:
        raise SprigError(
            "search allocation adds the errors of nested cuts, but space.granularity=fine keeps random entries: it "
            "needs space.granularity=coarse."
        )
    for name in ("n_embd", "head_size"):
        grid, size = space.grids[name], getattr(space.architecture, name)
        if grid != [size]:
            raise SprigError(
                f"search allocation knows the errors of whole heads, MLP neurons and layers alone, but the space "
                f"offers {name}={grid[0]}..{grid[-1]}: add {name} to space.hold."
            )


def refuse_experts(architecture: Architecture) -> None:
    """Raises SprigError for a mixture, of whose experts no errors are known."""
    if architecture.n_expert:
        raise SprigError(
            f"search allocation knows no errors of experts, which {architecture.name} has: choose another search."
        )


def _menu(space: Space) -> _Menu:
    width = space.architecture.n_embd
    attentions, widths = space.fitter.options(width).T, np.array(space.grids["intermediate_size"])

    def costs(neurons: int) -> np.ndarray:
        found = (layer(width, *attentions.T, neurons) for layer in space.fitter.layers)
        return np.array([np.broadcast_to(each, len(attentions)) for each in found])

    return _Menu(attentions, widths, costs(0), (costs(1) - costs(0))[:, 0])


def _budgets(space: Space) -> tuple[np.ndarray, np.ndarray]:
    """The least and the most that the layers may cost together: parameters, then every limit."""
    width = space.architecture.n_embd
    outer: Count = outer_parameters(space.architecture, width, space.bin.count)
    limits = [each.most - each.outer(width) for each in space.fitter.limits]
    low = np.array([space.bin.low - outer, *(-np.inf for _ in limits)])
    return low, np.array([space.bin.high - outer, *limits], dtype=float)


def _uniform(space: Space, errors: Errors, menu: _Menu) -> Draft | None:
    """Every depth with every shape; where layers are free, those stay that the shape hurts least."""
    low, high = _budgets(space)
    groups, heads, _ = menu.attentions.T
    # (layers, attentions, widths): the loss if a layer is kept in this shape, less the loss if it is dropped
    loss = errors.attention[:, groups, heads][:, :, None] + errors.mlp[:, None, menu.widths]
    loss = loss - errors.dropped[:, None, None]
    costs = menu.attention_costs[:, :, None] + menu.neuron_costs[:, None, None] * menu.widths
    best: tuple[float, Draft] | None = None
    for depth in space.grids["n_layer"]:
        if space.config.layers == Layers.subset:
            total = np.sort(loss, axis=0)[:depth].sum(axis=0)
        else:
            total = loss[space.layers_of(depth)].sum(axis=0)
        met = (depth * costs >= low[:, None, None]).all(axis=0) & (depth * costs <= high[:, None, None]).all(axis=0)
        total = np.where(met, total, np.inf)
        attention, width = np.unravel_index(np.argmin(total), total.shape)
        if np.isfinite(least := float(total[attention, width])) and (best is None or least < best[0]):
            layers = space.layers_of(depth)
            if space.config.layers == Layers.subset:
                layers = sorted(np.argsort(loss[:, attention, width], kind="stable")[:depth].tolist())
            row = [*menu.attentions[attention].tolist(), int(menu.widths[width])]
            best = least, Draft(layers, space.architecture.n_embd, [row], [None], None)
    return best[1] if best else None


def _layerwise(space: Space, errors: Errors, menu: _Menu) -> Draft | None:
    """One binary variable for each attention and each MLP width of each layer, and one for each depth."""
    from scipy import sparse  # imported here: it takes a second, and few runs need it
    from scipy.optimize import Bounds, LinearConstraint, milp

    layers, depths = space.architecture.n_layer, space.grids["n_layer"]
    groups, heads, _ = menu.attentions.T
    attention = errors.attention[:, groups, heads] - errors.dropped[:, None]
    mlp = errors.mlp[:, menu.widths]
    unit = max(float(np.abs(attention).max()), float(np.abs(mlp).max()), 1e-300)
    objective = np.concatenate([attention.ravel(), mlp.ravel(), np.zeros(len(depths))]) / unit

    def row_sums(options: int) -> Any:
        return sparse.kron(sparse.eye(layers), np.ones((1, options)), format="csr")

    kept_by_attention, kept_by_mlp = row_sums(len(groups)), row_sums(len(menu.widths))
    none = sparse.csr_matrix((layers, len(depths)))
    if space.config.layers == Layers.subset:
        chosen, depth_of = sparse.csr_matrix(np.ones((1, layers))), sparse.csr_matrix(np.array([depths]))
    else:
        chosen = sparse.eye(layers, format="csr")
        kept_at = [[layer in space.layers_of(depth) for depth in depths] for layer in range(layers)]
        depth_of = sparse.csr_matrix(np.array(kept_at, dtype=int))
    low, high = _budgets(space)
    scale = menu.neuron_costs.clip(1)  # parameters in units of a neuron's: the solver likes numbers near 1
    costs = np.hstack(
        [
            np.tile(menu.attention_costs, layers),
            np.tile(menu.neuron_costs[:, None] * menu.widths, layers),
            np.zeros((len(low), len(depths))),
        ]
    )
    one_depth = np.repeat([0, 1], [layers * (len(groups) + len(menu.widths)), len(depths)])
    solved = milp(
        objective,
        integrality=np.ones(len(objective), dtype=int),
        bounds=Bounds(0, 1),
        constraints=[
            # A layer has one attention or none, and an MLP exactly if it has an attention.
            LinearConstraint(sparse.hstack([kept_by_attention, 0 * kept_by_mlp, none]), 0, 1),
            LinearConstraint(sparse.hstack([kept_by_attention, -kept_by_mlp, none]), 0, 0),
            # The kept layers are those of the chosen depth, or as many as that; there is one depth.
            LinearConstraint(sparse.hstack([chosen @ kept_by_attention, 0 * (chosen @ kept_by_mlp), -depth_of]), 0, 0),
            LinearConstraint(one_depth, 1, 1),
            # Parameters in the bin, and everything else within its limit.
            LinearConstraint(costs / scale[:, None], low / scale, high / scale),
        ],
        options={"mip_rel_gap": 0},
    )
    if solved.status != OPTIMAL or solved.x is None:
        return None
    first, second = layers * len(groups), layers * len(menu.widths)
    attentions = solved.x[:first].reshape(layers, -1).round().astype(int)
    widths = solved.x[first : first + second].reshape(layers, -1)
    kept = np.flatnonzero(attentions.any(axis=1)).tolist()
    rows = [
        [*menu.attentions[attentions[layer].argmax()].tolist(), int(menu.widths[widths[layer].argmax()])]
        for layer in kept
    ]
    return Draft(kept, space.architecture.n_embd, rows, [None] * len(kept), None)
