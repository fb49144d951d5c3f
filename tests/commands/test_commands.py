"""`sprig runs` and `rm` on outputs made by hand."""

import errno
import fcntl
import json
import logging
import os
import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import Mock

import pytest
from filelock import FileLock

from pipeline import cli
from pipeline.artifacts import RUNNING, Recipe, Store, inventory, locked, marked
from pipeline.artifacts import __main__ as store
from pipeline.report.sweep import record

ROOT = Path(__file__).parents[2]
RUNS = {"first/aaaa": ["teacher", "cut a"], "first/bbbb": ["teacher", "cut b"], "second/cccc": ["cut b"]}


def add_run(outputs: Path, name: str, artifacts: dict[str, Path], started: int, overrides: list[str]) -> Path:
    folder = outputs / name
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/overrides.yaml").write_text(json.dumps(overrides))
    (folder / ".hydra/config.yaml").write_text("{}")
    os.utime(folder / ".hydra/config.yaml", (started, started))
    Store(outputs / "artifacts").claim(folder, artifacts)
    return folder


@pytest.fixture
def outputs(tmp_path) -> Path:
    """A teacher from which two students are cut, the second of them shared by two runs."""
    outputs, store, made = tmp_path / "outputs", Store(tmp_path / "outputs/artifacts"), {}
    for name in ("teacher", "cut a", "cut b"):
        inputs = {} if name == "teacher" else {"teacher": made["teacher"].name}
        recipe = Recipe("extract", 1, {"name": name}, inputs)
        made[name] = store.obtain(recipe, lambda folder: (folder / "data").write_text("x" * 100_000))
    for number, (name, needed) in enumerate(RUNS.items()):
        add_run(outputs, name, {each.replace(" ", "_"): made[each] for each in needed}, 86_400 * (number + 1), [])
    summary = {"status": "completed", "student": {"parameters": 68_475_456, "final_perplexity": 74.5}}
    (outputs / "first/bbbb/summary.json").write_text(json.dumps(summary))
    (outputs / "first/latest").symlink_to("bbbb")
    return outputs


