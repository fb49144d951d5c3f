"""Stage report: summary.json, report.md and its plots, made from nothing but artifacts and configuration."""

import json
import math
from itertools import accumulate
from pathlib import Path

from pipeline.artifacts import Recipe, write_atomically, write_json
from pipeline.evaluation.savings import Costs, savings
from pipeline.search import journal as journals
from pipeline.stages import distill, evaluate, extract, order, plots, prepare, search
from pipeline.stages.context import Context, Step
from pipeline.stages.page import page
from pipeline.subnetwork.counting import flops_per_token, parameters
from pipeline.subnetwork.value import SubNetwork

STAGE, VERSION = "report", 1
SUMMARY, PAGE = "summary.json", "report.md"
SCHEMA = 1


def step(context: Context) -> Step:
    steps = inputs(context)
    recipe = Recipe(
        STAGE,
        VERSION,
        _labels(context),
        {each.role: each.recipe.fingerprint for each in steps},
    )

    def make(folder: Path) -> None:
        artifacts = {each.role: context.made(each.recipe) for each in steps}
        summary = summarise(context, artifacts)
        evaluated = {
            role: _fully_scored(context, journals.read(artifacts[role] / search.JOURNAL))
            for role in ("search", "random_search")
            if role in artifacts
        }
        curves = {role: distill.curve(artifacts[f"distilled_{role}"]) for role in evaluate.roles(context)}
        plots.draw(folder, evaluated, curves, summary)
        result = json.loads((artifacts["evaluation"] / evaluate.RESULT).read_text())
        write_json(folder / SUMMARY, summary)
        write_atomically(folder / PAGE, page(summary, result))

    return Step(STAGE, "report", recipe, make)


def _fully_scored(context: Context, journal: list[dict]) -> list[dict]:
    """The evaluations on all blocks, which can be compared, each with all `tokens` that were evaluated up to it."""
    spent = accumulate(line["blocks"] * context.config.data.block_size for line in journal)
    lines = [line | {"tokens": tokens} for line, tokens in zip(journal, spent, strict=True)]
    return [line for line in lines if line["blocks"] == context.config.search.blocks]


def _labels(context: Context) -> dict:
    """What the report says of the run that is in no other recipe, or not by this name."""
    config = context.config
    return {
        "preset": config.preset,
        "seed": config.seed,
        "teacher": {"name": config.teacher.name},
        "data": {"name": config.data.name, "block_size": config.data.block_size},
        "bin": {"center": context.bin.center, **search.edges(context)},
        "space": f"{config.space.granularity} {config.space.sharing}",
        "ordering": str(config.ordering.kind),
    }


def inputs(context: Context) -> list[Step]:
    """Every step of the run before the report, in order. Extraction and distillation have one for each role; a search
    that none of them starts from is left out."""
    config = context.config
    extracted = [extract.step(context, role) for role in evaluate.roles(context)]
    searched = any("search" in each.recipe.inputs for each in extracted)
    steps: list[Step | None] = [
        prepare.teacher_step(context, config.teacher),
        distill.kd_step(context),
        prepare.tokens_step(context),
        order.step(context),
        *([search.step(context), search.baseline_step(context)] if searched else []),
        *extracted,
        *(distill.step(context, role) for role in evaluate.roles(context)),
        evaluate.step(context),
    ]
    return [each for each in steps if each is not None]


def summarise(context: Context, artifacts: dict[str, Path]) -> dict:
    """The run in one dictionary, the same schema for every run. Perplexities over the same fixed validation blocks."""
    config, length = context.config, context.config.data.block_size
    models = json.loads((artifacts["evaluation"] / evaluate.RESULT).read_text())["models"]
    found = _costs(artifacts.get("search"), search.COSTS)
    baseline = _costs(artifacts.get("random_search"), search.COSTS)
    ordering = _costs(artifacts.get("ordering"), order.COSTS)
    trained = {role: _model(context, role, artifacts, models[role]) for role in evaluate.roles(context)}
    flops = {
        "order": ordering.get("flops", 0),
        "search": found.get("flops", 0),
        "random_search": baseline.get("flops", 0),
    }
    labels = _labels(context)
    return {
        "schema": SCHEMA,
        "status": "completed",
        **labels,
        "precision": context.precision,
        "teacher": labels["teacher"]
        | {
            "parameters": parameters(context.architecture),
            "perplexity": models["teacher"]["perplexity"],
            "flops_per_token": flops_per_token(context.architecture, length=length),
        },
        "data": labels["data"] | {"validation_blocks": config.evaluate.blocks},
        "search": {
            **{key: found.get(key) for key in ("strategy", "evaluated", "tokens", "seconds", "best_fitness")},
            "fitness": "perplexity",
            "random_best_fitness": baseline.get("best_fitness"),
        },
        "student": trained["student"],
        "control": trained.get("control"),
        "flops": flops,
        "saving": _saving(trained, artifacts, flops),
        "downstream": {},
    }


def _saving(trained: dict[str, dict], artifacts: dict[str, Path], flops: dict[str, int]) -> dict | None:
    if "control" not in trained:
        return None
    student, control = trained["student"], trained["control"]
    costs = Costs(
        order=flops["order"],
        search=flops["search"],
        student_per_token=student["flops"]["student"] // student["tokens"],
        control_per_token=control["flops"]["student"] // control["tokens"],
        teacher_per_token=student["flops"]["teacher"] // student["tokens"],
    )
    curves = (distill.curve(artifacts[f"distilled_{role}"]) for role in ("student", "control"))
    return savings(*curves, costs)


def _costs(folder: Path | None, name: str) -> dict:
    return json.loads((folder / name).read_text()) if folder else {}


def _model(context: Context, role: str, artifacts: dict[str, Path], result: dict) -> dict:
    config, folder = context.config, artifacts[f"distilled_{role}"]
    sub = SubNetwork.from_dict(json.loads((folder / "subnetwork.json").read_text()))
    curve = distill.curve(folder)
    tokens, length = curve[-1][0], config.data.block_size
    teacher = flops_per_token(context.kd_architecture, length=length) if config.distill.distils else 0
    return {
        "init": str(extract.init_of(context, role)),
        "kd": config.distill.distils,
        "parameters": parameters(context.architecture, sub),
        "n_layer": sub.n_layer,
        "untrained_perplexity": math.exp(curve[0][1]),
        "final_perplexity": result["perplexity"],
        "tokens": tokens,
        "lr": distill.learning_rate(context, role),
        # A backward pass costs two forward ones.
        "flops": {
            "student": 3 * flops_per_token(context.architecture, sub, length=length) * tokens,
            "teacher": teacher * tokens,
        },
        "artifact": f"artifacts/{distill.STAGE}/{folder.name}",
    }
