"""The quickstart itself, on the embedded teacher: about a quarter of an hour on two cores without bf16."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.data.blocks import Blocks
from pipeline.models import checkpoint
from pipeline.models.perplexity import mean_nll

ROOT = Path(__file__).parents[2]
PERPLEXITY = """
import sys
sys.modules.update(pipeline=None, litgpt=None)
import math, torch
from transformers import AutoModelForCausalLM
tokens, total = torch.load(sys.argv[2]), 0.0
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
for block in tokens:
    with torch.no_grad():
        logits = model(block[None, :-1]).logits[0]
    total += torch.nn.functional.cross_entropy(logits, block[1:], reduction="sum").item()
print(math.exp(total / tokens[:, 1:].numel()))
"""


def perplexity_alone(exported: Path, tokens: Path) -> float:
    """Of the blocks (n, T + 1) in a file, by transformers in a process without Sprig."""
    command = [sys.executable, "-I", "-c", PERPLEXITY, str(exported), str(tokens)]
    return float(subprocess.run(command, capture_output=True, text=True, timeout=900, check=True).stdout)


@pytest.mark.slow
def test_the_student_ends_far_below_the_untrained_cut_and_the_control_and_leaves(tmp_path):
    command = [sys.executable, "-m", "pipeline", "experiment=quickstart", f"outputs={tmp_path}"]
    for _ in range(2):
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=2400, check=False
        )
        assert done.returncode == 0, done.stderr
    assert ": starting" not in done.stdout, "the second run did something again"
    summary = json.loads((tmp_path / "quickstart/latest/summary.json").read_text())
    final = summary["student"]["final_perplexity"]
    assert final < 0.6 * summary["student"]["untrained_perplexity"]
    assert final < 0.2 * summary["control"]["final_perplexity"]
    assert summary["teacher"]["perplexity"] < 45

    run, exported = tmp_path / "quickstart/latest", tmp_path / "exported"
    command = [sys.executable, "-m", "pipeline", f"run={run}", "stages=[export]", f"export.to={exported}"]
    subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, timeout=600, check=True)
    blocks = Blocks(run / "artifacts/tokens", "validation").evenly(summary["data"]["validation_blocks"])
    torch.save(blocks, tmp_path / "tokens.pt")
    if summary["precision"] != "fp32":  # the same student in the arithmetic of the export
        final = math.exp(mean_nll(checkpoint.load(run / "artifacts/distilled_student", "cpu"), blocks, 4, "fp32"))
    # Both in the fp32 of PyTorch's cross-entropy, which is 1.5e-5 nats below that of float64 here.
    assert perplexity_alone(exported, tmp_path / "tokens.pt") == pytest.approx(final, rel=1e-6)
