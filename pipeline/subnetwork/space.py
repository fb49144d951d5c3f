"""A search space within a parameter bin: sampling, mutation and crossover that yield members by construction."""

from dataclasses import replace

import numpy as np

from pipeline.config import Exportable, Granularity, Layers, Sharing, SpaceConfig
from pipeline.errors import SprigError
from pipeline.subnetwork import reach
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.bins import Bin, check_count
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.draft import Draft, Place, pick
from pipeline.subnetwork.fitting import Fitter
from pipeline.subnetwork.grids import finer_steps, make_grids, step_of
from pipeline.subnetwork.limits import flops_limit, make_limits
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.stock import check_stock, is_split, stock_grids
from pipeline.subnetwork.value import LayerGenes, SubNetwork, check, genes_of

REDRAWS = 1000  # attempts before the bin counts as unreachable with the grids' steps
LIMITED_REDRAWS = 100  # the same in spaces with limits, where an attempt costs more
PROBES = 20  # the same when looking for a finer step that would reach the bin
SEEDS = 2**32


class Space:
    """The sub-networks of a teacher that a configuration allows and whose parameter count lies in a bin.

    `grids` maps each dimension to its values, ascending. In `uniform` spaces all layers share one row of genes; in
    `fine` spaces each row has an index seed, from which the kept entries are drawn. All randomness comes from the
    generators that are passed in. `mutate` and `crossover` change the genes of a Draft, and the Fitter then moves genes
    until the count is in the bin. `redraws` limits the attempts per draw; if it is set, errors suggest no finer steps.
    Limits count FLOPs over `length` tokens (default: the teacher's context), and `value_bytes` per entry of the KV
    cache.
    """

    def __init__(
        self,
        architecture: Architecture,
        config: SpaceConfig,
        bin: Bin,
        ordering: Ordering | None,
        redraws: int | None = None,
        *,
        length: int | None = None,
        value_bytes: int = 2,
    ):
        """Raises SprigError if a grid is impossible, layers=rank has no ordering, or no sub-network lies in the bin."""
        if config.layers == Layers.rank and ordering is None:
            raise SprigError("space.layers=rank needs an ordering of the layers: set ordering.kind=importance.")
        check_count(bin, architecture)
        self.architecture, self.config, self.bin = architecture, config, bin
        self.genes = genes_of(architecture)
        self.grids = make_grids(architecture, config)
        stock = config.exportable == Exportable.stock
        if bin.count == "exported" and not stock:
            raise SprigError(
                f"bin.count=exported with space.exportable={config.exportable}: layers of different sizes are padded "
                "on export, each to the largest, and no bin can be kept while single layers change. Set "
                "space.exportable=stock and space.sharing=uniform, or bin.count=total."
            )
        if stock:
            check_stock(architecture, config)
            self.grids = stock_grids(architecture, self.grids)
        self.ordering = ordering
        self.fine = config.granularity == Granularity.fine
        self.uniform = config.sharing == Sharing.uniform
        limits = make_limits(architecture, config, length or architecture.context, value_bytes)
        self.fitter = Fitter(architecture, self.grids, bin, limits, split=stock and is_split(architecture))
        self._redraws = redraws or (LIMITED_REDRAWS if limits else REDRAWS)
        try:
            self._reach = reach.find(self.fitter, self.grids["n_layer"], self.grids["n_embd"])
            self._widths_of, self._depths_of = self._reach.widths_of, self._reach.depths_of
            self._depths = [depth for depth, found in self._widths_of.items() if found]
            self.sample(np.random.default_rng(0))  # raises if the bin lies between the grids' steps
        except reach.BinUnreachable as error:
            if redraws or limits or not (finer := self._steps_that_reach()):
                raise
            raise SprigError(f"{str(error).rstrip('.')}: {' or '.join(finer)} would reach it.") from None

    def _steps_that_reach(self) -> list[str]:
        """For each dimension, the coarsest finer step that reaches the bin, if one does."""

        def is_reached(name: str, step: int) -> bool:
            config = replace(self.config, step=replace(self.config.step, **{name: step}))
            try:
                Space(self.architecture, config, self.bin, self.ordering, redraws=PROBES)
            except SprigError:
                return False
            return True

        found: list[str] = []
        if parameters(self.architecture, count=self.bin.count) < self.bin.low:
            return found
        for name in self.grids:
            steps = finer_steps(self.architecture, self.config, name)
            if steps and is_reached(name, steps[-1]):
                nearest = next(step for step in steps if is_reached(name, step))
                now = step_of(self.architecture, self.config, name)
                found.append(f"space.step.{name}={nearest} instead of {now}")
        return found

    def reach(self) -> tuple[int, int]:
        """The least and the most parameters in this space, regardless of the bin."""
        return self._reach.least, self._reach.most

    def least_flops_per_token(self, length: int) -> int:
        """A lower bound on a member's forward FLOPs per token, over sequences of `length` tokens."""
        return reach.least_cost(self.fitter, flops_limit(self.architecture, 0, length), self._reach)

    def contains(self, sub: SubNetwork) -> bool:
        """Whether a sub-network is legal for the teacher, fits this space's settings and grids, and lies in the bin."""
        try:
            check(sub, self.architecture)
        except SprigError:
            return False
        config, grids = self.config, self.grids
        seeds = [sub.index_seed, *(gene.index_seed for gene in sub.genes)]
        return (
            (sub.head_pairs, sub.attention_scale, sub.ordering)
            == (config.head_pairs, config.attention_scale, self._ordering_name)
            and sub.n_layer in grids["n_layer"]
            and (config.layers == Layers.subset or list(sub.layers) == self.layers_of(sub.n_layer))
            and sub.n_embd in grids["n_embd"]
            and all(getattr(gene, name) in grids[name] for gene in set(sub.genes) for name in self.genes)
            and (not self.uniform or len(set(sub.genes)) == 1)
            and all((seed is not None) == self.fine for seed in seeds)
            and self.fitter.fits(self.thaw(sub))
            and (not self.fitter.split or sub.genes[0].n_head * sub.genes[0].head_size == sub.n_embd)
        )

    def sample(self, rng: np.random.Generator) -> SubNetwork:
        """A random member. Depth, then width, are drawn uniformly among those that can meet the bin; then the genes.

        Raises:
            SprigError: the bin lies between the steps of the grids.
        """
        missed, genes = [], len(self.genes)
        for _ in range(self._redraws):
            depth = pick(self._depths, rng)
            width = pick(self._widths_of[depth], rng)
            layers = self._draw_layers(depth, rng)
            rows = self.fitter.draw_rows(width, depth, 1 if self.uniform else depth, rng)
            # draw_rows gives each layer a random parameter budget. That alone would hardly ever yield layers at the
            # ends of their range, so a random share of the genes is drawn again, and only those are then moved to fit
            # the bin.
            redrawn = [] if self.uniform else self._redraw(rows, rng.random((depth, genes)) < rng.random() ** 2, rng)
            draft = Draft(layers, width, rows, [self._draw_seed(rng) for _ in rows], self._draw_seed(rng))
            if self.fitter.fit(draft, redrawn, rng):
                return self.freeze(draft)
            missed.append(self.fitter.total(draft))
        least, most = self.reach()
        if self.fitter.limits and least < self.bin.low:
            raise reach.unreachable_within_limits(self.fitter, least, missed)
        raise reach.bin_unreachable(self.fitter, least, most, missed)

    def mutate(self, parent: SubNetwork, rng: np.random.Generator, gene_rate: float, global_rate: float) -> SubNetwork:
        """A member near the member `parent`. Each gene and index seed is drawn again with probability `gene_rate`, and
        depth and width each with probability `global_rate`, but at least one of all these. Then genes move until the
        count is in the bin: if depth and width stay, the redrawn genes and one other, and more only if these cannot
        meet the bin. Returns the parent itself if both rates are 0, or if no other member is found near it.
        """
        if gene_rate == global_rate == 0:
            return parent
        for _ in range(REDRAWS):
            child = self._mutant(parent, rng, gene_rate, global_rate)
            if child is not None and child != parent:
                return child
        return parent

    def _mutant(
        self, parent: SubNetwork, rng: np.random.Generator, gene_rate: float, global_rate: float
    ) -> SubNetwork | None:
        draft = self.thaw(parent)
        rows, genes = len(draft.rows), len(draft.rows) * len(self.genes)
        rates = np.full(2 + genes + (rows + 1 if self.fine else 0), gene_rate)
        rates[:2] = global_rate
        chosen = rng.random(len(rates)) < rates
        if not chosen.any():
            chosen[rng.choice(len(rates), p=rates / rates.sum())] = True
        new_depth, new_width = chosen[:2]
        redrawn = self._redraw(draft.rows, chosen[2 : 2 + genes].reshape(rows, len(self.genes)), rng)
        for number in np.flatnonzero(chosen[2 + genes :]).tolist():
            if number < rows:
                draft.seeds[number] = self._draw_seed(rng)
            else:
                draft.width_seed = self._draw_seed(rng)
        if not (new_depth or new_width):
            other = (int(rng.integers(rows)), int(rng.integers(len(self.genes))))
            return self._fitted(draft, [*redrawn, other], rng)

        depth, width = parent.n_layer, parent.n_embd
        if new_depth:
            depth = pick(self._depths if new_width else self._depths_of[width], rng)
        if new_width:
            width = pick(self._widths_of[depth], rng)
        layers = self._draw_layers(depth, rng, kept=draft.layers) if new_depth else draft.layers
        return self._fitted(self._rebuilt(draft, layers, width, rng), [], rng)

    def _rebuilt(self, draft: Draft, layers: list[int], width: int, rng: np.random.Generator) -> Draft:
        """The draft with other layers and width. Layers that stay keep their genes; new ones are drawn as in
        `sample`."""
        rows, seeds = draft.rows, draft.seeds
        if not self.uniform and layers != draft.layers:
            old = dict(zip(draft.layers, zip(rows, seeds, strict=True), strict=True))
            new = self.fitter.draw_rows(width, len(layers), len(layers), rng)
            pairs = [
                old[layer] if layer in old else (row, self._draw_seed(rng))
                for layer, row in zip(layers, new, strict=True)
            ]
            rows, seeds = [row for row, _ in pairs], [seed for _, seed in pairs]
        return Draft(layers, width, rows, seeds, draft.width_seed)

    def crossover(self, a: SubNetwork, b: SubNetwork, rng: np.random.Generator) -> SubNetwork:
        """A child of two members, which takes depth, width and every gene from one parent or the other. Genes are
        aligned by teacher layer; a layer that one parent lacks takes the other's genes. Returns `a` if no mix lies in
        the bin."""
        for _ in range(REDRAWS):
            child = self._child(a, b, rng)
            if child is not None:
                return child
        return a

    def _child(self, a: SubNetwork, b: SubNetwork, rng: np.random.Generator) -> SubNetwork | None:
        shapes = [(depth, width) for depth in (a.n_layer, b.n_layer) for width in (a.n_embd, b.n_embd)]
        depth, width = pick([shape for shape in shapes if shape[1] in self._widths_of[shape[0]]], rng)
        if self.config.layers == Layers.subset:
            common, others = set(a.layers) & set(b.layers), sorted(set(a.layers) ^ set(b.layers))
            layers = sorted([*common, *rng.permutation(others)[: depth - len(common)].tolist()])
        else:
            layers = self.layers_of(depth)
        of_a, of_b = self._by_layer(a), self._by_layer(b)
        rows, seeds = [], []
        for layer in of_a if self.uniform else layers:
            pair = (of_a if layer in of_a else of_b)[layer], (of_b if layer in of_b else of_a)[layer]
            *sides, last = rng.integers(2, size=len(self.genes) + 1).tolist()
            rows.append([pair[side][0][number] for number, side in enumerate(sides)])
            seeds.append(pair[last][1])
        width_seed = pick((a.index_seed, b.index_seed), rng)
        return self._fitted(Draft(layers, width, rows, seeds, width_seed), [], rng)

    def _by_layer(self, sub: SubNetwork) -> dict[int, tuple[list[int], int | None]]:
        """Genes and index seed by teacher layer; in a uniform space, the shared ones under the key 0."""
        draft = self.thaw(sub)
        keys = [0] if self.uniform else draft.layers
        return {key: (row, seed) for key, row, seed in zip(keys, draft.rows, draft.seeds, strict=True)}

    @property
    def _ordering_name(self) -> str:
        return self.ordering.fingerprint if self.ordering else "none"

    def layers_of(self, depth: int) -> list[int]:
        """The layers kept at a depth: the most influential ones with layers=rank, else the first ones."""
        if self.config.layers == Layers.rank:
            assert self.ordering is not None  # refused by __init__
            return sorted(self.ordering.layers[:depth].tolist())
        return list(range(depth))

    def _draw_layers(self, depth: int, rng: np.random.Generator, kept: list[int] | None = None) -> list[int]:
        """Layers of a new depth. With layers=subset, as many of `kept` as possible stay, but at least one goes."""
        if self.config.layers != Layers.subset:
            return self.layers_of(depth)
        stay = rng.permutation(kept or [])[: max(min(len(kept or []), depth) - 1, 0)].tolist()
        others = [layer for layer in range(self.architecture.n_layer) if layer not in stay]
        return sorted([*stay, *rng.permutation(others)[: depth - len(stay)].tolist()])

    def _redraw(self, rows: list[list[int]], chosen: np.ndarray, rng: np.random.Generator) -> list[Place]:
        """Draws the chosen genes uniformly from their grids, in place; `chosen` is a bool array (rows, genes)."""
        places = [(row, gene) for row, gene in np.argwhere(chosen).tolist()]
        for row, gene in places:
            rows[row][gene] = pick(self.fitter.grids[gene], rng)
        return places

    def _draw_seed(self, rng: np.random.Generator) -> int | None:
        return int(rng.integers(SEEDS)) if self.fine else None

    def _fitted(self, draft: Draft, free: list[Place], rng: np.random.Generator) -> SubNetwork | None:
        return self.freeze(draft) if self.fitter.fit(draft, free, rng) else None

    def thaw(self, sub: SubNetwork) -> Draft:
        """A member as a draft that can be changed; `freeze` turns it back into a sub-network."""
        genes = sub.genes[:1] if self.uniform else sub.genes
        rows = [list(gene.sizes) for gene in genes]
        return Draft(list(sub.layers), sub.n_embd, rows, [gene.index_seed for gene in genes], sub.index_seed)

    def freeze(self, draft: Draft) -> SubNetwork:
        """The sub-network of a draft. Does not check that its count lies in the bin."""
        genes = tuple(LayerGenes.of(row, seed) for row, seed in zip(draft.rows, draft.seeds, strict=True))
        return SubNetwork(
            layers=tuple(draft.layers),
            n_embd=draft.n_embd,
            genes=genes * len(draft.layers) if self.uniform else genes,
            head_pairs=str(self.config.head_pairs),
            attention_scale=str(self.config.attention_scale),
            ordering=self._ordering_name,
            index_seed=draft.width_seed,
        )