def refused(*arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main([*arguments])
    assert isinstance(stopped.value.code, str) and "\n" not in stopped.value.code
    return stopped.value.code


def artifacts(outputs: Path) -> set[str]:
    manifests = outputs.glob("artifacts/*/*/manifest.json")
    return {json.loads(each.read_text())["config"]["name"] for each in manifests}


def test_the_list_has_a_line_for_each_run_the_oldest_first(outputs, capsys):
    with locked(outputs / "first/aaaa" / RUNNING):
        cli.main(["runs", f"outputs={outputs}"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:4]]
    assert [line[-1] for line in lines] == list(RUNS)
    assert [line[2] for line in lines] == ["running", "finished", "stopped"]
    assert lines[0][0] == "1970-01-02" and lines[0][3:5] == ["0.1", "MB"]  # only this run needs cut a
    assert lines[1][3:7] == ["68.48M", "74.50", "0.0", "MB"]


@pytest.mark.parametrize(
    ("log", "status"),
    [
        ("2026-11-30 12:43:03,754 INFO 1/2 prepare\n2026-11-30 12:43:09,220 ERROR No checkpoint.\n", "failed"),
        ("2026-11-30 12:43:09,220 ERROR No checkpoint.\n2026-11-30 12:44:03,754 INFO 1/2 prepare\n", "stopped"),
        ("", "stopped"),
    ],
)
def test_a_run_that_ended_with_an_error_failed_until_it_is_started_again(outputs, capsys, log, status):
    (outputs / "first/aaaa/run.log").write_text(log)
    cli.main(["runs", f"outputs={outputs}"])
    assert capsys.readouterr().out.splitlines()[1].split()[2] == status


def test_a_link_that_leads_nowhere_is_a_warning_of_the_list_alone(outputs, monkeypatch, capsys, caplog):
    (outputs / "notes").symlink_to("nowhere.txt")
    cli.main(["runs", f"outputs={outputs}"])
    assert "3 in all" in capsys.readouterr().out
    assert [str(outputs / "notes: skipped") in each for each in caplog.messages] == [True]
    monkeypatch.setattr("sys.argv", ["artifacts", "list", "--outputs", str(outputs)])
    store.main()
    assert "first/aaaa" in capsys.readouterr().out and len(caplog.messages) == 2
    refusal = f"{outputs / 'notes'} is a link to nowhere.txt, which does not exist, so Sprig cannot tell"
    assert refusal in refused("rm", "first/aaaa", "--yes", f"outputs={outputs}")
    assert (outputs / "first/aaaa").exists()


def test_the_list_fits_80_columns_and_names_a_random_teacher(outputs, capsys):
    file = outputs / "first/bbbb/summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"teacher": {"random_weights": True}}))
    cli.main(["runs", f"outputs={outputs}"])
    printed = capsys.readouterr().out
    assert "74.50*" in printed and "random weights: the numbers mean nothing" in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 80


@pytest.mark.parametrize("content", [b"", b'{"status": "comp', b"[]", b"\x00" * 9, b"\xff"])
def test_a_run_with_a_damaged_summary_is_not_finished(outputs, capsys, content):
    (outputs / "first/bbbb/summary.json").write_bytes(content)
    cli.main(["runs", f"outputs={outputs}"])
    assert "stopped" in capsys.readouterr().out.splitlines()[2]
    said = refused("compare", "first/bbbb", "second/cccc", f"outputs={outputs}")
    assert "not finished: first/bbbb, second/cccc." in said
    cli.main(["rm", "first/bbbb", "--yes", f"outputs={outputs}"])
    assert not (outputs / "first/bbbb").exists()


def test_a_run_is_described_by_its_name(outputs, capsys, monkeypatch):
    given = [f"outputs={outputs}"]
    assert "first/latest has no finished student" in refused("describe", "first/latest", *given)
    assert f"first holds several runs: name one, such as {outputs / 'first/latest'}" in refused(
        "describe", "first", *given
    )
    student = outputs / "first/latest/artifacts/distilled_student"
    student.mkdir()
    (student / "subnetwork.json").write_text(json.dumps(CUT | {"about": ABOUT}))
    for words in (["first/latest", *given], [str(outputs / "first/bbbb")], [str(student)]):
        cli.main(["describe", *words])
        assert "big, 2,000 parameters" in capsys.readouterr().out


def test_removing_a_run_keeps_what_others_need(outputs, capsys, monkeypatch):
    monkeypatch.chdir(outputs.parent)
    cli.main(["rm", "first/aaaa"])
    assert "add --yes" in capsys.readouterr().out and (outputs / "first/aaaa").exists()
    cli.main(["rm", "first/aaaa", "--yes"])
    assert not (outputs / "first/aaaa").exists() and artifacts(outputs) == {"teacher", "cut b"}
    cli.main(["rm", "first/bbbb", "second/cccc", "--yes"])
    assert artifacts(outputs) == set() and [each.name for each in outputs.iterdir()] == ["artifacts"]


def test_a_removed_run_leaves_the_records_of_its_sweeps(outputs):
    (folder := outputs / "sweeps/first").mkdir(parents=True)
    jobs = [{"id": name, "overrides": {}, "status": "failed", "folder": f"../../{name}"} for name in RUNS]
    made = {"schema": 1, "name": "first", "axes": {}, "command": ["sprig"], "jobs": jobs}
    (folder / "sweep.json").write_text(json.dumps(made))
    with FileLock(folder / ".lock"):  # the process that runs the sweep would write it again
        cli.main(["rm", "first/aaaa", "--yes", f"outputs={outputs}"])
    assert json.loads((folder / "sweep.json").read_text()) == made
    cli.main(["rm", "first/bbbb", "--yes", f"outputs={outputs}"])
    assert json.loads((folder / "sweep.json").read_text()) == made | {"jobs": [jobs[0], jobs[2]]}
    (folder / "sweep.json").write_text("{")
    cli.main(["rm", "second/cccc", "--yes", f"outputs={outputs}"])
    assert not (outputs / "second/cccc").exists() and (folder / "sweep.json").read_text() == "{"


def test_a_run_is_removed_whole_if_the_record_of_a_sweep_cannot_be_written(outputs, monkeypatch, capsys):
    (folder := outputs / "sweeps/first").mkdir(parents=True)
    (folder / "sweep.json").write_text("{}")
    monkeypatch.setattr(record, "forget", Mock(side_effect=PermissionError(13, "Permission denied")))
    cli.main(["rm", "first/aaaa", "--yes", f"outputs={outputs}"])
    said = " ".join(capsys.readouterr().out.split())
    assert "sweep.json cannot be written ([Errno 13] Permission denied): its report will call" in said
    assert "Removed 1 run" in said and not [*outputs.glob("first/*aaaa*")]


def test_a_comparison_keeps_the_runs_that_it_names(outputs):
    (folder := outputs / "comparisons/first").mkdir(parents=True)
    jobs = [{"id": name, "overrides": {}, "status": "completed", "folder": f"../../{name}"} for name in RUNS]
    made = {"schema": 1, "name": "first", "axes": {}, "command": ["sprig"], "jobs": jobs}
    (folder / "sweep.json").write_text(json.dumps(made))
    cli.main(["rm", "first/aaaa", "--yes", f"outputs={outputs}"])
    assert json.loads((folder / "sweep.json").read_text()) == made


@pytest.mark.parametrize(("left", "now"), [(["aaaa"], "aaaa"), (["aaaa", "dddd"], "dddd"), ([], None)])
def test_latest_is_the_newest_run_that_is_left(outputs, left, now):
    if "dddd" in left:
        add_run(outputs, "first/dddd", {}, 10**9, [])
        (outputs / "first/dddd/artifacts").mkdir()
    removed = ["first/latest"] if left else ["first/latest", "first/aaaa"]
    cli.main(["rm", *removed, "--yes", f"outputs={outputs}"])
    latest = outputs / "first/latest"
    assert (os.readlink(latest) if latest.is_symlink() else None) == now


def test_a_running_run_is_not_removed(outputs, capsys):
    """Also if the first of the two processes that worked on it has ended."""
    place = outputs / "second/cccc" / RUNNING
    with ExitStack() as first, marked(place):
        first.enter_context(marked(place))
        first.close()
        cli.main(["runs", f"outputs={outputs}"])
        assert "running" in capsys.readouterr().out.splitlines()[3]
        assert "cccc is running: stop it first" in refused("rm", str(outputs / "second/cccc"), "--yes")
    assert (outputs / "second/cccc").exists() and "cut b" in artifacts(outputs)


def test_a_run_that_starts_while_rm_asks_is_not_removed(outputs, monkeypatch):
    with ExitStack() as stack:

        def answer(_):
            stack.enter_context(marked(outputs / "second/cccc" / RUNNING))
            return "y"

        monkeypatch.setattr("builtins.input", answer)
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        assert "cccc is running: stop it first" in refused("rm", *(str(outputs / name) for name in RUNS))
    assert all((outputs / name).exists() for name in RUNS), "nothing was removed"


def removing_meanwhile(monkeypatch, *arguments: str) -> None:
    """Answers the question of `rm` with yes, once another `rm` has ended."""

    def answer(_):
        with monkeypatch.context() as other:
            other.setattr("sys.stdin.isatty", lambda: False)
            cli.main(["rm", *arguments, "--yes"])
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)


