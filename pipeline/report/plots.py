"""The figures of a run's report."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.savings import Curves
from pipeline.report.canvas import COLOURS, INK, OUTLINE, Plot, counted, legend, scaled, scientific
from pipeline.report.schema import Anatomy, BinSummary, Candidate, Summary, neurons, queries
from pipeline.report.study import plot as study_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pipeline.report.material import Material

ANATOMY = "anatomy"
LABELS = {"search": "search", "random_search": "best of random"}


def of(material: Material) -> list[Plot]:
    """Those that the run has numbers for: one that is still going may have none."""
    summary, plots = material.summary, []
    if material.curves:
        plots.append(
            Plot(
                "training",
                "Perplexity against training tokens",
                "Validation perplexity of student and control over training tokens",
                _alone(partial(training, curves=material.curves, summary=summary)),
            )
        )
    if len(material.costs) > 1:
        plots.append(
            Plot(
                "flops",
                "Perplexity against total FLOPs",
                "Validation perplexity of student and control over all FLOPs that they took",
                _alone(partial(flops, curves=material.costs, summary=summary)),
            )
        )
    candidates = {role: finite(lines) for role, lines in material.candidates.items()}
    if len(candidates.get("search", [])) > 1:  # one, as search=importance has, is a dot without a line
        measure = summary["search"]["fitness"]
        plots += [
            Plot(
                "search",
                "Search",
                "Fitness of every evaluation, and the best so far, over evaluated tokens",
                _alone(partial(search, candidates=candidates, measure=measure)),
            ),
            Plot(
                "bin",
                "Candidates in the bin",
                "Parameters and fitness of every candidate of the search",
                _alone(
                    partial(
                        bin_,
                        candidates=candidates["search"],
                        edges=summary["bin"],
                        measure=measure,
                        winner=material.winner,
                    )
                ),
            ),
        ]
    if (sizes := summary["anatomy"]) is not None:
        height = anatomy_height(sizes)
        says = "Width of attention and MLP in every layer of the student, inside the teacher's"
        plots.append(Plot(ANATOMY, "Anatomy of the student", says, partial(anatomy, sizes=sizes), height))
    if "study" in summary:
        plots.append(study_plot(summary["study"]))
    return plots


def _alone(draw: Callable[[Axes], None]) -> Callable[[Figure], None]:
    """A figure of one panel, its legend above it."""

    def figure(figure: Figure) -> None:
        axes = figure.subplots()
        draw(axes)
        legend(figure)

    return figure


def finite(lines: list[Candidate]) -> list[Candidate]:
    """The evaluations that can be drawn."""
    return [line for line in lines if isfinite(line["fitness"])]


def training(axes: Axes, curves: Curves, summary: Summary) -> None:
    """Validation perplexity over training tokens; `curves` are (tokens, nats per token) by model. A recovered student
    starts where recovery left it, and its untrained cut stands next to that."""
    untrained = summary["student"].get("recovered_perplexity") and summary["student"]["untrained_perplexity"]
    if untrained:
        axes.plot([0], [untrained], "o", markerfacecolor="none", color=COLOURS["student"], label="before recovery")
    _perplexities(axes, curves, summary["teacher"]["perplexity"])
    axes.set_xlabel("training tokens")
    counted(axes.xaxis)


def flops(axes: Axes, curves: Curves, summary: Summary) -> None:
    """Validation perplexity over total FLOPs, with those before training; a ring where student and control cross."""
    _perplexities(axes, curves, summary["teacher"]["perplexity"])
    for place, each in enumerate((summary.get("equal_flops") or {"crossings": []})["crossings"]):
        label = "" if place else "crossing"
        at = [each["flops"]], [each["perplexity"]]
        axes.plot(*at, "o", markerfacecolor="none", markeredgecolor=INK, markersize=10, label=label)
    axes.set_xlabel("total FLOPs, those before training included")
    counted(axes.xaxis, scientific)


def _perplexities(axes: Axes, curves: Curves, teacher: float | None) -> None:
    for name, curve in curves.items():
        costs, nll = zip(*curve, strict=True)
        axes.plot(costs, np.exp(nll), marker="o", markersize=3, color=COLOURS[name], label=name)
    if teacher is not None:
        axes.plot(
            [0, max(curve[-1][0] for curve in curves.values())], [teacher] * 2, "--", color=OUTLINE, label="teacher"
        )
    axes.set_ylabel("validation perplexity")
    scaled(axes)


def search(axes: Axes, candidates: dict[str, list[Candidate]], measure: str) -> None:
    """Every evaluation's fitness, which is a `measure`, over the tokens evaluated up to it, and the best so far."""
    for name, lines in candidates.items():
        fitness = np.array([line["fitness"] for line in lines])
        cost = [line["tokens"] for line in lines]
        axes.scatter(cost, fitness, s=10, alpha=0.4, color=COLOURS[name], linewidths=0)
        axes.step(cost, np.minimum.accumulate(fitness), where="post", color=COLOURS[name], label=LABELS[name])
    axes.set(xlabel="evaluated tokens", ylabel=f"{measure}, untrained")
    counted(axes.xaxis)
    scaled(axes)


def bin_(axes: Axes, candidates: list[Candidate], edges: BinSummary, measure: str, winner: str | None) -> None:
    """Where in the bin the candidates lie, coloured from early to late, the one with the key `winner`
    ringed."""
    sizes = np.array([line["parameters"] for line in candidates])
    fitness = np.array([line["fitness"] for line in candidates])
    won = np.array([line["key"] == winner for line in candidates])
    axes.axvspan(edges["low"], edges["high"], color=OUTLINE, alpha=0.15, linewidth=0, label="bin")
    age = np.arange(len(candidates))
    axes.scatter(sizes, fitness, s=14, c=age, cmap="viridis", linewidths=0, label="candidates, dark to light")
    if won.any():
        axes.scatter(sizes[won], fitness[won], s=80, facecolors="none", edgecolors=INK, label="winner")
    axes.set(xlabel="parameters", ylabel=f"{measure}, untrained")
    counted(axes.xaxis)
    scaled(axes)


def anatomy_height(sizes: Anatomy) -> float:
    return 1.5 + 0.16 * sizes["n_layer"][0]


def anatomy(figure: Figure, sizes: Anatomy) -> None:
    """The student's layers inside the teacher's, the first at the bottom: attention's query entries (heads x head
    size) and the MLP's neurons. A layer without a bar of its own was dropped."""
    whole, kept = sizes["teacher"], sizes["student"]
    places = [gene["layer"] for gene in kept]
    widths = {
        "attention": (queries(whole), [queries(gene) for gene in kept]),
        "MLP": (neurons(whole), [neurons(gene) for gene in kept]),
    }
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (title, (teacher, student)) in zip(panels, widths.items(), strict=True):
        axes.barh(range(sizes["n_layer"][0]), teacher, height=0.85, color=OUTLINE, alpha=0.25, label="teacher")
        axes.barh(places, student, height=0.85, color=COLOURS["student"], label="student")
        axes.set_xlabel(f"{title}, entries")
        counted(axes.xaxis)
    panels[0].set_ylabel("teacher's layer")
    counted(panels[0].yaxis, integer=True)
    legend(figure)
