"""Stage report: summary.json and the figures, made from nothing but artifacts and configuration.

A run that is still going has the same, of what there is, in its folder alone. The pages, which name the run and its
command, are of the folder (see pipeline.report.pages).
"""

import json
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from pipeline.artifacts import Recipe, write_json
from pipeline.evaluation.savings import Curves, over_flops
from pipeline.layout import SUMMARY
from pipeline.models import checkpoint
from pipeline.report import canvas, plots
from pipeline.report.schema import Candidate, Evaluation, Summary
from pipeline.report.sentences import NOT_BEGUN
from pipeline.report.summary import costs, labels, summarise
from pipeline.search import journal as journals
from pipeline.stages import distill, evaluate, extract, rerank, search
from pipeline.stages.context import Context, Step, Steps
from pipeline.subnetwork.value import SubNetwork

STAGE, VERSION = "report", 4
PAGE = "report.md"


@dataclass(frozen=True)
class Material:
    """What a report shows. `done` has each finished artifact's folder by role; while a run is still going, the curves
    reach as far as it has come."""

    summary: Summary
    done: dict[str, Path]
    evaluation: Evaluation | None
    candidates: dict[str, list[Candidate]]  # each search's, in the order they were asked for
    winner: str | None  # the key of the candidate that search or rerank chose
    curves: Curves  # each model's validation over tokens

    @property
    def costs(self) -> Curves:
        """Each model's validation over total FLOPs; empty without a control or before both are in training."""
        student, control = self.summary["student"], self.summary["control"]
        begun = self.curves.keys() >= {"student", "control"} and student["tokens"]
        if control is None or not (begun and control["tokens"]):
            return {}
        flops = costs(student, control, self.summary["flops"])
        ours, theirs = over_flops(self.curves["student"], self.curves["control"], flops)
        return {"student": ours, "control": theirs}


def step(context: Context, steps: Steps) -> Step:
    """The report of a run with these `steps`."""
    recipe = Recipe(
        STAGE,
        VERSION,
        labels(context),
        {role: each.recipe.fingerprint for role, each in steps.items()},
    )
    return Step("report", recipe, partial(_make, context, steps))


def _make(context: Context, steps: Steps, folder: Path) -> None:
    for each in steps.values():
        context.made(each.recipe)
    write(gather(context, steps), folder)


def write(material: Material, folder: Path) -> None:
    canvas.write(plots.of(material), folder)
    write_json(folder / SUMMARY, material.summary)


def summary_of(context: Context, steps: Steps) -> Summary:
    """The report's; of a run that is still going, of what there is."""
    if folder := context.store.find(step(context, steps).recipe):
        published: Summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return published
    return gather(context, steps).summary


def gather(context: Context, steps: Steps) -> Material:
    """What there is of this run.

    Raises:
        SprigError: an artifact was changed since it was published.
    """
    done: dict[str, Path] = {}
    seen: dict[str, Path] = {}
    unfinished: dict[str, str] = {}
    for each in steps.values():
        if found := context.store.find(each.recipe):
            done[each.role] = seen[each.role] = found
        elif begun := context.store.begun(each.recipe):
            seen[each.role] = begun
            unfinished[each.role] = distill.how_far(context, each) if each.stage == distill.STAGE else "begun"
        else:
            unfinished[each.role] = NOT_BEGUN
    candidates: dict[str, list[Candidate]] = {
        role: _evaluations(context, journals.read(seen[role] / search.JOURNAL))
        for role in ("search", "random_search")
        if role in seen and (seen[role] / search.JOURNAL).exists()
    }
    curves = {
        role: curve
        for role in extract.roles(context)
        if (folder := seen.get(f"distilled_{role}")) and (curve := distill.curve(folder))
    }
    subnetworks = {
        role: SubNetwork.from_dict(json.loads((done[f"extracted_{role}"] / checkpoint.SUBNETWORK).read_text()))
        for role in extract.roles(context)
        if f"extracted_{role}" in done
    }
    deciding = "rerank" if "rerank" in steps else "search"
    winner = rerank.winner(context, steps[deciding].recipe).key if deciding in done else None
    evaluation = json.loads((done["evaluation"] / evaluate.RESULT).read_text()) if "evaluation" in done else None
    summary = summarise(context, done, unfinished, evaluation, candidates.get("search", []), curves, subnetworks)
    return Material(summary, done, evaluation, candidates, winner, curves)


def _evaluations(context: Context, journal: list[dict[str, Any]]) -> list[Candidate]:
    """A journal's lines, each with all `tokens` that were evaluated up to it."""
    spent = accumulate(len(line["losses"]) * context.config.data.block_size for line in journal)
    found: Any = [line | {"tokens": tokens} for line, tokens in zip(journal, spent, strict=True)]
    return found