def test_two_removals_at_once_leave_nothing_that_only_their_runs_needed(outputs, monkeypatch):
    removing_meanwhile(monkeypatch, str(outputs / "second/cccc"))
    cli.main(["rm", str(outputs / "first/bbbb")])
    assert artifacts(outputs) == {"teacher", "cut a"} and os.readlink(outputs / "first/latest") == "aaaa"


def test_a_run_that_another_removal_takes_first_is_gone(outputs, monkeypatch, capsys):
    removing_meanwhile(monkeypatch, str(outputs / "first/bbbb"))
    cli.main(["rm", *(str(outputs / name) for name in RUNS)])
    assert "Removed 2 runs and 3 artifacts" in capsys.readouterr().out
    assert not list(outputs.glob("*/*/.*")) and artifacts(outputs) == set()


def test_runs_that_are_removed_while_the_list_is_made_are_left_out(outputs, monkeypatch, capsys):
    """One before it is looked into, and one after."""
    scandir, is_run = os.scandir, inventory.is_run

    def scan(path):
        if path != outputs / "first" or not (outputs / "first/aaaa").exists():
            return scandir(path)
        found = list(scandir(path))
        (outputs / "first/aaaa").rename(outputs.parent / "aaaa")
        return found

    def seen(folder):
        found = is_run(folder)
        if folder.name == "cccc":
            folder.rename(outputs.parent / "cccc")
        return found

    monkeypatch.setattr(os, "scandir", scan)
    monkeypatch.setattr(inventory, "is_run", seen)
    cli.main(["runs", f"outputs={outputs}"])
    printed = capsys.readouterr().out
    assert "first/bbbb" in printed and "1 in all" in printed and "aaaa" not in printed and "cccc" not in printed


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt])
def test_a_question_that_is_left_open_removes_nothing(outputs, monkeypatch, capsys, end):
    def answer(_):
        raise end

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    cli.main(["rm", *(str(outputs / name) for name in RUNS)])
    assert "Nothing was removed." in capsys.readouterr().out
    assert all((outputs / name).exists() for name in RUNS)


