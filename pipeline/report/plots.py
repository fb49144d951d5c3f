"""The three plots of a report, the same bytes for the same numbers."""

import math
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {"student": "#1b7837", "control": "#762a83", "search": "#1b7837", "random_search": "#762a83"}
FAINT = 0.25  # opacity of a candidate that was not scored on all blocks
LABELS = {"search": "search", "random_search": "best of random"}


def draw(
    folder: Path,
    evaluated: dict[str, list[dict]],
    candidates: list[dict],
    winner: str | None,
    curves: dict[str, list],
    summary: dict,
) -> list[str]:
    """Writes training.png and, where there was a search, search.png and bin.png; the names of what it wrote.

    `evaluated` has each search's evaluations on all blocks, with the `tokens` evaluated up to each; `candidates` the
    last evaluation of each candidate of the search, on the `whole` of the blocks or not; `winner` is the key of the one
    that was chosen; `curves` has each model's validation curve [(tokens, nats a token), ...]. A run that is still going
    may have none yet.
    """
    drawings = {}
    if curves:
        drawings["training.png"] = lambda axes: _training(axes, curves, summary["teacher"]["perplexity"])
    if any(math.isfinite(line["fitness"]) for line in evaluated.get("search", [])):
        fitness = summary["search"]["fitness"]
        drawings["search.png"] = lambda axes: _search(axes, evaluated, fitness)
        drawings["bin.png"] = lambda axes: _bin(axes, candidates, summary["bin"], fitness, winner)
    if summary["anatomy"]:
        drawings["anatomy.png"] = lambda axes: _anatomy(axes, summary["anatomy"])
    for name, drawing in drawings.items():
        _save(folder / name, drawing)
    return list(drawings)


def _save(path: Path, plot) -> None:
    # Figure without pyplot: no global state, no display.
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        plot(figure.subplots())
        figure.savefig(path, dpi=140, metadata={"Software": None})


def save(path: Path, plot: Callable[[Figure], None], columns: int = 1, rows: float = 1) -> None:
    """Writes a plot of several panels as PNG and as SVG, the same bytes for the same numbers."""
    settings = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "sprig"}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(3.2 + 3.2 * columns, 3.4 * rows), layout="constrained")
        plot(figure)
        figure.savefig(path.with_suffix(".png"), dpi=120, metadata={"Software": None})
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})


def _search(axes: Axes, evaluated: dict[str, list[dict]], fitness: str) -> None:
    for name, journal in evaluated.items():
        fitness = np.array([line["fitness"] for line in journal])
        cost = np.array([line["tokens"] for line in journal])
        finite = np.isfinite(fitness)
        axes.scatter(cost[finite], fitness[finite], s=10, alpha=0.35, color=COLOURS[name], linewidths=0)
        axes.step(cost, np.minimum.accumulate(fitness), where="post", color=COLOURS[name], label=LABELS[name])
    axes.set(xlabel="evaluated tokens", ylabel=f"{fitness}, untrained", yscale="log", title="Search")
    axes.legend(frameon=False)


def _bin(axes: Axes, journal: list[dict], edges: dict, measure: str, winner: str | None) -> None:
    journal = [line for line in journal if math.isfinite(line["fitness"])]
    sizes = np.array([line["parameters"] for line in journal]) / 1e6
    fitness = np.array([line["fitness"] for line in journal])
    whole = np.array([line["whole"] for line in journal])
    won = np.array([line["key"] == winner for line in journal])
    axes.axvspan(edges["low"] / 1e6, edges["high"] / 1e6, color="#eeeeee", label="bin")
    label = "candidates, early to late" + ("" if whole.all() else ",\nfaint: scored in part")
    age = np.arange(len(journal))
    axes.scatter(sizes, fitness, s=14, c=age, cmap="viridis", alpha=np.where(whole, 1, FAINT), label=label)
    if won.any():
        axes.scatter(sizes[won], fitness[won], s=80, facecolors="none", edgecolors="black", label="winner")
    axes.set(xlabel="parameters, millions", ylabel=f"{measure}, untrained", yscale="log", title="Candidates in the bin")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _anatomy(axes: Axes, anatomy: dict) -> None:
    """Each kept layer's attention (query heads x head size) and MLP as shares of the teacher's."""
    teacher, kept = anatomy["teacher"], anatomy["student"]
    places = np.array([gene["layer"] for gene in kept])
    whole = teacher["n_query_groups"] * teacher["heads_per_group"] * teacher["head_size"]
    attention = [gene["n_query_groups"] * gene["heads_per_group"] * gene["head_size"] / whole for gene in kept]
    mlp = [gene["intermediate_size"] / teacher["intermediate_size"] for gene in kept]
    axes.bar(np.arange(anatomy["n_layer"][0]), 1, width=0.9, color="#eeeeee", label="teacher")
    axes.bar(places - 0.2, attention, width=0.4, color="#762a83", label="attention")
    axes.bar(places + 0.2, mlp, width=0.4, color="#1b7837", label="MLP")
    width = "of {} entries, the student's of {}".format(*anatomy["n_embd"])
    axes.set(xlabel=f"teacher layer ({width})", ylabel="share of the teacher's", ylim=(0, 1), title="Anatomy")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _training(axes: Axes, curves: dict[str, list], teacher: float | None) -> None:
    for name, curve in curves.items():
        tokens, nll = zip(*curve, strict=True)
        axes.plot(tokens, np.exp(nll), marker="o", markersize=3, color=COLOURS[name], label=name)
    if teacher is not None:
        axes.axhline(teacher, color="#555555", linestyle="--", linewidth=1, label="teacher")
    axes.set(xlabel="training tokens", ylabel="validation perplexity", yscale="log", title="Distillation")
    axes.legend(frameon=False)
