"""`python -m pipeline.artifacts`: what is there, who needs it, and that cleaning takes nothing that a run needs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.artifacts import Recipe, Store
from pipeline.artifacts import __main__ as command
from pipeline.artifacts.inventory import entries

ROOT = Path(__file__).parent.parent


def publish(outputs: Path, stage: str, config: dict, **inputs: str) -> Path:
    recipe = Recipe(stage, 1, config, inputs)
    return Store(outputs / "artifacts").obtain(recipe, lambda folder: (folder / "data").write_text("x" * 1000))


def link(outputs: Path, run: str, *artifacts: Path) -> None:
    folder = outputs / run
    (folder / "artifacts").mkdir(parents=True)
    (folder / ".hydra").mkdir()
    (folder / ".hydra/config.yaml").write_text("")
    for number, artifact in enumerate(artifacts):
        (folder / f"artifacts/role{number}").symlink_to(os.path.relpath(artifact, folder / "artifacts"))


@pytest.fixture
def outputs(tmp_path) -> Path:
    """teacher <- cut (needed by two runs), a lone search, and what a kill left of a training."""
    teacher = publish(tmp_path, "prepare", {})
    cut = publish(tmp_path, "extract", {}, teacher=teacher.name)
    publish(tmp_path, "search", {})
    (tmp_path / "artifacts/distill/abcd.partial").mkdir(parents=True)
    (tmp_path / "artifacts/distill/abcd.partial/step").write_text("100")
    link(tmp_path, "smoke/1111", cut)
    link(tmp_path, "paper/twin/2222", cut)
    return tmp_path


def actions(monkeypatch, outputs: Path, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["artifacts", *arguments, "--outputs", str(outputs)])
    try:
        return command.main()
    except SystemExit as stopped:
        return stopped.code


def left(outputs: Path) -> list[str]:
    return sorted(folder.parent.name for folder in (outputs / "artifacts").glob("*/*") if folder.is_dir())


def test_what_is_made_from_is_needed_too(outputs):
    needed = {entry.folder.parent.name: entry.needed_by for entry in entries(outputs)}
    runs = ("paper/twin/2222", "smoke/1111")
    assert needed == {"prepare": runs, "extract": runs, "search": (), "distill": ()}


def test_the_list_names_sizes_and_runs(outputs, monkeypatch, capsys):
    actions(monkeypatch, outputs, "list")
    printed = capsys.readouterr().out
    for word in ("nobody", "2222 and 1 more", "unfinished", "4 in all"):
        assert word in printed


def test_a_file_that_goes_meanwhile_has_no_size(outputs, monkeypatch):
    lstat = os.lstat

    def gone(path):
        if str(path).endswith("step"):
            raise FileNotFoundError(path)
        return lstat(path)

    monkeypatch.setattr(os, "lstat", gone)
    (training,) = (entry for entry in entries(outputs) if entry.partial)
    assert training.bytes == 0 and training.idle_days() < 1


def test_cleaning_asks_and_takes_only_what_nobody_needs(outputs, monkeypatch, capsys):
    actions(monkeypatch, outputs, "clean")
    assert "add --yes" in capsys.readouterr().out and left(outputs) == ["distill", "extract", "prepare", "search"]
    actions(monkeypatch, outputs, "clean", "--yes")
    assert left(outputs) == ["distill", "extract", "prepare"]
    shutil.rmtree(outputs / "smoke")
    shutil.rmtree(outputs / "paper")
    actions(monkeypatch, outputs, "clean", "--yes")
    assert left(outputs) == ["distill"], "what a kill left goes on being wanted for a week"
    actions(monkeypatch, outputs, "clean", "--yes", "--days", "0")
    assert left(outputs) == []


def test_what_is_being_made_is_not_cleaned(outputs, monkeypatch, capsys):
    with FileLock(outputs / "artifacts/distill/abcd.lock"):
        actions(monkeypatch, outputs, "clean", "--yes", "--days", "0")
    assert "is being made: kept" in capsys.readouterr().out and left(outputs) == ["distill", "extract", "prepare"]


def test_verify_names_what_was_damaged(outputs, monkeypatch, capsys):
    assert actions(monkeypatch, outputs, "verify") == 0
    (outputs / f"artifacts/search/{entries(outputs)[-1].folder.name}/data").write_text("y" * 1000)
    assert actions(monkeypatch, outputs, "verify") == 1
    printed = capsys.readouterr().out
    assert "data has sha256" in printed and "3 artifacts, 1 of them damaged" in printed


def test_a_torn_manifest_is_named_and_nothing_is_cleaned(outputs, monkeypatch, capsys):
    """What it was made from is not known, so nobody can say what is not needed."""
    (manifest,) = outputs.glob("artifacts/extract/*/manifest.json")
    manifest.write_text("{")
    for action in ("list", "clean"):
        assert "manifest.json cannot be read" in actions(monkeypatch, outputs, action, "--yes")
    assert left(outputs) == ["distill", "extract", "prepare", "search"]
    assert actions(monkeypatch, outputs, "verify") == 1 and "manifest.json cannot be read" in capsys.readouterr().out


def test_a_folder_without_a_store_is_one_sentence(tmp_path):
    arguments = [sys.executable, "-m", "pipeline.artifacts", "list", "--outputs", str(tmp_path)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "name the folder with --outputs" in done.stderr and "Traceback" not in done.stderr