def test_a_run_that_is_linked_from_other_outputs_is_not_removed(outputs, tmp_path):
    other = tmp_path / "other"
    (other / "first").mkdir(parents=True)
    (other / "first/linked").symlink_to(outputs / "second/cccc")
    place = outputs / "second/cccc"
    said = f"is the run {place}, outside {other}: name it where it lies, second/cccc outputs={outputs}."
    assert said in refused("rm", "first/linked", "--yes", f"outputs={other}")
    assert said in refused("rm", str(other / "first/linked"), "--yes")
    assert (outputs / "second/cccc").exists() and "cut b" in artifacts(outputs)


def test_a_run_that_was_copied_elsewhere_is_not_removed(outputs, tmp_path):
    copy = shutil.copytree(outputs / "second/cccc", tmp_path / "copies/second/cccc", symlinks=True)
    said = f"{copy} does not lie in a folder of outputs, as {tmp_path / 'copies/artifacts'} is not there"
    assert said in refused("rm", str(copy), "--yes") and copy.exists()


def test_the_results_that_a_copy_holds_count_as_its_own(outputs, capsys):
    (held := outputs / "second/copied/artifacts/distilled_student").mkdir(parents=True)
    shutil.copytree(outputs / "second/cccc/.hydra", outputs / "second/copied/.hydra")
    (held / "lit_model.pth").write_bytes(bytes(3_000_000))
    cli.main(["runs", f"outputs={outputs}"])
    assert re.search(r"3\.0 MB +second/copied", capsys.readouterr().out)
    cli.main(["rm", "second/copied", "--yes", f"outputs={outputs}"])
    assert "Removed 1 run and 0 artifacts (3.0 MB)." in capsys.readouterr().out


def test_a_run_of_a_linked_store_is_not_removed(outputs, tmp_path):
    (outputs / "artifacts").rename(tmp_path / "artifacts")
    (outputs / "artifacts").symlink_to(tmp_path / "artifacts")
    said = refused("rm", "second/cccc", "--yes", f"outputs={outputs}")
    assert f"is a link to {tmp_path / 'artifacts'}" in said and (outputs / "second/cccc").exists()


def test_what_a_killed_removal_left_is_removed_by_the_next(outputs):
    (outputs / "second/.cccc.removed/.hydra").mkdir(parents=True)
    cli.main(["rm", "second/cccc", "--yes", f"outputs={outputs}"])
    assert not (outputs / "second").exists()


def test_runs_are_removed_without_flock(outputs, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", fail)
    cli.main(["rm", "second/cccc", "--yes", f"outputs={outputs}"])
    assert not (outputs / "second/cccc").exists() and not list(outputs.glob("second/*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runs"], "has no runs, as it has no folder artifacts"),
        (["runs", "mine"], "sprig runs [outputs=FOLDER]"),
        (["rm"], "sprig rm RUN"),
        (["rm", "nothing/here"], "nothing/here is not a run: give its folder, or its name as `sprig runs` shows it"),
        *(([command, " "], "An argument is empty: leave it out, or check the shell") for command in ("rm", "describe")),
        (["compare", "a", ""], "An argument is empty"),
        (["runs", "outputs="], "outputs= has no value: give one."),
        (["rm", "a", "outputs= "], "outputs= has no value"),
        (["rm", "a", "--force"], "it does not take --force"),
        (["compare", "a"], "sprig compare RUN RUN"),
        (["runs", "outputs=~nobody-at-all/x"], "~nobody-at-all/x begins with ~, but that home folder is not known"),
        (["describe", "~nobody-at-all/x"], "that home folder is not known: give the whole path"),
        (["describe", "exported"], "exported is a transformers folder, which has no subnetwork.json: describe the run"),
        (["describe", "a", "b"], "sprig describe RUN [outputs=FOLDER]"),
        (["compare", "a", "b", "seed=1"], "it does not take seed=1"),
    ],
)
def test_bad_input_gets_one_sentence(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported/config.json").write_text("{}")
    assert said in refused(*arguments)


@pytest.mark.parametrize(
    "summary",
    [
        {"status": ["completed"]},
        {"status": "completed", "student": [1], "teacher": "big"},
        {"status": "completed", "student": {"parameters": "many", "final_perplexity": {}}, "teacher": {}},
        {"status": "completed", "student": {"parameters": 10**400, "final_perplexity": float("nan")}},
        {"status": "completed", "schema": 2, "student": {"parameters": 1.5}},
    ],
    ids=str,
)
def test_values_of_a_summary_that_sprig_does_not_write_are_left_out(summary, outputs, capsys):
    for name in ("first/bbbb", "second/cccc"):
        (outputs / name / "summary.json").write_text(json.dumps(summary))
    cli.main(["runs", f"outputs={outputs}"])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.endswith("bbbb"))
    assert len(line.split()) == (7 if summary.get("schema") else 6)
    for name in ("first/bbbb", "second/cccc"):
        (outputs / name / ".hydra/config.yaml").write_text(json.dumps({"preset": "a", "seed": 0}))
    sentence = refused("compare", "first/bbbb", "second/cccc", f"outputs={outputs}")
    assert any(said in sentence for said in ("not finished", "of schema None", "as Sprig writes it"))


