"""`python -m pipeline.artifacts`: what is there, who needs it, and that cleaning takes nothing that a run needs."""

import io
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.artifacts import Recipe, Store
from pipeline.artifacts import __main__ as command
from pipeline.artifacts.inventory import entries, remove

ROOT = Path(__file__).parents[2]
KILLED = "0123456789abcdef"


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
    (tmp_path / f"artifacts/distill/{KILLED}.partial").mkdir(parents=True)
    (tmp_path / f"artifacts/distill/{KILLED}.partial/step").write_text("100")
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
    for word in ("no run", "2222 and 1 more", "unfinished", "4 in all"):
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
    actions(monkeypatch, outputs, "clean", "--days", "0")
    assert "add --yes" in capsys.readouterr().out and left(outputs) == ["distill", "extract", "prepare", "search"]
    actions(monkeypatch, outputs, "clean", "--yes", "--days", "0")
    assert "Removed 2 of 2" in capsys.readouterr().out and left(outputs) == ["extract", "prepare"]
    shutil.rmtree(outputs / "smoke")
    actions(monkeypatch, outputs, "clean", "--yes", "--days", "0")
    assert left(outputs) == ["extract", "prepare"], "the other run needs them, too"
    shutil.rmtree(outputs / "paper")
    actions(monkeypatch, outputs, "clean", "--yes", "--days", "0")
    assert left(outputs) == []
    kept = [path.name for path in outputs.rglob("*") if path.is_file()]
    assert all(name.endswith(".lock") for name in kept), kept


def test_what_was_used_far_in_the_future_was_not_just_used(outputs):
    """The clock was wrong, and was set back."""
    searched = next(entry for entry in entries(outputs) if entry.folder.parent.name == "search")
    for days, useless in ((0.5, False), (30, True)):
        to_come = time.time() + days * 86_400
        os.utime(searched.folder / "data", (to_come, to_come))
        assert searched.useless(0) and searched.useless(1) == useless


def test_what_was_just_made_or_used_is_not_cleaned(outputs, monkeypatch, capsys):
    actions(monkeypatch, outputs, "clean", "--yes")
    printed = " ".join(capsys.readouterr().out.split())
    assert "2 artifacts that no run folder needs, made or used in the last day: kept. --days 0" in printed
    assert left(outputs) == ["distill", "extract", "prepare", "search"]
    for path in [outputs / "artifacts/search", *(outputs / "artifacts/search").rglob("*")]:
        os.utime(path, (0, 0))
    recipe = Recipe("search", 1, {})
    assert Store(outputs / "artifacts").find(recipe), "and so used"
    actions(monkeypatch, outputs, "clean", "--yes")
    assert left(outputs) == ["distill", "extract", "prepare", "search"]
    for path in (outputs / "artifacts/search").iterdir():
        os.utime(path, (0, 0))
    actions(monkeypatch, outputs, "clean", "--yes")
    assert left(outputs) == ["distill", "extract", "prepare"]


def claim_search(outputs: Path) -> None:
    claim(outputs, "smoke/3333", "search", Recipe("search", 1, {}))


def claim(outputs: Path, run: str, role: str, recipe: Recipe) -> None:
    (outputs / run / ".hydra").mkdir(parents=True, exist_ok=True)
    (outputs / run / ".hydra/config.yaml").touch()
    store = Store(outputs / "artifacts")
    store.claim(outputs / run, {role: store.path(recipe)})


