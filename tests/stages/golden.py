"""The losses that the smoke run's distillation is held to. `python tests/stages/golden.py` writes them again."""

import json
import sys
import tempfile
from pathlib import Path

FILE = Path(__file__).with_name("golden.txt")
HEADER = """\
# Step and loss in nats of the student's distillation in experiment=smoke, seed 0, fp32.
# After a change that is meant to move them: python tests/stages/golden.py
"""


def losses(outputs: Path) -> list[tuple[int, float]]:
    """Step and loss of a finished smoke run."""
    metrics = outputs / "smoke/latest/artifacts/distilled_student/metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def read() -> list[tuple[int, float]]:
    lines = [line.split() for line in FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [(int(step), float(loss)) for step, loss in lines]


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from runs import smoke

    import pipeline

    with tempfile.TemporaryDirectory() as outputs:
        pipeline.run(smoke(Path(outputs)))
        lines = [f"{step} {loss:.6f}\n" for step, loss in losses(Path(outputs))]
    FILE.write_text(HEADER + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