def test_only_finished_runs_are_compared(outputs):
    assert "not finished: second/cccc." in refused("compare", "first/bbbb", "second/cccc", f"outputs={outputs}")
    assert "alone cannot be compared" in refused("compare", "first/bbbb", "first/latest", f"outputs={outputs}")


def test_runs_with_torn_configurations_are_not_compared(outputs):
    for name in ("first/aaaa", "second/cccc"):
        (outputs / name / "summary.json").write_text('{"status": "completed"}')
    said = refused("compare", "first/aaaa", "second/cccc", f"outputs={outputs}")
    assert "first/aaaa/.hydra/config.yaml cannot be read (it is not the configuration of a run): copy it" in said


def compared(outputs: Path, *runs: Path) -> dict:
    """sweep.json of a comparison of runs whose reports are left out."""
    for run, (overrides, tokens) in zip(
        runs, (("budget=0.5x", 80_000), ("distill.tokens=160_000", 160_000)), strict=True
    ):
        (run / "summary.json").write_text('{"status": "completed"}')
        (run / ".hydra/overrides.yaml").write_text(json.dumps([overrides]))
        content = {"preset": "a", "seed": 0, "distill": {"tokens": tokens}}
        (run / ".hydra/config.yaml").write_text(json.dumps(content))
    cli.main(["compare", *map(str, runs)])
    (made,) = (outputs / "comparisons").glob("*/sweep.json")
    return json.loads(made.read_text())


def test_budgets_are_compared_as_tokens(outputs, monkeypatch):
    monkeypatch.setattr("pipeline.report.sweep.report.report", lambda *given, **options: None)
    made = compared(outputs, outputs / "first/bbbb", outputs / "second/cccc")
    assert made["axes"] == {"distill.tokens": ["80000", "160000"]}


