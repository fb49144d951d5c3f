"""The artifact store: atomic publication, reuse, damage found, one lock."""

import json
import multiprocessing
import time
from pathlib import Path

import pytest

from pipeline import artifacts
from pipeline.artifacts import CHECKPOINTS, MANIFEST, Recipe, Store, digest, read_manifest, write_json
from pipeline.errors import SprigError


def recipe(**config) -> Recipe:
    return Recipe("search", 1, config or {"a": 1}, {"teacher": "f00"})


def write(text: str):
    return lambda folder: (folder / "data.txt").write_text(text)


def refuse(folder: Path) -> None:
    raise AssertionError("made again")


def test_what_is_published_is_not_made_again(tmp_path):
    first = Store(tmp_path).obtain(recipe(), write("one"))
    assert Store(tmp_path).obtain(recipe(), refuse) == first
    assert (first / "data.txt").read_text() == "one"
    assert read_manifest(first)["config"] == {"a": 1}
    assert read_manifest(first)["inputs"] == {"teacher": "f00"}


@pytest.mark.parametrize(
    "other", [recipe(a=2), Recipe("search", 2, {"a": 1}, {"teacher": "f00"}), Recipe("search", 1, {"a": 1}, {})]
)
def test_config_version_and_inputs_are_in_the_fingerprint(other):
    assert other.fingerprint != recipe().fingerprint


def test_fingerprint_does_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})


def test_what_failed_is_not_published_and_goes_on_from_its_partial_folder(tmp_path):
    store = Store(tmp_path)

    def half(folder: Path) -> None:
        (folder / "journal").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        store.obtain(recipe(), half)
    assert store.find(recipe()) is None

    def rest(folder: Path) -> None:
        assert (folder / "journal").read_text() == "half"
        (folder / "journal").write_text("whole")

    assert (store.obtain(recipe(), rest) / "journal").read_text() == "whole"


def test_checkpoints_go_only_when_the_rest_is_published(tmp_path, monkeypatch):
    store = Store(tmp_path)

    def train(folder: Path) -> None:
        (folder / CHECKPOINTS).mkdir(exist_ok=True)
        (folder / CHECKPOINTS / "9").write_text("weights")
        (folder / ".torn.123").write_text("a kill in the middle of a write")

    with monkeypatch.context() as broken, pytest.raises(OSError, match="full"):
        broken.setattr(artifacts, "write_json", full_disk)
        store.obtain(recipe(), train)
    assert (tmp_path / "search" / f"{recipe().fingerprint}.partial" / CHECKPOINTS / "9").exists()
    folder = store.obtain(recipe(), train)
    assert [path.name for path in folder.iterdir()] == [MANIFEST]
    assert read_manifest(folder)["files"] == {}


def full_disk(*_):
    raise OSError("full")


def test_a_folder_without_a_manifest_does_not_exist(tmp_path):
    store = Store(tmp_path)
    store.path(recipe()).mkdir(parents=True)
    (store.path(recipe()) / "data.txt").write_text("debris")
    assert store.find(recipe()) is None
    assert (store.obtain(recipe(), write("one")) / "data.txt").read_text() == "one"


def cut(path: Path) -> None:
    path.write_text("on")


def change(path: Path) -> None:
    path.write_text("eno")


@pytest.mark.parametrize(
    ("damage", "named"),
    [(cut, "data.txt has 2 bytes, not 3"), (change, "data.txt has sha256"), (Path.unlink, "data.txt is missing")],
)
def test_damage_is_found_and_named(tmp_path, damage, named):
    folder = Store(tmp_path).obtain(recipe(), write("one"))
    damage(folder / "data.txt")
    with pytest.raises(SprigError, match=named):
        Store(tmp_path).obtain(recipe(), refuse)


def test_a_torn_manifest_is_found(tmp_path):
    folder = Store(tmp_path).obtain(recipe(), write("one"))
    (folder / MANIFEST).write_text('{"files"')
    with pytest.raises(SprigError, match="cannot be read"):
        Store(tmp_path).find(recipe())


def _make_slowly(root: Path) -> None:
    def make(folder: Path) -> None:
        with (root / "made").open("a") as file:
            file.write("x")
        time.sleep(0.5)
        (folder / "data.txt").write_text("one")

    Store(root).obtain(recipe(), make)


def test_two_jobs_that_want_the_same_artifact_make_it_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=_make_slowly, args=(tmp_path,)) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert (tmp_path / "made").read_text() == "x"


def test_json_is_written_whole_and_never_nan(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
