"""The artifact store: atomic publication, reuse, damage found, one lock."""

import errno
import json
import multiprocessing
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from pipeline.artifacts import (
    CHECKPOINTS,
    MANIFEST,
    Recipe,
    Store,
    check,
    copy_atomically,
    digest,
    is_artifact,
    manifest,
    read_manifest,
    sweep_temporaries,
    write_json,
)
from pipeline.artifacts.records import Writer
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


def test_every_stage_that_makes_artifacts_is_known():
    """Cleaning and exports leave other folders alone."""
    root = Path(__file__).parents[2] / "pipeline"
    made = re.compile(r'^STAGE, VERSION = "(\w+)"', re.MULTILINE)
    found = {stage for file in root.rglob("*.py") for stage in made.findall(file.read_text())}
    assert len(found) == 13 and all(is_artifact(Path(stage, "0123456789abcdef")) for stage in found)


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
        broken.setattr(manifest, "write_json", full_disk)
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


def other_recipe() -> Recipe:
    return recipe(a=2)


def two(root: Path) -> tuple[Path, Path]:
    """Two artifacts of one stage."""
    return Store(root).obtain(recipe(), write("one")), Store(root).obtain(other_recipe(), write("two"))


def edit(folder: Path, **changes) -> None:
    content = json.loads((folder / MANIFEST).read_text()) | changes
    (folder / MANIFEST).write_text(json.dumps(content))


def swap(first: Path, second: Path) -> None:
    first.rename(first.with_name("aside"))
    second.rename(first)
    first.with_name("aside").rename(second)


def swap_stamped(first: Path, second: Path) -> None:
    """As above, with what notes that their files were read."""
    swap(first, second)
    swap(*(folder.with_name(f"{folder.name}.verified") for folder in (first, second)))


def copy_over(first: Path, second: Path) -> None:
    shutil.rmtree(first)
    shutil.copytree(second, first)


DECEPTIONS = {
    "folders swapped": (swap, "manifest.json is that of search/"),
    "folders swapped with their stamps": (swap_stamped, "manifest.json is that of search/"),
    "one copied over the other": (copy_over, "manifest.json is that of search/"),
    "another's fingerprint written in": (
        lambda first, second: edit(first, fingerprint=second.name),
        "manifest.json names fingerprint .* but describes",
    ),
    "swapped, and the fingerprint edited to fit": (
        lambda first, second: (swap(first, second), edit(first, fingerprint=first.name)),
        "manifest.json names fingerprint .* but describes",
    ),
    "another stage": (lambda first, _: edit(first, stage="extract"), "manifest.json names fingerprint"),
    "another version": (lambda first, _: edit(first, version=2), "manifest.json names fingerprint"),
    "another configuration": (lambda first, _: edit(first, config={"a": 2}), "manifest.json names fingerprint"),
    "other inputs": (lambda first, _: edit(first, inputs={}), "manifest.json names fingerprint"),
    "list of files emptied": (lambda first, _: edit(first, files={}), "data.txt is not in its manifest.json"),
    "list of files gone": (lambda first, _: edit(first, files=None), "manifest.json cannot be read"),
    "a file added": (lambda first, _: (first / "more.txt").write_text("x"), "more.txt is not in its manifest.json"),
    "a file that leads elsewhere": (
        lambda first, second: ((first / "data.txt").unlink(), (first / "data.txt").symlink_to(second / "data.txt")),
        "data.txt has sha256",
    ),
    "a link that leads nowhere": (
        lambda first, _: ((first / "data.txt").unlink(), (first / "data.txt").symlink_to("/nowhere")),
        "data.txt is missing",
    ),
    "a name outside the folder": (
        lambda first, second: edit(first, files={f"../{second.name}/data.txt": {"bytes": 3, "sha256": "0"}}),
        "data.txt is not in its manifest.json",
    ),
    "a size that is no number": (
        lambda first, _: edit(first, files={"data.txt": {"bytes": "many", "sha256": "0"}}),
        "manifest.json cannot be read",
    ),
    "no fingerprint": (lambda first, _: edit(first, fingerprint=None), "manifest.json names fingerprint None"),
    "a list": (lambda first, _: (first / MANIFEST).write_text("[]"), "manifest.json cannot be read"),
    "nothing": (lambda first, _: (first / MANIFEST).write_text(""), "manifest.json cannot be read"),
}


