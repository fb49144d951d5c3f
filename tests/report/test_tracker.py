"""What wandb keeps of a run, and that neither a wrong key nor a server that does not answer stops one."""

import json
import shutil
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from runs import smoke
from wandb.proto import wandb_internal_pb2

import pipeline
from pipeline.report.material import Material
from pipeline.report.tracker import Tracker, results
from pipeline.search import journal

KEY = "x" * 40


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_SILENT", "true")


def records(file: Path) -> Iterator[wandb_internal_pb2.Record]:
    """wandb's own log: seven bytes of header, then LevelDB's log format, in blocks of 32 KiB."""
    content, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, at)
        parts += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def history_of(kept: list[wandb_internal_pb2.Record]) -> list[dict]:
    """What each call of wandb's log has told."""
    history = []
    for record in kept:
        if record.HasField("history"):
            history.append({})
            for item in record.history.item:
                name, *part = item.nested_key
                value = json.loads(item.value_json)
                history[-1] |= {name: history[-1].get(name, {}) | {part[0]: value} if part else value}
    return history


@pytest.fixture(scope="module")
def tracked(smoke_outputs, tmp_path_factory) -> Path:
    """The smoke run, opened again with wandb: all is found, and all is told."""
    outputs = tmp_path_factory.mktemp("tracked") / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "WANDB_MODE"):
            patch.delenv(name, raising=False)
        patch.setenv("WANDB_SILENT", "true")
        pipeline.run(smoke(outputs, "tracker=wandb"))
        wandb.teardown()  # as at a process's end: its service may still be writing
    return (outputs / "smoke/latest").resolve()


@pytest.mark.slow
def test_wandb_holds_the_run(tracked):
    (file,) = tracked.glob("wandb/offline-run-*/*.wandb")
    kept = list(records(file))
    (run,) = (record.run for record in kept if record.HasField("run"))
    assert (run.run_id, run.run_group, list(run.tags)) == (f"smoke-{tracked.name}", "smoke", ["smoke"])
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["distill"]["tokens"] == 4096 and config["teacher"]["name"] == "tiny-random"

    history = history_of(kept)
    lines = [json.loads(line) for line in (tracked / "metrics.jsonl").read_text().splitlines()]
    for role, name in (("distilled_student", "loss"), ("distilled_control", "validation_nll"), ("search", "fitness")):
        expected = [line[name] for line in lines if line["role"] == role and name in line]
        assert [each[f"{role}/{name}"] for each in history if f"{role}/{name}" in each] == expected
    shown = history[-1]
    assert {"models", "efficiency", "search/candidates", "random_search/candidates"} <= shown.keys()
    assert {"plots/training", "plots/flops", "plots/search", "plots/bin"} <= shown.keys()
    table = json.loads((file.parent / "files" / shown["search/candidates"]["path"]).read_text())
    evaluated = journal.read(tracked / "artifacts/search/journal.jsonl")
    assert [row[0] for row in table["data"]] == [line["subnetwork"].key for line in evaluated]
    assert [row[-1] for row in table["data"]] == [line["fitness"] for line in evaluated]

    references = [
        entry.ref
        for record in kept
        if record.HasField("artifact") and record.artifact.type != "run_table"
        for entry in record.artifact.manifest.contents
    ]
    store = tracked.parents[1] / "artifacts"
    assert all(ref.startswith(f"file://{store}/") for ref in references)
    weights = (tracked / "artifacts/distilled_student/lit_model.pth").resolve()
    assert weights.as_uri() in references


@pytest.mark.slow  # starts wandb twice
def test_offline_the_newest_folder_has_everything(tmp_path):
    """A training is cut after its third step, and resumes from a checkpoint of its second."""
    folder = tmp_path / "smoke" / "0123"
    folder.mkdir(parents=True)
    steps = [{"role": "distilled_student", "step": step, "tokens": 512 * step, "loss": 5.0 - step} for step in range(5)]
    for lines in (steps[:4], steps[3:]):
        tracker = Tracker()
        tracker.start(smoke(tmp_path, "tracker=wandb", "tracker.mode=offline"), folder)
        for line in lines:
            tracker.log(line)
        tracker.finish()
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"role": "distilled_stu')  # as a kill leaves it
        wandb.teardown()
        time.sleep(1.1)  # folders are named by the second
    older, newer = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    losses = [
        [each["distilled_student/loss"] for each in history_of(list(records(file))) if "distilled_student/loss" in each]
        for file in (older, newer)
    ]
    assert losses == [[5.0, 4.0, 3.0, 2.0], [5.0, 4.0, 3.0, 2.0, 1.0]]


