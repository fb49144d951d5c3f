"""What summary.json says of a run: one schema for all."""

import json
import math
from pathlib import Path

from pipeline.evaluation.savings import Costs, savings
from pipeline.stages import cache, distill, downstream, evaluate, extract, order, rerank, search, study
from pipeline.stages.context import Context
from pipeline.subnetwork.counting import flops_per_token, kv_bytes_per_token, parameters
from pipeline.subnetwork.diversity import diversity
from pipeline.subnetwork.grids import GENES
from pipeline.subnetwork.value import SubNetwork

SUMMARY = "summary.json"
SCHEMA = 2
COMPLETED, RUNNING = "completed", "running"


def labels(context: Context) -> dict:
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
    evaluation: dict | None,
    candidates: list[dict],
    curves: dict[str, list],
    subnetworks: dict[str, SubNetwork],
) -> dict:
    """The run in one dictionary; what is not known yet is null. Perplexities are over the same fixed validation
    blocks. The arguments are as those of pipeline.report.material.Material, `candidates` of the search itself."""
    config, length = context.config, context.config.data.block_size
    perplexities = {name: each["perplexity"] for name, each in evaluation["models"].items()} if evaluation else {}
    found = _costs(done.get("search"), search.COSTS)
    if "search" in unfinished:
        found = {"strategy": config.search.strategy}
    reranked = _costs(done.get("rerank"), rerank.COSTS)
    baseline = _costs(done.get("random_search"), search.COSTS)
    ordering = _costs(done.get("ordering"), order.COSTS)
    trained = {
        role: _model(context, role, done, subnetworks.get(role), curves.get(role, []), perplexities.get(role))
        for role in extract.roles(context)
    }
    flops = {
        "order": ordering.get("flops", 0),
        "search": found.get("flops", 0) + reranked.get("flops", 0),
        "random_search": baseline.get("flops", 0),
    }
    named = labels(context)
    return {
        "schema": SCHEMA,
        "status": RUNNING if unfinished else COMPLETED,
        **({"unfinished": unfinished} if unfinished else {}),
        **named,
        "precision": context.precision,
        "teacher": named["teacher"]
        | {
            "parameters": parameters(context.architecture),
            "perplexity": perplexities.get("teacher"),
            "flops_per_token": flops_per_token(context.architecture, length=length),
        },
        "data": named["data"] | {"validation_blocks": config.evaluate.blocks, "task_examples": config.evaluate.limit},
        "search": {
            **{key: found.get(key) for key in ("strategy", "evaluated", "tokens", "seconds", "best_fitness")},
            "candidates": len(candidates) or None,
            "fitness": str(config.search.fitness),
            "random_best_fitness": baseline.get("best_fitness"),
            "rerank": reranked or None,
            "diversity": _diversity(context, candidates),
        },
        "student": trained["student"],
        "control": trained.get("control"),
        "flops": flops,
        "saving": _saving(trained, curves, flops) if all(f"distilled_{role}" in done for role in trained) else None,
        "efficiency": _efficiency(context, done.get("speed"), subnetworks.get("student")),
        "downstream": downstream.results(done),
        "anatomy": _anatomy(context, subnetworks["student"]) if "student" in subnetworks else None,
        **({"study": study.result(done["study"])} if "study" in done else {}),
    }


def _model(
    context: Context,
    role: str,
    done: dict[str, Path],
    sub: SubNetwork | None,
    curve: list[tuple[int, float]],
    perplexity: float | None,
) -> dict:
    config, folder = context.config, done.get(f"distilled_{role}")
    tokens, length = curve[-1][0] if curve else 0, config.data.block_size
    # A backward pass costs two forward ones.
    own = 3 * flops_per_token(context.architecture, sub, length=length) if sub else 0
    return {
        "init": str(extract.init_of(context, role)),
        "kd": config.distill.distils,
        "parameters": parameters(context.architecture, sub) if sub else None,
        "n_layer": sub.n_layer if sub else None,
        "untrained_perplexity": math.exp(curve[0][1]) if curve else None,
        "final_perplexity": perplexity,
        "tokens": tokens,
        "lr": distill.learning_rate(context, role),
        "flops": {"student": own * tokens, "teacher": cache.teacher_flops(context, tokens)},
        "artifact": f"artifacts/{distill.STAGE}/{folder.name}" if folder else None,
    }


def _costs(folder: Path | None, name: str) -> dict:
    return json.loads((folder / name).read_text()) if folder else {}


def _saving(trained: dict[str, dict], curves: dict[str, list], flops: dict[str, int]) -> dict | None:
    if "control" not in trained:
        return None
    return saving(trained["student"], trained["control"], flops, curves["student"], curves["control"])


def saving(student: dict, control: dict, flops: dict, student_curve: list, control_curve: list) -> dict:
    """What a summary's student saves over a control, which may be another run's; `flops` are of its order and search.

    Curves are (tokens, nats a token), from token 0 on.
    """
    costs = Costs(
        order=flops["order"],
        search=flops["search"],
        student_per_token=student["flops"]["student"] // student["tokens"],
        control_per_token=control["flops"]["student"] // control["tokens"],
        teacher_per_token=student["flops"]["teacher"] // student["tokens"],
    )
    return savings(student_curve, control_curve, costs)


def _efficiency(context: Context, speed: Path | None, sub: SubNetwork | None) -> dict | None:
    """What teacher and student cost to run. KV-cache entries have the precision's bytes."""
    if speed is None or sub is None:
        return None
    config, measured = context.config, json.loads((speed / evaluate.SPEED).read_text())
    value_bytes = 4 if context.precision == "fp32" else 2
    models = {
        name: {
            "parameters": parameters(context.architecture, each),
            "flops_per_token": flops_per_token(context.architecture, each, length=config.data.block_size),
            "kv_bytes_per_token": kv_bytes_per_token(context.architecture, each, value_bytes=value_bytes),
            "prefill_tokens_per_second": measured["models"][name]["prefill"],
            "decode_tokens_per_second": measured["models"][name]["decode"],
        }
        for name, each in (("teacher", None), ("student", sub))
    }
    return {
        "hardware": measured["hardware"],
        "prefill": evaluate.prefill(context),
        "decode": config.evaluate.speed.decode,
        "repetitions": config.evaluate.speed.repetitions,
        **models,
    }


def _anatomy(context: Context, sub: SubNetwork) -> dict:
    """The teacher's sizes, and the student's for every layer that it keeps."""
    teacher = context.architecture
    return {
        "n_layer": [teacher.n_layer, sub.n_layer],
        "n_embd": [teacher.n_embd, sub.n_embd],
        "teacher": {name: getattr(teacher, name) for name in GENES},
        "student": [
            {"layer": layer} | {name: getattr(gene, name) for name in GENES}
            for layer, gene in zip(sub.layers, sub.genes, strict=True)
        ],
    }


def _diversity(context: Context, candidates: list[dict]) -> dict | None:
    """Of as many candidates as the first generation has, the first asked for and the last, on however many blocks they
    were scored; None where they overlap."""
    count = context.config.search.population
    if len(candidates) < 2 * count:
        return None
    found = [line["subnetwork"] for line in candidates]
    return {"candidates": count, "first": diversity(found[:count]), "last": diversity(found[-count:])}