def test_what_a_run_claims_while_the_question_is_open_is_kept(outputs, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def answer(_: str) -> str:
        claim_search(outputs)
        return "y"

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", answer)
    actions(monkeypatch, outputs, "clean", "--days", "0")
    printed = capsys.readouterr().out
    assert "smoke/3333 needs it now: kept" in printed.replace("\n", "") and "Removed 1 of 2" in printed
    assert left(outputs) == ["extract", "prepare", "search"]


def test_what_is_used_while_the_question_is_open_is_kept(outputs):
    (search,) = (entry.folder for entry in entries(outputs) if entry.folder.parent.name == "search")
    for path in (search, *search.parent.iterdir(), *search.iterdir()):
        os.utime(path, (0, 0))
    assert Store(outputs / "artifacts").find(Recipe("search", 1, {})) == search
    assert remove(outputs, [search], days=1) == ([], {search: "was just used"}) and search.exists()


@pytest.mark.parametrize("role", ["search", "distilled_student_stable", "downstream/teacher/arc_easy", "cache"])
def test_what_is_claimed_before_it_is_made_is_kept(outputs, role):
    """A claim of an artifact that is not there, and of one that is being made."""
    recipe = Recipe("evaluate", 1, {"task": role})
    claim(outputs, "smoke/3333", role, recipe)
    store = Store(outputs / "artifacts")
    store.obtain(recipe, lambda folder: None)
    (partial := store.path(recipe).with_name(f"{KILLED}.partial")).mkdir()
    claim(outputs, "smoke/3333", "other", Recipe("evaluate", 1, {}))
    removed, _ = remove(outputs, [store.path(recipe), partial], days=0)
    assert removed == [partial], "what nobody claims"


def test_a_run_in_a_folder_that_is_a_link_is_seen(outputs, tmp_path_factory):
    """As when a full disk's runs were moved to another one."""
    elsewhere = tmp_path_factory.mktemp("disk") / "moved"
    claim_search(outputs)
    (outputs / "smoke").rename(elsewhere)
    (outputs / "smoke").symlink_to(elsewhere)
    (outputs / "again").symlink_to(outputs)  # a loop is walked once
    needed = {entry.folder.parent.name: entry.needed_by for entry in entries(outputs)}
    assert needed["search"] == ("again/smoke/3333",) or needed["search"] == ("smoke/3333",)
    assert needed["extract"] and needed["prepare"]


def test_outputs_is_no_run_whatever_lies_in_it(outputs):
    """Nor is a folder of runs: hydra leaves a .hydra wherever it is started."""
    for folder in (outputs, outputs / "paper"):
        (folder / ".hydra").mkdir()
    (outputs / "paper/artifacts").mkdir()
    (outputs / ".hydra/config.yaml").touch()
    runs = ("paper/twin/2222", "smoke/1111")
    assert {entry.needed_by for entry in entries(outputs)} == {runs, ()}


def test_a_link_made_through_a_linked_folder_leads_to_the_artifact(outputs, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("disk") / "other" / "deeper"
    elsewhere.mkdir(parents=True)
    (outputs / "moved").symlink_to(elsewhere)
    claim(outputs, "moved/4444", "search", Recipe("search", 1, {}))
    assert (elsewhere / "4444/artifacts/search/manifest.json").exists()


@pytest.mark.parametrize("why", ["a folder that cannot be read", "a disk that is not mounted"])
def test_where_runs_cannot_be_seen_nothing_is_cleaned(outputs, monkeypatch, why):
    if "mounted" in why:
        (outputs / "other").symlink_to("/nowhere/runs")
    else:
        scandir = os.scandir

        def refuse(path):
            if str(path).endswith("paper/twin"):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
    said = actions(monkeypatch, outputs, "clean", "--yes", "--days", "0")
    assert ("mount that disk" if "mounted" in why else "paper/twin cannot be read") in said
    monkeypatch.undo()
    assert left(outputs) == ["distill", "extract", "prepare", "search"]


def test_what_a_killed_cleaning_left_is_removed_by_the_next(outputs, monkeypatch):
    (outputs / "artifacts/.removed/1-search-0123").mkdir(parents=True)
    assert {entry.folder.parent.name for entry in entries(outputs)} == {"prepare", "extract", "search", "distill"}
    actions(monkeypatch, outputs, "clean", "--yes", "--days", "0")
    assert not (outputs / "artifacts/.removed").exists()


@pytest.mark.parametrize("by", ["clean", "claim"])
def test_what_a_kill_left_of_a_stamp_is_removed(outputs, monkeypatch, by):
    left, new = (outputs / f"artifacts/extract/.{KILLED}.verified.{number}" for number in (1, 2))
    left.write_text("{")
    new.write_text("{")
    os.utime(left, (0, 0))
    if by == "clean":
        actions(monkeypatch, outputs, "clean")
    else:
        Store(outputs / "artifacts").claim(outputs / "smoke/3333", {})
    assert not left.exists() and new.exists(), "the new one may be of a process that is writing it"


def test_folders_of_others_and_linked_ones_are_not_cleaned(outputs, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    others = [outputs / "artifacts/models/bert", outputs / "artifacts/search/notes", elsewhere / KILLED]
    others += [outputs / "artifacts/models" / KILLED]
    for folder in others:
        folder.mkdir(parents=True)
    (outputs / "artifacts/order").symlink_to(elsewhere)
    (outputs / "artifacts/search/fedcba9876543210").symlink_to(elsewhere / KILLED)
    actions(monkeypatch, outputs, "clean", "--yes", "--days", "0")
    assert all(folder.is_dir() for folder in others) and (outputs / "artifacts/search/fedcba9876543210").is_symlink()
    assert not (outputs / f"artifacts/distill/{KILLED}.partial").exists()


def test_a_linked_store_is_not_cleaned(outputs, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("other")
    (other / "artifacts").symlink_to(outputs / "artifacts")
    said = actions(monkeypatch, other, "clean", "--yes", "--days", "0")
    assert f"{other}/artifacts is a link to {outputs}/artifacts, so runs in {outputs} may need" in said
    assert left(outputs) == ["distill", "extract", "prepare", "search"]
    (outputs / "other").symlink_to(other)
    actions(monkeypatch, outputs, "clean", "--yes", "--days", "0")
    assert left(outputs) == ["extract", "prepare"]


@pytest.mark.parametrize("days", ["-1", "nan"])
def test_days_that_mean_nothing(outputs, monkeypatch, days):
    assert "must be 0 or more" in actions(monkeypatch, outputs, "clean", "--yes", "--days", days)


def test_what_is_being_made_is_not_cleaned(outputs, monkeypatch, capsys):
    with FileLock(outputs / f"artifacts/distill/{KILLED}.lock"):
        actions(monkeypatch, outputs, "clean", "--yes", "--days", "0")
    printed = capsys.readouterr().out.replace("\n", "")
    assert "is being made: kept" in printed and left(outputs) == ["distill", "extract", "prepare"]


def test_verify_names_what_was_damaged(outputs, monkeypatch, capsys):
    assert actions(monkeypatch, outputs, "verify") == 0
    (outputs / f"artifacts/search/{entries(outputs)[-1].folder.name}/data").write_text("y" * 1000)
    assert actions(monkeypatch, outputs, "verify") == 1
    printed = capsys.readouterr().out
    assert "data has sha256" in printed and "3 artifacts, 1 damaged" in printed


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("list outputs=F", "it does not take outputs=F; write --outputs F."),
        ("outputs=F list", "it does not take outputs=F; write --outputs F."),
        ("clean days=3", "it does not take days=3; write --days 3."),
        ("list F", "unrecognized arguments: F."),
        ("lst", "invalid choice: 'lst'"),
        ("", "the following arguments are required: action."),
        ("list --outputs ''", "--outputs has no value: give one."),
        ("clean --days x", "--days: invalid float value: 'x'."),
    ],
)
def test_wrong_words_get_the_usage_in_one_sentence(monkeypatch, words, said):
    monkeypatch.setattr(sys, "argv", ["artifacts", *shlex.split(words)])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert str(stop.value).startswith(command.USAGE) and said in str(stop.value) and "\n" not in str(stop.value)