def refused(tmp_path, caplog, *overrides: str) -> str:
    """Starts a tracker that should be online; the warning, once it is offline."""
    folder = tmp_path / "smoke" / "0123"
    folder.mkdir(parents=True)
    tracker = Tracker()
    tracker.start(smoke(tmp_path, "tracker=wandb", "tracker.timeout=2", *overrides), folder)
    tracker.log({"role": "search", "fitness": 1.5})
    tracker.finish()
    assert len(list(folder.glob("wandb/offline-run-*-smoke-0123/*.wandb"))) == 1
    assert json.loads((folder / "metrics.jsonl").read_text()) == {"role": "search", "fitness": 1.5}
    (warning,) = (record.message for record in caplog.records if record.levelname == "WARNING")
    assert "\n" not in warning
    return warning


@pytest.mark.slow
def test_a_key_that_is_none(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    assert "API key must have 40" in refused(tmp_path, caplog)


@pytest.mark.slow  # wandb's own retries: a quarter of a minute each
@pytest.mark.parametrize("code", [401, 503, None])
def test_a_wrong_key_and_a_server_that_cannot_answer_or_never_does(code, tmp_path, caplog, monkeypatch):
    over = threading.Event()

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            if code is None:
                over.wait(120)
            else:
                self.send_error(code)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        assert "the run is logged offline" in refused(tmp_path, caplog)
    finally:
        over.set()
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_a_server_that_is_not_there(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert "the run is logged offline" in refused(tmp_path, caplog)


def test_the_overview_holds_the_result_and_not_the_last_value_of_every_metric(smoke_outputs):
    """What is in wandb's summary is a column of its table of runs."""
    defined, tracker = {}, Tracker()
    tracker._run = SimpleNamespace(
        summary={}, log=lambda line: None, define_metric=lambda name, **settings: defined.update({name: settings})
    )
    tracker.log({"role": "search", "fitness": 2.5})
    tracker.found("distilled_student", [{"role": "distilled_student", "tokens": 1, "loss": 2.0}])
    assert defined["search/*"] == {"summary": "none"}
    assert defined["distilled_student/*"] == {"summary": "none", "step_metric": "distilled_student/tokens"}
    logged = []
    tracker._run.log = logged.append
    for role in ("search", "distilled_student", "distilled_control"):  # as an earlier command has logged the first two
        tracker.found(role, [{"role": role, "loss": 1.0}])
    assert logged == [{"distilled_control/loss": 1.0}]

    summary = json.loads((smoke_outputs / "smoke/latest/summary.json").read_text())
    summary["teacher"]["random_weights"] = False
    found = results(summary)
    assert found["student perplexity"] == summary["student"]["final_perplexity"] and len(found) <= 13
    assert found["saving, total FLOPs"] == summary["saving"]["total_flops"]
    assert not any(isinstance(value, dict | list) for value in found.values())


def test_every_artifact_of_a_run_has_a_name_that_wandb_takes(tmp_path, smoke_outputs):
    """Those of downstream scores have a slash in their role; wandb checks names offline too."""
    logged = []
    tracker = Tracker()
    tracker._run = SimpleNamespace(summary={}, log=lambda line: None, log_artifact=logged.append)
    summary = json.loads((smoke_outputs / "smoke/latest/summary.json").read_text())
    done = {"teacher": tmp_path / "prepare/0123", "downstream/teacher/arc_easy": tmp_path / "evaluate/4567"}
    for place in done.values():
        place.mkdir(parents=True)
    summary["anatomy"] = None  # no figure, whose file would be read
    tracker.report(Material(summary, done, None, {}, None, {}), tmp_path)
    assert [artifact.name for artifact in logged] == ["teacher-0123", "downstream-teacher-arc_easy-4567"]
