"""Sweeps made by hand, whose numbers are known."""

import json
import math
from pathlib import Path

from pipeline.report.schema import SCHEMA

SIZES = {"n_query_groups": 2, "heads_per_group": 2, "head_size": 4, "intermediate_size": 32}
KEPT = {"n_query_groups": 1, "heads_per_group": 2, "head_size": 4, "intermediate_size": 16}
SEARCH = {"strategy": "evolution", "tokens": 20, "seconds": 1.0, "fitness": "perplexity"}
SEARCH |= {"best_fitness": 20.0, "random_best_fitness": 21.0}
TOKENS = 100
CURVES = {
    "random_weights": (4.0, 2.0),
    "searched": (3.0, 1.0),
    "lost": (3.0, 2.5),
    "born": (1.5, 1.0),
    "slow": (3.0, 1.5),
}


def model(init: str, tokens: int = TOKENS) -> dict:
    return {
        "init": init,
        "kd": True,
        "parameters": 1000,
        "n_layer": 1,
        "untrained_perplexity": math.exp(3),
        "final_perplexity": math.exp(CURVES[init][-1]) if init in CURVES else 1.0,
        "tokens": tokens,
        "lr": 1e-3,
        "flops": {"student": 2 * tokens, "teacher": tokens},
        "artifact": None,
    }


def make_run(
    folder: Path,
    init: str,
    seed: int = 0,
    control: bool = False,
    preset: str = "hand",
    add: float = 0,
    tokens: int = TOKENS,
    teacher: str = "hand",
    evaluated: int = 1,
) -> None:
    """A finished run whose student has one of CURVES, `add` nats higher; a search costs 40 FLOPs per candidate."""
    artifacts = folder / "artifacts"
    for role, curve in (("student", CURVES[init]), *([("control", CURVES["random_weights"])] if control else [])):
        lines = [{"tokens": at, "validation_nll": nll + add} for at, nll in zip((0, tokens), curve, strict=True)]
        (path := artifacts / f"distilled_{role}").mkdir(parents=True)
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (artifacts / "tokens").mkdir()
    (artifacts / "tokens/index.json").write_text(json.dumps({"block_size": 10, "splits": {"train": {"blocks": 5}}}))
    final = CURVES[init][-1] + add
    student = model(init, tokens) | {"final_perplexity": math.exp(final), "final_bits_per_byte": final / 2}
    summary = {
        "schema": SCHEMA,
        "status": "completed",
        "preset": preset,
        "seed": seed,
        "precision": "fp32",
        "teacher": {"name": teacher, "parameters": 4000, "perplexity": 2.0, "flops_per_token": 1},
        "data": {"name": "hand", "block_size": 10, "validation_blocks": 1},
        "bin": {"center": 1000, "low": 900, "high": 1100, "count": "total"},
        "space": "coarse",
        "ordering": "none",
        "student": student | {"init": "random_weights" if init == "random_weights" else "searched"},
        "control": model("random_weights", tokens) if control else None,
        "search": SEARCH | {"evaluated": evaluated},
        "flops": {"order": 10, "search": 40 * evaluated, "random_search": 7},
        "saving": None,
        "efficiency": None,
        "downstream": {},
        "anatomy": {"n_layer": [2, 1], "n_embd": [16, 8], "teacher": SIZES, "student": [{"layer": 1} | KEPT]},
    }
    (folder / "summary.json").write_text(json.dumps(summary))


def job(number: int, status: str = "completed", error: str | None = None, **overrides: str) -> dict:
    return {
        "id": f"job{number}",
        "overrides": overrides,
        "status": status,
        "folder": f"../../hand/job{number}",
        "seconds": 1.0,
        "error": error,
    }


def make_sweep(outputs: Path, axes: dict[str, list[str]], jobs: list[dict], schema: int = 1) -> Path:
    (folder := outputs / "sweeps/hand").mkdir(parents=True)
    record = {"schema": schema, "name": "hand", "axes": axes, "command": ["sprig", "-m", "init=a"], "jobs": jobs}
    (folder / "sweep.json").write_text(json.dumps(record))
    return folder


def row(folder: Path, *starts: str) -> list[str]:
    """The cells of the page's first table row that begins so."""
    lines = [line.strip("| ").split(" | ") for line in (folder / "sweep.md").read_text().splitlines() if "|" in line]
    return next(line for line in lines if line[: len(starts)] == list(starts))
