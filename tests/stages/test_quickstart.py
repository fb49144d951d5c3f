"""The quickstart itself, on the embedded teacher: about a quarter of an hour on two cores without bf16."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_student_ends_far_below_the_untrained_cut_and_the_control(tmp_path):
    command = [sys.executable, "-m", "pipeline", "experiment=quickstart", f"outputs={tmp_path}"]
    for _ in range(2):
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=2400, check=False
        )
        assert done.returncode == 0, done.stderr
    assert "begins" not in done.stdout, "the second run did something again"
    summary = json.loads((tmp_path / "quickstart/latest/summary.json").read_text())
    final = summary["student"]["final_perplexity"]
    assert final < 0.6 * summary["student"]["untrained_perplexity"]
    assert final < 0.2 * summary["control"]["final_perplexity"]
    assert summary["teacher"]["perplexity"] < 45
