"""Members of a bin per second of one core, from Pythia-6.9B, in all four spaces: by construction and by rejection.

Sampling, mutation and crossover in the bins of 410M, 1B and 2.8B, and how evenly samples spread over each gene's
values; then, in the bin of 410M, rejection for comparison.

Rejection draws every size uniformly from the same grids, counts, and keeps what lies in the bin. It counts twice: with
Sprig's closed form, which shows what construction alone saves, and, plainly, by building the model on the meta device.
"""

from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch
from litgpt import GPT, Config
from litgpt.model import Block
from omegaconf import OmegaConf

from benchmarks.harness import alternate, arguments, report
from pipeline.config import BinConfig, Granularity, Layers, Sharing, SpaceConfig
from pipeline.models.families import architecture_of
from pipeline.subnetwork.bins import make_bin
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import GENES, LayerGenes, SubNetwork

CONF = Path(__file__).parents[1] / "conf"
TEACHER = "pythia-6.9b"
CENTERS = {"410M": 405_334_016, "1B": 1_011_781_632, "2.8B": 2_775_208_960}
DRAWS = {Sharing.uniform: 4000, Sharing.layerwise: 1000}
REPETITIONS, SECONDS = 5, {"construction": 1.0, "closed_form": 1.0, "built": 6.0}


def plain_draw(space: Space, rng: np.random.Generator) -> SubNetwork:
    """Every size uniformly from its grid, whatever the count."""

    def pick(name: str) -> int:
        return space.grids[name][int(rng.integers(len(space.grids[name])))]

    def genes() -> LayerGenes:
        seed = int(rng.integers(2**32)) if space.config.granularity == Granularity.fine else None
        return LayerGenes.of([pick(name) for name in GENES], seed)

    depth, most = pick("n_layer"), space.architecture.n_layer
    subset = space.config.layers == Layers.subset
    layers = tuple(sorted(rng.permutation(most)[:depth].tolist()) if subset else range(depth))
    uniform = space.config.sharing == Sharing.uniform
    chosen = (genes(),) * len(layers) if uniform else tuple(genes() for _ in layers)
    return SubNetwork(layers, pick("n_embd"), chosen)


def built_count(sub: SubNetwork) -> int:
    """Builds the model without memory for its weights, and counts them."""

    def config(gene: LayerGenes, n_layer: int) -> Config:
        return Config.from_name(
            TEACHER,
            n_layer=n_layer,
            n_embd=sub.n_embd,
            n_head=gene.n_head,
            n_query_groups=gene.n_query_groups,
            head_size=gene.head_size,
            intermediate_size=gene.intermediate_size,
        )

    with torch.device("meta"):
        model = GPT(config(sub.genes[0], sub.n_layer if sub.uniform else 1))
        if not sub.uniform:
            blocks = (Block(config(gene, 1), number) for number, gene in enumerate(sub.genes))
            model.transformer.h = torch.nn.ModuleList(blocks)
    return sum(tensor.numel() for tensor in model.parameters())


def rate(draw: Callable[[], bool], seconds: float) -> float:
    """How many draws a second succeed."""
    start, found = perf_counter(), 0
    while (elapsed := perf_counter() - start) < seconds:
        found += draw()
    return found / elapsed


def space_of(granularity: Granularity, sharing: Sharing, center: int) -> Space:
    shipped = OmegaConf.load(CONF / "space" / f"{granularity}-{sharing}.yaml")
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SpaceConfig), shipped))
    architecture = architecture_of(Config.from_name(TEACHER), tied=False)
    return Space(architecture, config, make_bin(BinConfig(center=center)), None)


def operators(space: Space) -> dict[str, float]:
    """Members a second of processor time, which other jobs of the machine do not stretch; medians."""
    rng, count = np.random.default_rng(0), DRAWS[space.config.sharing]
    subs = [space.sample(rng) for _ in range(count)]
    of_one = {
        "sample": lambda number: space.sample(rng),
        "mutate": lambda number: space.mutate(subs[number], rng, 0.2, 0.4),
        "crossover": lambda number: space.crossover(subs[number], subs[-number], rng),
    }

    def rate(draw: Callable[[int], SubNetwork]) -> float:
        start = process_time()
        for number in range(count):
            draw(number)
        return count / (process_time() - start)

    return alternate({name: lambda draw=draw: rate(draw) for name, draw in of_one.items()}, REPETITIONS)


