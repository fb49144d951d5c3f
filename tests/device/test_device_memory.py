"""What a block keeps for its backward pass is measured in a fresh process: in one that had run other tests, autocast
was seen to keep further copies of activations under fake CUDA."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ALONE = Path(__file__).with_name("memory_alone.py")


@pytest.mark.slow
def test_a_block_keeps_what_the_plan_says():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(ALONE)]
    done = subprocess.run(command, cwd=ALONE.parents[2], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"^\.{10,}|skipped|^s+", done.stdout, re.MULTILINE), done.stdout