def test_runs_of_one_name_in_two_outputs_are_two(outputs, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.report.sweep.report.report", lambda *given, **options: None)
    runs = outputs / "first/bbbb", tmp_path / "copy/first/bbbb"
    shutil.copytree(outputs, tmp_path / "copy", symlinks=True)
    assert [job["id"] for job in compared(outputs, *runs)["jobs"]] == list(map(str, runs))


def test_a_run_and_its_copy_are_not_compared(outputs, monkeypatch):
    monkeypatch.setattr("pipeline.report.sweep.report.report", lambda *given, **options: None)
    runs = outputs / "first/bbbb", outputs / "second/cccc"
    for run, overrides, artifact in zip(runs, (["teacher=tiny"], []), ("x", "x"), strict=True):
        (run / "summary.json").write_text(json.dumps({"status": "completed", "student": {"artifact": artifact}}))
        (run / ".hydra/overrides.yaml").write_text(json.dumps(overrides))
        content = {"preset": "a", "seed": 0, "teacher": {"path": "tiny"}}
        (run / ".hydra/config.yaml").write_text(json.dumps(content))
    said = refused("compare", *map(str, runs))
    assert "first/bbbb and second/cccc are one run, in two folders: leave one of them out." in said
    (runs[0] / "summary.json").write_text('{"status": "completed", "student": {"artifact": "another version\'s"}}')
    cli.main(["compare", *map(str, runs)])
    (made,) = (outputs / "comparisons").glob("*/sweep.json")
    assert json.loads(made.read_text())["axes"] == {"run": ["first/bbbb", "second/cccc"]}


def test_a_folder_may_hold_an_equals_sign(outputs):
    renamed = outputs.rename(outputs.with_name("size=small"))
    assert "cccc. Run their commands again" in refused(
        "compare", str(renamed / "first/bbbb"), str(renamed / "second/cccc")
    )


HOSTILE = "a\x1b[2J[b]:smile:\u202e"


def test_names_in_files_steer_no_terminal(outputs, monkeypatch, capsys, caplog):
    run = (outputs / "first/aaaa").rename(outputs / f"first/{HOSTILE}\nb")
    cli.main(["runs", f"outputs={outputs}"])
    cli.main(["rm", str(run)])
    (outputs / "subnetwork.json").write_text(json.dumps(CUT | {"about": ABOUT | {"teacher": f"{HOSTILE}\nb"}}))
    cli.main(["describe", str(outputs)])
    monkeypatch.setattr("sys.argv", ["artifacts", "list", "--outputs", str(outputs)])
    store.main()
    printed = capsys.readouterr().out
    assert printed.count(r"a\x1b[2J[b]:smile:\u202e\nb") == 3 and "a\ufffd[2J[b]:smile:" in printed
    assert "running" in (sentence := with_lock(run, "rm", str(run))) and r"a\x1b[2J[b]:smile:\u202e\nb" in sentence
    logging.getLogger("sprig").warning("%s is gone.", run)
    assert rf"{outputs}/first/a\x1b[2J[b]:smile:\u202e\nb is gone." in caplog.messages
    assert not {"\x1b", "\u202e"} & {*printed, *sentence, *caplog.text}


def with_lock(run: Path, *arguments: str) -> str:
    with locked(run / RUNNING):
        return refused(*arguments)


SIZES = {"n_query_groups": 1, "heads_per_group": 2, "head_size": 8, "intermediate_size": 32, "index_seed": None}
CUT = {"layers": [0, 1, 3], "n_embd": 48, "genes": [SIZES, SIZES, SIZES | {"intermediate_size": 16}]}
ABOUT = {
    "teacher": "big",
    "teacher_parameters": 2_000,
    "teacher_sizes": {"n_layer": 4, "n_embd": 64, "n_query_groups": 2, "heads_per_group": 2, "head_size": 8}
    | {"intermediate_size": 64},
    "parameters": 1_000,
    "fitness": {"measure": "perplexity", "value": 4.25},
}


def test_a_subnetwork_is_explained(tmp_path, capsys):
    (tmp_path / "subnetwork.json").write_text(json.dumps(CUT | {"about": ABOUT}))
    cli.main(["describe", str(tmp_path)])
    printed = capsys.readouterr().out
    for said in ("big, 2,000", "1,000, 50% of", "perplexity 4.2500", "3 of 4: 0-1, 3", "48 of 64"):
        assert said in printed
    assert [line[:16].strip() for line in printed.splitlines() if "MLP" in line] == ["0-1", "3"]
    assert "MLP width 16 of 64" in printed
    (tmp_path / "subnetwork.json").write_text(json.dumps(CUT))
    cli.main(["describe", str(tmp_path / "subnetwork.json")])
    assert "written by an earlier version" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is not a run: give its folder, or its name as `sprig runs` shows it"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "subnetwork.json: Sub-network is not a JSON obj"),
        (json.dumps(CUT | {"layers": [0]}), "names 1 layers but has genes for 3"),
        (json.dumps(CUT | {"layers": [3, 1, 0]}), "must ascend without repetition"),
        *(
            (json.dumps(CUT | {"about": about}), "subnetwork.json has no about")
            for about in (
                [1],
                {},
                ABOUT | {"teacher": ["big"]},
                ABOUT | {"parameters": "many"},
                ABOUT | {"parameters": 10**400},
                ABOUT | {"teacher_parameters": float("nan")},
                ABOUT | {"fitness": {"measure": "perplexity", "value": "4"}},
                ABOUT | {"teacher_sizes": {"n_layer": None}},
                ABOUT | {"vocabulary": [1, 2]},
            )
        ),
    ],
)
def test_what_is_not_a_subnetwork_gets_one_sentence(tmp_path, content, said):
    if content is not None:
        (tmp_path / "subnetwork.json").write_text(content)
    assert said in refused("describe", str(tmp_path))