def spread(space: Space) -> dict[str, list[float]]:
    """For each gene, how often samples take the values in each tenth of its grid, relative to an even share."""
    rng = np.random.default_rng(0)
    subs = [space.sample(rng) for _ in range(DRAWS[space.config.sharing])]
    found = {}
    for name in GENES:
        grid = space.grids[name]
        if len(grid) < 2:
            continue
        drawn = [
            grid.index(getattr(gene, name)) for sub in subs for gene in (sub.genes[:1] if space.uniform else sub.genes)
        ]
        tenths = min(len(grid), 10)
        counts = np.bincount(np.array(drawn) * tenths // len(grid), minlength=tenths)
        even = np.bincount(np.arange(len(grid)) * tenths // len(grid)) / len(grid)
        found[name] = (counts / len(drawn) / even).tolist()
    return found


def measure(granularity: Granularity, sharing: Sharing) -> dict[str, float]:
    """Samples in the bin of 410M per second, by method."""
    space, rng = space_of(granularity, sharing, CENTERS["410M"]), np.random.default_rng(0)
    architecture, bin = space.architecture, space.bin
    draws = {
        "construction": lambda: bin.contains(parameters(architecture, space.sample(rng))),
        "closed_form": lambda: bin.contains(parameters(architecture, plain_draw(space, rng))),
        "built": lambda: bin.contains(built_count(plain_draw(space, rng))),
    }
    for draw in draws.values():
        rate(draw, 0.5)  # warm-up
    return alternate({name: lambda n=name, d=draw: rate(d, SECONDS[n]) for name, draw in draws.items()}, REPETITIONS)


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    rows, evenness, figures = [], [], {}
    for granularity in Granularity:
        for sharing in Sharing:
            for bin, center in CENTERS.items():
                space = space_of(granularity, sharing, center)
                rates = operators(space)
                figures |= {f"{granularity}_{sharing}_{bin}_{name}": value for name, value in rates.items()}
                rows.append([f"{granularity} {sharing}", bin, *(f"{value:,.0f}" for value in rates.values())])
                for name, tenths in spread(space).items():
                    figures[f"{granularity}_{sharing}_{bin}_{name}_rarest_tenth"] = min(tenths)
                    evenness.append([f"{granularity} {sharing}", bin, name, " ".join(f"{x:.2f}" for x in tenths)])
    title = f"Members of the bin a second of one core, teacher {TEACHER}, medians of {REPETITIONS}"
    report(title, ["space", "bin", "sample", "mutate", "crossover"], rows, figures, None)
    title = "How often samples take a gene's values, in tenths of its grid from small to large; 1 is an even share"
    report(title, ["space", "bin", "gene", "tenths"], evenness, figures, None)
    rows = []
    for granularity in Granularity:
        for sharing in Sharing:
            found = measure(granularity, sharing)
            # A method that found nothing in most of its repetitions found fewer than one a repetition.
            bounds = {name: max(value, 1 / SECONDS[name]) for name, value in found.items()}
            is_bound = {name: value == 0 for name, value in found.items()}
            ours = found["construction"]
            row = [f"{granularity} {sharing}", f"{ours:,.0f}"]
            for peer in ("closed_form", "built"):
                less, more = ("<", ">") if is_bound[peer] else ("", "")
                row += [f"{less}{bounds[peer]:,.2f}", f"{more}{ours / bounds[peer]:,.0f}x"]
            rows.append(row)
            prefix = f"{granularity}_{sharing}"
            figures |= {f"{prefix}_{name}_per_second": value for name, value in bounds.items()}
            figures |= {f"{prefix}_{name}_is_upper_bound": bound for name, bound in is_bound.items()}
            figures |= {f"{prefix}_ratio_to_{name}": ours / bounds[name] for name in ("closed_form", "built")}
    report(
        f"Samples per second in the bin of 410M, teacher {TEACHER}, one process, medians of {REPETITIONS}",
        ["space", "by construction", "rejection, closed form", "ratio", "rejection, built model", "ratio"],
        rows,
        figures,
        options.json,
    )


if __name__ == "__main__":
    main()