@pytest.mark.parametrize("how", DECEPTIONS)
@pytest.mark.parametrize("stamped", [False, True])
def test_an_artifact_that_is_not_what_its_folder_says_is_refused(tmp_path, monkeypatch, how, stamped):
    first, second = two(tmp_path)
    if stamped:
        monkeypatch.setattr(manifest, "_SETTLED_NS", 0)
        assert Store(tmp_path).find(recipe()) and Store(tmp_path).find(other_recipe())
    deceive, named = DECEPTIONS[how]
    deceive(first, second)
    with pytest.raises(SprigError, match=rf"Artifact {first} was changed after .*{named}.* remove that folder"):
        Store(tmp_path).find(recipe())


def test_what_an_operating_system_leaves_in_a_folder_is_no_damage(tmp_path):
    folder, _ = two(tmp_path)
    (folder / ".DS_Store").write_text("icons")
    (folder / ".nfs0001").write_text("open elsewhere")
    assert Store(tmp_path).find(recipe()) == folder


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The names of the files whose checksums are computed."""
    seen, compute = [], manifest.file_sha256

    def noted(path: Path) -> str:
        seen.append(path.name)
        return compute(path)

    monkeypatch.setattr(manifest, "file_sha256", noted)
    return seen


def test_a_file_is_read_again_only_if_it_changed(tmp_path, reads, monkeypatch):
    folder, _ = two(tmp_path)
    reads.clear()
    Store(tmp_path).find(recipe())
    assert reads == ["data.txt"], "written within the clock's last ticks, it might have changed"
    monkeypatch.setattr(manifest, "_SETTLED_NS", 0)
    Store(tmp_path).find(recipe())
    reads.clear()
    for _ in range(3):
        Store(tmp_path).find(recipe())
    assert reads == []
    os.utime(folder / "data.txt")
    Store(tmp_path).find(recipe())
    assert reads == ["data.txt"]
    reads.clear()
    check(folder, everything=True)
    assert reads == ["data.txt"], "artifacts verify always reads"


@pytest.mark.parametrize("rename", [False, True])
def test_a_change_that_keeps_size_and_time_is_seen(tmp_path, monkeypatch, rename):
    """As rsync --times or cp --preserve leaves it: in place, or in another file of the same name."""
    monkeypatch.setattr(manifest, "_SETTLED_NS", 0)
    folder, _ = two(tmp_path)
    Store(tmp_path).find(recipe())
    before = (folder / "data.txt").stat()
    (folder / ("new" if rename else "data.txt")).write_text("eno")
    os.utime(folder / ("new" if rename else "data.txt"), ns=(before.st_atime_ns, before.st_mtime_ns))
    if rename:
        (folder / "new").rename(folder / "data.txt")
    with pytest.raises(SprigError, match=r"data\.txt has sha256"):
        Store(tmp_path).find(recipe())


@pytest.mark.parametrize("torn", ["", "{", "[]", "null", '{"data.txt": 3}', '{"data.txt": []}'])
def test_a_torn_stamp_is_no_trust(tmp_path, monkeypatch, reads, torn):
    monkeypatch.setattr(manifest, "_SETTLED_NS", 0)
    folder, _ = two(tmp_path)
    folder.with_name(f"{folder.name}.verified").write_text(torn)
    reads.clear()
    assert Store(tmp_path).find(recipe()) == folder and reads == ["data.txt"]


def test_other_ranks_leave_the_reading_to_rank_0(tmp_path, monkeypatch, reads):
    folder, _ = two(tmp_path)
    monkeypatch.setenv("RANK", "1")
    reads.clear()
    assert Store(tmp_path).find(recipe()) == folder and reads == []
    cut(folder / "data.txt")
    with pytest.raises(SprigError, match="has 2 bytes"):
        Store(tmp_path).find(recipe())


def test_an_artifact_that_was_removed_is_not_found_by_a_store_that_saw_it(tmp_path):
    store = Store(tmp_path)
    folder = store.obtain(recipe(), write("one"))
    shutil.rmtree(folder)
    assert store.find(recipe()) is None
    assert (store.obtain(recipe(), write("two")) / "data.txt").read_text() == "two"


def test_what_is_being_made_is_no_artifact_of_its_stage(tmp_path):
    """A kill between the manifest and the rename leaves both."""
    folder, _ = two(tmp_path)
    folder.rename(f"{folder}.partial")
    assert Store(tmp_path).recipes("search") == [other_recipe()]


def test_a_torn_manifest_of_another_artifact_is_passed_over_and_said_once(tmp_path, caplog):
    folder, _ = two(tmp_path)
    cut(folder / "manifest.json")
    store = Store(tmp_path)
    assert store.recipes("search") == store.recipes("search") == [other_recipe()]
    [said] = caplog.messages
    assert f"Artifact {folder} was changed after it was published: manifest.json cannot be read" in said
    with pytest.raises(SprigError, match=r"manifest\.json cannot be read"):
        store.find(recipe())


def test_a_folder_that_grows_is_not_in_the_list(tmp_path):
    def make(folder: Path) -> None:
        (folder / "records").mkdir()
        (folder / "records/0.bin").write_bytes(b"")

    folder = Store(tmp_path).obtain(recipe(), make, grows={"records": 100})
    assert read_manifest(folder)["files"] == {} and read_manifest(folder)["grows"] == {"records": 100}
    with Writer(folder / "records", "0", 100, recipe().fingerprint) as writer:
        writer.write(3, b"x" * 100)
    check(folder, everything=True)
    with (folder / "records/0.bin").open("r+b") as file:
        file.seek(50)
        file.write(b"y")
    assert Store(tmp_path).find(recipe()) == folder, "a run reads only the records that it needs"
    with pytest.raises(SprigError, match=r"1 damaged records among the 1 of records, record 3 first"):
        check(folder, everything=True)


def test_a_claim_removes_what_a_kill_inside_a_link_left(tmp_path):
    store, run = Store(tmp_path / "artifacts"), tmp_path / "smoke/0123"
    (run / "artifacts").mkdir(parents=True)
    for name in (".tokens.31415", f".tokens.{os.getpid()}", ".teacher.1"):
        (run / "artifacts" / name).symlink_to("nowhere")
    store.claim(run, {"tokens": store.path(recipe()), "downstream/teacher/arc": store.path(other_recipe())})
    assert sorted(path.name for path in (run / "artifacts").iterdir()) == ["downstream", "tokens"]
    store.obtain(recipe(), write("one"))
    assert (run / "artifacts/tokens/data.txt").read_text() == "one"


def test_old_temporary_files_are_swept_and_new_ones_stay(tmp_path):
    for name in (".latest.1301", ".config.yaml.77", ".summary.json.8"):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (0, 0))
    for name in (".summary.json.9", ".git", ".notes", "latest.1301"):
        (tmp_path / name).write_text("")
    os.utime(tmp_path / ".notes", (0, 0))
    sweep_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".git", ".notes", ".summary.json.9", "latest.1301"]


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


def test_a_copy_is_whole_and_a_full_disk_names_its_place(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")

    def full(source, file):
        file.write(source.read(2))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(OSError) as failed:
        patched.setattr(shutil, "copyfileobj", full)
        copy_atomically(tmp_path / "a", tmp_path / "b")
    assert failed.value.errno == errno.ENOSPC and failed.value.filename == str(tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2
    copy_atomically(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"new"


def test_json_is_written_whole_and_never_nan(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
