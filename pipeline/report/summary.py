"""Makes summary.json from a run's artifacts; pipeline.report.schema says what it holds."""

import json
import math
from pathlib import Path
from typing import Any, Literal

from pipeline.artifacts import read_manifest
from pipeline.config import ExportForm, Init, Source
from pipeline.evaluation.savings import Costs, Curve, Curves, equal_flops, savings
from pipeline.layout import COMPLETED
from pipeline.models.perplexity import bits_per_byte
from pipeline.report.anatomy import anatomy, diversity_of
from pipeline.report.schema import (
    RUNNING,
    SCHEMA,
    Candidate,
    Continuation,
    EfficiencySummary,
    Evaluation,
    ExportedSummary,
    ModelEfficiency,
    ModelSummary,
    RecoverSummary,
    RunFlops,
    SearchSummary,
    StudySummary,
    Summary,
)
from pipeline.stages import cache, distill, downstream, evaluate, extract, order, recover, rerank, search, study
from pipeline.stages.context import Context
from pipeline.subnetwork.counting import flops_per_token, kv_bytes_per_token, parameters, training_flops
from pipeline.subnetwork.exported import exported
from pipeline.subnetwork.value import SubNetwork


def labels(context: Context) -> dict[str, Any]:
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


def summarise(
    context: Context,
    done: dict[str, Path],
    unfinished: dict[str, str],
    evaluation: Evaluation | None,
    candidates: list[Candidate],
    curves: Curves,
    subnetworks: dict[str, SubNetwork],
) -> Summary:
    """The arguments are as those of pipeline.report.material.Material, `candidates` of the search itself."""
    config, length = context.config, context.config.data.block_size
    models = evaluation["models"] if evaluation else {}
    trained = {
        role: _model(context, role, done, subnetworks.get(role), curves.get(role, []), evaluation)
        for role in extract.roles(context)
    }
    student, control = trained["student"], trained.get("control")
    flops, named = _flops(done), labels(context)
    summary: Summary = {
        "schema": SCHEMA,
        "status": RUNNING if unfinished else COMPLETED,
        "preset": named["preset"],
        "seed": named["seed"],
        "bin": named["bin"],
        "space": named["space"],
        "ordering": named["ordering"],
        "precision": context.precision,
        "teacher": {
            "name": named["teacher"]["name"],
            "random_weights": _random_weights(context),
            "parameters": parameters(context.architecture),
            "perplexity": _figure(models, "teacher", "perplexity"),
            "bits_per_byte": _figure(models, "teacher", "bits_per_byte"),
            "flops_per_token": flops_per_token(context.architecture, length=length),
        },
        "data": {
            "name": named["data"]["name"],
            "block_size": named["data"]["block_size"],
            "validation_blocks": config.evaluate.blocks,
            "task_examples": config.evaluate.limit,
        },
        "search": _search(context, done, unfinished, candidates),
        "recover": _recover(done.get("recovered_student")),
        "student": student,
        "control": control,
        "flops": flops,
        "saving": None,
        "equal_flops": None,
        "efficiency": _efficiency(context, done.get("speed"), subnetworks.get("student")),
        "downstream": downstream.results(done),
        "anatomy": anatomy(context, subnetworks["student"]) if "student" in subnetworks else None,
    }
    if (vocabulary := context.uncut_vocabulary) is not None:
        summary["uncut_teacher"] = {
            "vocabulary": vocabulary,
            "kept": context.architecture.vocab_size,
            "parameters": parameters(context.describe(config.teacher)),
            "perplexity": _figure(models, evaluate.UNCUT, "perplexity"),
            "bits_per_byte": _figure(models, evaluate.UNCUT, "bits_per_byte"),
        }
    if unfinished:
        summary["unfinished"] = unfinished
    if control is not None and all(f"distilled_{role}" in done for role in trained):
        compared = curves["student"], curves["control"], costs(student, control, flops)
        summary["saving"], summary["equal_flops"] = savings(*compared), equal_flops(*compared)
    if "study" in done:
        summary["study"] = _study(done["study"])
    return summary


def _figure(models: dict[str, Continuation], name: str, figure: Literal["perplexity", "bits_per_byte"]) -> float | None:
    return models[name][figure] if name in models else None


def _random_weights(context: Context) -> bool:
    """Whether what a model is cut from or learns from was never trained."""
    config = context.config
    cut = any(extract.init_of(context, role) != Init.random_weights for role in extract.roles(context))
    teachers = [config.teacher] if cut else []
    if config.distill.distils:
        teachers.append(config.kd_teacher or config.teacher)
    return any(teacher.source == Source.random for teacher in teachers)


def _flops(done: dict[str, Path]) -> RunFlops:
    ordering, found, reranked, baseline = (
        _costs(done.get(role), name)
        for role, name in (
            ("ordering", order.COSTS),
            ("search", search.COSTS),
            ("rerank", rerank.COSTS),
            ("random_search", search.COSTS),
        )
    )
    return {
        "order": ordering.get("flops", 0),
        "search": found.get("flops", 0) + reranked.get("flops", 0),
        "random_search": baseline.get("flops", 0),
        "recover": recover.result(done["recovered_student"])["flops"] if "recovered_student" in done else None,
    }


