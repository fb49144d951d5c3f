"""Whole runs that several test files start or change."""

import json
from pathlib import Path

import pipeline


def smoke(outputs: Path, *overrides: str) -> pipeline.config.Config:
    """experiment=smoke into a folder of the test's own."""
    return pipeline.compose(["experiment=smoke", f"outputs={outputs}", "precision=fp32", *overrides])


def half_trained(artifact: Path) -> Path:
    """Puts a model's training back to 2,048 tokens, as a kill leaves it, the last line of its metrics cut short; the
    folder."""
    partial = artifact.resolve().rename(f"{artifact.resolve()}.partial")
    for name in ("manifest.json", "lit_model.pth"):
        (partial / name).unlink()
    lines = (partial / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["tokens"] <= 2_048]
    (partial / "metrics.jsonl").write_text("".join(kept) + lines[len(kept)][:9])
    return partial
