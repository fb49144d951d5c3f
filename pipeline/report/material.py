"""Stage report: summary.json, report.md and its plots, made from nothing but artifacts and configuration.

A run that is still going has the same, of what there is, in its folder alone.
"""

import json
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from pipeline.artifacts import Recipe, write_atomically, write_json
from pipeline.models import checkpoint
from pipeline.report import markdown, plots
from pipeline.report import study as study_report
from pipeline.report.summary import SUMMARY, labels, summarise
from pipeline.search import journal as journals
from pipeline.stages import distill, downstream, evaluate, extract, order, prepare, rerank, search, study
from pipeline.stages.context import Context, Step
from pipeline.subnetwork.value import SubNetwork

STAGE, VERSION = "report", 3
PAGE = "report.md"


@dataclass(frozen=True)
class Material:
    """What a report shows. `done` has each finished artifact's folder by role; while a run is still going, the curves
    reach as far as it has come."""

    summary: dict
    done: dict[str, Path]
    evaluation: dict | None  # the prompt, and what each model makes of it
    evaluated: dict[str, list[dict]]  # each search's evaluations on all blocks
    candidates: dict[str, list[dict]]  # each search's candidates, in the order they were asked for; not all are `whole`
    winner: str | None  # the key of the candidate that search or rerank chose
    curves: dict[str, list[tuple[int, float]]]  # each model's validation
    subnetwork: SubNetwork | None  # the student's


def step(context: Context) -> Step:
    steps = inputs(context)
    recipe = Recipe(
        STAGE,
        VERSION,
        labels(context),
        {each.role: each.recipe.fingerprint for each in steps},
    )

    def make(folder: Path) -> None:
        for each in steps:
            context.made(each.recipe)
        write(gather(context), folder)

    return Step(STAGE, "report", recipe, make)


def write(material: Material, folder: Path) -> None:
    searched = material.evaluated, material.candidates.get("search", []), material.winner
    drawn = plots.draw(folder, *searched, material.curves, material.summary)
    drawn += study_report.draw(folder, material.summary)
    write_json(folder / SUMMARY, material.summary)
    write_atomically(folder / PAGE, markdown.page(material.summary, material.evaluation, drawn))


def summary_of(context: Context) -> dict:
    """The report's; of a run that is still going, of what there is."""
    if folder := context.store.find(step(context).recipe):
        return json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    return gather(context).summary


def gather(context: Context) -> Material:
    """What there is of this run.

    Raises:
        SprigError: an artifact was changed since it was published.
    """
    done, seen, unfinished = {}, {}, {}
    for each in inputs(context):
        if found := context.store.find(each.recipe):
            done[each.role] = seen[each.role] = found
        elif begun := context.store.begun(each.recipe):
            seen[each.role] = begun
            unfinished[each.role] = distill.how_far(context, each) if each.stage == distill.STAGE else "begun"
        else:
            unfinished[each.role] = markdown.NOT_BEGUN
    evaluations = {
        role: _evaluations(context, journals.read(seen[role] / search.JOURNAL))
        for role in ("search", "random_search")
        if role in seen and (seen[role] / search.JOURNAL).exists()
    }
    evaluated = {role: [line for line in lines if line["whole"]] for role, lines in evaluations.items()}
    candidates = {role: [*{line["key"]: line for line in lines}.values()] for role, lines in evaluations.items()}
    curves = {
        role: curve
        for role in evaluate.roles(context)
        if (folder := seen.get(f"distilled_{role}")) and (curve := distill.curve(folder))
    }
    subnetworks = {
        role: SubNetwork.from_dict(json.loads((done[f"extracted_{role}"] / checkpoint.SUBNETWORK).read_text()))
        for role in evaluate.roles(context)
        if f"extracted_{role}" in done
    }
    winner = rerank.winner(context).key if rerank.deciding_step(context).role in done else None
    evaluation = json.loads((done["evaluation"] / evaluate.RESULT).read_text()) if "evaluation" in done else None
    summary = summarise(context, done, unfinished, evaluation, candidates.get("search", []), curves, subnetworks)
    return Material(summary, done, evaluation, evaluated, candidates, winner, curves, subnetworks.get("student"))


def _evaluations(context: Context, journal: list[dict]) -> list[dict]:
    """A journal's lines, each with all `tokens` that were evaluated up to it, and whether its candidate is scored on
    the `whole` of the blocks: these fitnesses alone can be compared."""
    spent = accumulate(len(line["losses"]) * context.config.data.block_size for line in journal)
    blocks = context.config.search.blocks
    return [
        line | {"tokens": tokens, "whole": line["blocks"] == blocks}
        for line, tokens in zip(journal, spent, strict=True)
    ]


def inputs(context: Context) -> list[Step]:
    """Every step of the run before the report, in order. Extraction and distillation have one for each role; a search,
    or its rerank, that nothing goes on from is left out."""
    config = context.config
    extracted = [extract.step(context, role) for role in evaluate.roles(context)]
    studied = study.step(context)
    needed = {name for each in (*extracted, studied) if each for name in each.recipe.inputs}
    steps: list[Step | None] = [
        prepare.teacher_step(context, config.teacher),
        distill.kd_step(context),
        prepare.tokens_step(context),
        order.step(context),
        *([search.step(context), search.baseline_step(context)] if needed & {search.STAGE, rerank.STAGE} else []),
        rerank.step(context) if rerank.STAGE in needed else None,
        *extracted,
        *(distill.step(context, role) for role in evaluate.roles(context)),
        evaluate.speed_step(context),
        evaluate.step(context),
        *downstream.steps(context),
        studied,
    ]
    return [each for each in steps if each is not None]