def _recover(folder: Path | None) -> RecoverSummary | None:
    if folder is None:
        return None
    found = recover.result(folder)
    return {
        "tokens": found["tokens"],
        "seconds": read_manifest(folder)["seconds"],
        "helped": found["helped"],
        "before": found["before"],
        "after": found["after"],
    }


def _search(
    context: Context, done: dict[str, Path], unfinished: dict[str, str], candidates: list[Candidate]
) -> SearchSummary:
    found = _costs(done.get("search"), search.COSTS)
    if "search" in unfinished:
        found = {"strategy": context.config.search.strategy}
    return {
        "strategy": found.get("strategy"),
        "evaluated": found.get("evaluated"),
        "tokens": found.get("tokens"),
        "seconds": found.get("seconds"),
        "best_fitness": found.get("best_fitness"),
        "candidates": len(candidates) or None,
        "fitness": str(context.config.search.fitness),
        "random_best_fitness": _costs(done.get("random_search"), search.COSTS).get("best_fitness"),
        "rerank": _costs(done.get("rerank"), rerank.COSTS) or None,
        "diversity": diversity_of(context, candidates),
    }


def _model(
    context: Context,
    role: str,
    done: dict[str, Path],
    sub: SubNetwork | None,
    curve: Curve,
    evaluation: Evaluation | None,
) -> ModelSummary:
    config, folder = context.config, done.get(f"distilled_{role}")
    tokens, length = int(curve[-1][0]) if curve else 0, config.data.block_size
    models = evaluation["models"] if evaluation else {}
    start, recovered = math.exp(curve[0][1]) if curve else None, recover.applies(context, role)
    per_byte = None
    if curve and evaluation:
        per_byte = bits_per_byte(curve[0][1], evaluation["tokens"], evaluation["bytes"])
    per_token = training_flops(flops_per_token(context.architecture, sub, length=length)) if sub else 0
    return {
        "init": str(extract.init_of(context, role)),
        "kd": config.distill.distils,
        "parameters": parameters(context.architecture, sub) if sub else None,
        "active_parameters": parameters(context.architecture, sub, "active")
        if sub and context.architecture.n_expert
        else None,
        "exported": _exported(context, sub) if sub else None,
        "n_layer": sub.n_layer if sub else None,
        "untrained_perplexity": _figure(models, "untrained", "perplexity") if recovered else start,
        "untrained_bits_per_byte": _figure(models, "untrained", "bits_per_byte") if recovered else per_byte,
        "recovered_perplexity": start if recovered else None,
        "recovered_bits_per_byte": per_byte if recovered else None,
        "final_perplexity": _figure(models, role, "perplexity"),
        "final_bits_per_byte": _figure(models, role, "bits_per_byte"),
        "tokens": tokens,
        "lr": distill.learning_rate(context, role),
        "flops": {"student": per_token * tokens, "teacher": cache.teacher_flops(context, tokens)},
        "artifact": f"artifacts/{distill.STAGE}/{folder.name}" if folder else None,
    }


def _exported(context: Context, sub: SubNetwork) -> ExportedSummary:
    found, own = exported(context.architecture, sub), exported(context.architecture, sub, ExportForm.own)
    return {"form": str(found.form), "parameters": found.parameters, "own": own.parameters}


def _costs(folder: Path | None, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8")) if folder else {}


def costs(student: ModelSummary, control: ModelSummary, flops: RunFlops) -> Costs:
    """What a student and a control, which may be another run's, cost; `flops` are those before the student's
    training."""
    return Costs(
        order=flops["order"],
        search=flops["search"],
        recover=flops.get("recover") or 0,
        student_per_token=student["flops"]["student"] // student["tokens"],
        control_per_token=control["flops"]["student"] // control["tokens"],
        teacher_per_token=student["flops"]["teacher"] // student["tokens"],
    )


def _efficiency(context: Context, speed: Path | None, sub: SubNetwork | None) -> EfficiencySummary | None:
    """What teacher and student cost to run. KV-cache entries have the precision's bytes."""
    if speed is None or sub is None:
        return None
    config, measured = context.config, json.loads((speed / evaluate.SPEED).read_text(encoding="utf-8"))

    def model(name: str, sub: SubNetwork | None) -> ModelEfficiency:
        value_bytes = 4 if context.precision == "fp32" else 2
        return {
            "parameters": parameters(context.architecture, sub),
            "flops_per_token": flops_per_token(context.architecture, sub, length=config.data.block_size),
            "kv_bytes_per_token": kv_bytes_per_token(context.architecture, sub, value_bytes=value_bytes),
            "prefill_tokens_per_second": measured["models"][name]["prefill"],
            "decode_tokens_per_second": measured["models"][name]["decode"],
        }

    return {
        "hardware": measured["hardware"],
        "prefill": evaluate.prefill(context),
        "decode": config.evaluate.speed.decode,
        "repetitions": config.evaluate.speed.repetitions,
        "teacher": model("teacher", None),
        "student": model("student", sub),
    }


def _study(folder: Path) -> StudySummary:
    found: Any = study.result(folder)
    return found
