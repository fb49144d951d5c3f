"""What a command imports before it works. Imports are of a whole process: one runs every command here, in turn."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.artifacts import Recipe, Store

ROOT = Path(__file__).parent.parent
# Takes seconds to import: only what needs it may.
HEAVY = (
    "datasets",
    "deepspeed",
    "gguf",
    "huggingface_hub",
    "lightning",
    "lm_eval",
    "matplotlib",
    "pandas",
    "scipy",
    "sympy",
    "transformers",
)
PATHS = {
    "teacher.path=/no/where does not exist": ["teacher=local", "teacher.source=hf", "teacher.path=/no/where"],
    "/no.gguf does not exist": ["teacher=local", "teacher.source=gguf", "teacher.path=no.gguf"],
    "/no does not exist": ["teacher@kd_teacher=local", "kd_teacher.source=litgpt", "kd_teacher.path=no"],
}
CODE = """
import contextlib, io, json, sys
sys.modules["torch"] = None  # an import of it fails
from pipeline.cli import main

def run(words):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            main(words)
        except SystemExit as end:
            printed.write(str(end))
    return printed.getvalue()

help, *light, plan = json.load(sys.stdin)
said, of_help = [run(help)], list(sys.modules)
import pipeline, pipeline.artifacts, pipeline.subnetwork.space
pipeline.compose
said += [run(words) for words in light]
del sys.modules["torch"]
print(json.dumps({"said": [*said, run(plan)], "imported": list(sys.modules), "of_help": of_help}))
"""


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> dict[str, list[str]]:
    outputs = tmp_path_factory.mktemp("outputs")
    run = outputs / "first/run"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra/config.yaml").write_text("{}")
    (run / ".hydra/overrides.yaml").write_text("[]")
    store = Store(outputs / "artifacts")
    store.claim(run, {"teacher": store.obtain(Recipe("prepare", 1, {}, {}), lambda folder: None)})
    smoke = ["experiment=smoke", f"outputs={outputs}"]
    wrong = {said: [*smoke, "data=sotu", *words] for said, words in PATHS.items()}
    kept = [f"outputs={outputs}"]
    return {
        "--help": ["--help"],
        **wrong,
        "runs": ["runs", *kept],
        "rm": ["rm", "first/run", *kept],
        "describe": ["describe", "--help"],
        "plan": [*smoke, "plan=true"],
    }


@pytest.fixture(scope="module")
def ran(commands) -> dict:
    given = json.dumps(list(commands.values()))
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found | {"said": dict(zip(commands, found["said"], strict=True))}


def test_help_is_a_page_for_newcomers(ran):
    for word in ("experiment=quickstart", "stages=", "plan=true", "teacher=", "smollm2-135m", "bin=", "--multirun"):
        assert word in ran["said"]["--help"]
    assert not {"numpy", "filelock", "asyncio"} & {*ran["of_help"]}


@pytest.mark.parametrize("sentence", PATHS)
def test_a_wrong_path_is_refused_before_torch_is_imported(sentence, ran):
    assert sentence in ran["said"][sentence] and "\n" not in ran["said"][sentence].strip()


def test_what_lists_and_removes_runs_needs_no_torch(ran):
    assert "first/run" in ran["said"]["runs"] and "first/run" in ran["said"]["rm"]
    assert "describe" in ran["said"]["describe"]


def test_a_plan_imports_only_what_it_needs(ran):
    assert "memory" in ran["said"]["plan"] and "torch" in ran["imported"]
    assert not {*HEAVY} & {name.partition(".")[0] for name in ran["imported"]}
