"""A finished run does not depend on the world: opened again from anywhere, with its sources changed or gone."""

import ctypes
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from runs import smoke

import pipeline
from pipeline import run_folder
from pipeline.artifacts import Store, facts
from pipeline.errors import SprigError
from pipeline.layout import LATEST
from pipeline.models import sources
from pipeline.run_folder import RunFolder
from pipeline.stages import distill, prepare
from pipeline.stages.context import Context

SMALL = ["search.population=4", "search.parents=2", "search.generations=1", "search.random_baseline=false"]
SMALL += ["distill.tokens=512", "distill.validations=1", "distill.control.enabled=false", "evaluate.sample_tokens=2"]
SMALL += ["evaluate.blocks=2", "evaluate.speed.repetitions=1", "evaluate.speed.decode=2"]
TEXTS = 60


def write_texts(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(TEXTS):
        (folder / f"{number}.txt").write_text(
            f"{number} little words follow one another, {number * number} times. " * 9
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with outputs, a text and a teacher of files, both given relative to it, and a finished run of them."""
    root = tmp_path_factory.mktemp("reopened")
    write_texts(root / "texts")
    sources.convert(smoke(root / "outputs").teacher, root / "teacher")
    before = Path.cwd()
    os.chdir(root)
    try:
        pipeline.run(smoke(Path("outputs"), *of_files(), *SMALL))
    finally:
        os.chdir(before)
    return root


def of_files() -> list[str]:
    data = ["data=text", "data.path=texts", "data.block_size=32", "data.validation=0.2"]
    return [*data, "data.calibration=0.2", "teacher=local", "teacher.source=litgpt", "teacher.path=teacher"]


@pytest.fixture
def world(made, tmp_path) -> Path:
    """A copy of it elsewhere; the run's own configuration still names the first place."""
    shutil.copytree(made, tmp_path / "world", symlinks=True)
    return tmp_path / "world"


def the_run(world: Path) -> Path:
    return (world / "outputs/smoke" / LATEST).resolve()


@contextmanager
def sources_gone(made: Path, copied: bool = False) -> Iterator[None]:
    """`copied`: to be changed, they are there, and come back as they were."""
    aside = made.with_name("aside")
    aside.mkdir()
    for name in ("texts", "teacher"):
        (made / name).rename(aside / name)
        if copied:
            shutil.copytree(aside / name, made / name)
    try:
        yield
    finally:
        for name in ("texts", "teacher"):
            shutil.rmtree(made / name, ignore_errors=True)
            (aside / name).rename(made / name)
        aside.rmdir()


def use(run: Path, world: Path, on_request: bool = True) -> None:
    """Report, sample and export, with what they show checked; without `on_request`, report alone."""
    before, latest = state(world), os.readlink(run.parent / LATEST)
    summary = pipeline.run(pipeline.compose([f"run={run}", "stages=[report]"]))
    assert summary["status"] == "completed" and summary == json.loads((run / "summary.json").read_text())
    if on_request:
        pipeline.run(pipeline.compose([f"run={run}", "stages=[sample]", "prompt=We, the", "sample.tokens=2"]))
        to = world / "exported"
        pipeline.run(pipeline.compose([f"run={run}", "stages=[export]", f"export.to={to}"]))
        assert (to / "config.json").exists()
        shutil.rmtree(to)
    assert state(world) == before and os.readlink(run.parent / LATEST) == latest


def state(world: Path) -> list[str]:
    """Runs and artifacts."""
    found = [*world.glob("outputs/smoke/*"), *world.glob("outputs/artifacts/*/*/manifest.json")]
    return sorted(str(path.relative_to(world)) for path in found)


@contextmanager
def without_the_powers_of_root() -> Iterator[None]:
    """Drops CAP_DAC_OVERRIDE, so that permissions hold for root, too (capset(2), version 3)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    effective = data[0]
    data[0] = effective & ~(1 << 1) & ~(1 << 2)
    assert libc.capset(header, data) == 0
    try:
        yield
    finally:
        data[0] = effective
        assert libc.capset(header, data) == 0


def make_read_only(folder: Path) -> None:
    for below, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(below, name)
            if not os.path.islink(path):
                os.chmod(path, 0o444)
        os.chmod(below, 0o555)


def make_writable(folder: Path) -> None:
    for below, _, _ in os.walk(folder):
        os.chmod(below, 0o755)


def test_from_another_working_directory(world, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    use(the_run(world), world)


def test_the_saved_paths_are_absolute(made):
    config = pipeline.compose([f"run={the_run(made)}"])
    assert config.data.path == str(made / "texts") and config.teacher.path == str(made / "teacher")
    assert config.outputs == str(made / "outputs")


def test_moved_with_its_outputs(world, tmp_path):
    (world / "outputs").rename(tmp_path / "other place")
    (world / "outputs").mkdir()
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "other place").rename(moved / "outputs")
    use(the_run(moved), moved)


def test_without_text_and_teacher(made, world):
    with sources_gone(made):
        use(the_run(world), world)


@pytest.mark.parametrize("change", ["added", "changed", "removed", "teacher's weights", "teacher's tokenizer"])
def test_after_its_sources_changed(made, world, change):
    with sources_gone(made, copied=True):
        if change == "added":
            (made / "texts/more.txt").write_text("More.")
        elif change == "changed":
            (made / "texts/1.txt").write_text("Other words.")
        elif change == "removed":
            (made / "texts/1.txt").unlink()
        elif change == "teacher's weights":
            (made / "teacher/lit_model.pth").write_bytes(b"none")
        else:
            (made / "teacher/tokenizer.json").write_text("{}")
        use(the_run(world), world, on_request=False)


def test_on_a_machine_with_other_arithmetic(world, monkeypatch):
    """precision=auto was resolved when the run was created."""
    run = the_run(world)
    saved = (run / ".hydra/config.yaml").read_text()
    (run / ".hydra/config.yaml").write_text(saved.replace("precision: fp32", "precision: auto"))
    known = json.loads((run / facts.FILE).read_text())
    known["facts"]["precision auto"] = known["facts"].pop("precision fp32")
    (run / facts.FILE).write_text(json.dumps(known))
    monkeypatch.setattr("pipeline.stages.context.resolve_precision", lambda *_: "bf16-mixed")
    use(run, world, on_request=False)


@pytest.mark.parametrize("what", ["run folder", "all outputs"])
def test_read_only(world, what, capsys):
    run = the_run(world)
    log, read_only = (run / "run.log").read_text(), run if what == "run folder" else world / "outputs"
    make_read_only(read_only)
    try:
        with without_the_powers_of_root():
            with pytest.raises(PermissionError):
                (run / "probe").write_text("")
            use(run, world)
    finally:
        make_writable(read_only)
    assert (run / "run.log").read_text() == log
    assert "student" in capsys.readouterr().out


def test_the_command_of_a_finished_run_writes_nothing_to_read_only_outputs(made, world, monkeypatch):
    monkeypatch.chdir(made)
    outputs, log = world / "outputs", (the_run(world) / "run.log").read_text()
    (the_run(world) / ".running.lock").unlink()  # as of an earlier version of Sprig
    make_read_only(outputs)
    try:
        with without_the_powers_of_root():
            summary = pipeline.run(smoke(outputs, *of_files(), *SMALL))
    finally:
        make_writable(outputs)
    assert summary["status"] == "completed" and (the_run(world) / "run.log").read_text() == log


def test_a_log_that_cannot_be_written_is_not(world, caplog):
    run = the_run(world)
    (run / "run.log").chmod(0o444)
    with without_the_powers_of_root():
        pipeline.run(pipeline.compose([f"run={run}", "stages=[report]"]))
    assert "run.log is not written (Permission denied)" in caplog.text


def test_a_log_that_fills_the_disk_ends_with_one_warning(tmp_path, caplog, capfd):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / "run.log").symlink_to("/dev/full")
    handler = run_folder._log_to(tmp_path / "run.log")
    for number in range(3):
        run_folder.log.info("line %d", number)
    RunFolder(tmp_path, True, handler).close()
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{tmp_path / 'run.log'} is not written any more (No space left on device)."
    ]
    assert "line 2" in caplog.text and "Traceback" not in "".join(capfd.readouterr())


def test_new_work_in_a_read_only_folder_fails(world):
    run = the_run(world)
    shutil.rmtree((run / "artifacts/evaluation").resolve())
    make_read_only(run)
    try:
        with without_the_powers_of_root(), pytest.raises(SprigError, match=f"{run}.* is not writable"):
            pipeline.run(pipeline.compose([f"run={run}", "stages=[evaluate]"]))
    finally:
        make_writable(run)


def test_the_report_of_a_run_that_was_copied_without_its_store_stays(world, tmp_path):
    copied = tmp_path / "elsewhere" / the_run(world).parent.name / the_run(world).name
    shutil.copytree(the_run(world), copied, symlinks=True)
    before = (copied / "summary.json").read_bytes()
    with pytest.raises(SprigError, match=r"is finished, but \d+ of its artifacts are not in .*, so its report stays"):
        pipeline.run(pipeline.compose([f"run={copied}", "stages=[report]"]))
    assert (copied / "summary.json").read_bytes() == before


@pytest.mark.parametrize("place", ["elsewhere/copied", "elsewhere/smoke"])
def test_a_run_that_was_copied_with_its_results_is_read_without_its_store(world, made, place):
    copied = world / place / the_run(world).name
    shutil.copytree(the_run(world), copied)
    (world / "outputs").rename(world / "original")
    before = (copied / "run.log").read_bytes()
    with sources_gone(made):
        for words in (["stages=[sample]", "prompt=We, the", "sample.tokens=2"], ["stages=[report]"], []):
            found = pipeline.run(pipeline.compose([f"run={copied}", *words]))
            assert "stages=[sample]" in words or found["status"] == "completed"
        pipeline.run(pipeline.compose([f"run={copied}", "stages=[export]", f"export.to={world / 'exported'}"]))
    assert (world / "exported/config.json").exists() and (copied / "run.log").read_bytes() == before
    for words, said in (
        (["stages=[sample]", "prompt=We", "seed=3"], "no result of stage distill .* give the command for the original"),
        (["stages=[report]", "seed=3"], "copied/.* is a copy of a run without the report of these values"),
        (["stages=[prepare]", "data.seed=3"], "is a copy of a run, which has no result of stage prepare"),
        (["seed=3", "plan=true"], "is a copy of a run, in which nothing new is computed: plan the original run"),
    ):
        with pytest.raises(SprigError, match=said.replace("copied", copied.parent.name)):
            pipeline.run(pipeline.compose([f"run={copied}", *words]))
    assert not (world / "elsewhere/artifacts").exists() and not (world / "artifacts").exists()


def test_a_run_that_was_copied_without_its_results_has_none(world):
    copied = world / "elsewhere/copied" / the_run(world).name
    shutil.copytree(the_run(world), copied, symlinks=True)
    with pytest.raises(SprigError, match=r"no result of stage distill .* does not exist: if it was copied, give"):
        pipeline.run(pipeline.compose([f"run={copied}", "stages=[sample]", "prompt=We"]))


def test_work_that_needs_no_source_is_done_without(made, world):
    run = the_run(world)
    for role in ("evaluation", "report"):
        shutil.rmtree((run / "artifacts" / role).resolve())
    with sources_gone(made):
        pipeline.run(pipeline.compose([f"run={run}"]))
        use(run, world, on_request=False)


@pytest.mark.parametrize("gone", ["texts", "teacher"])
def test_work_that_needs_a_source_names_it(made, world, gone):
    run = the_run(world)
    shutil.rmtree((run / "artifacts" / ("tokens" if gone == "texts" else "teacher")).resolve())
    with sources_gone(made), pytest.raises(SprigError, match=rf"{made / gone}"):
        pipeline.run(pipeline.compose([f"run={run}", "stages=[prepare]"]))


def test_work_from_a_source_that_changed_is_refused(made, world):
    """Else the new text would be published under the old one's fingerprint."""
    run = the_run(world)
    shutil.rmtree((run / "artifacts/tokens").resolve())
    with sources_gone(made, copied=True):
        (made / "texts/more.txt").write_text("More.")
        with pytest.raises(SprigError, match=rf"data.path={made / 'texts'} changed since run .*{run.name} was created"):
            pipeline.run(pipeline.compose([f"run={run}", "stages=[prepare]"]))


def test_other_values_are_another_run(world, caplog):
    run = the_run(world)
    caplog.set_level(logging.INFO, "sprig")
    words = [f"run={run}", "distill.tokens=1024", "seed=3", "stages=[prepare]"]
    before = ["experiment=smoke", "outputs=outputs", "budget=512"]
    (run / ".hydra/overrides.yaml").write_text(json.dumps(before))
    pipeline.run(pipeline.compose(words), words)
    assert f"{run} is unchanged" in caplog.text
    assert the_run(world) != run and (run / "summary.json").exists()
    kept = OmegaConf.load(the_run(world) / ".hydra/overrides.yaml")
    assert kept == [*before[:2], "distill.tokens=1024", "seed=3", "stages=[prepare]"]


def test_a_run_of_another_version_is_refused_and_named(world, monkeypatch):
    run = the_run(world)
    before, latest = state(world), os.readlink(run.parent / LATEST)
    monkeypatch.setattr(distill, "VERSION", distill.VERSION + 1)
    with pytest.raises(SprigError, match=rf"its distill is of version {distill.VERSION - 1}, and this Sprig makes"):
        pipeline.run(pipeline.compose([f"run={run}", "stages=[report]"]))
    assert state(world) == before and os.readlink(run.parent / LATEST) == latest


def test_a_run_whose_folder_was_renamed_is_refused(world):
    run = the_run(world)
    renamed = run.rename(run.with_name("best"))
    with pytest.raises(SprigError, match=f"its folder was renamed or moved since it was created as smoke/{run.name}"):
        pipeline.run(pipeline.compose([f"run={renamed}", "stages=[report]"]))


@pytest.mark.parametrize("torn", ["", "{", "[]", "null", "{}", '{"facts": {}}', '{"facts": [], "steps": {}}'])
def test_torn_facts_are_one_sentence(world, torn):
    run = the_run(world)
    (run / facts.FILE).write_text(torn)
    with pytest.raises(
        SprigError, match=r"facts.json cannot be read .* remove it and give the run's own command again"
    ):
        Context(pipeline.compose([f"run={run}"]), print)


@pytest.mark.parametrize("torn", [b"", b"null", b"text", b"{", b"\0", b"[{}]", "half", "another key"])
def test_a_torn_configuration_is_one_sentence(world, torn):
    saved = the_run(world) / ".hydra/config.yaml"
    content = saved.read_bytes()
    torn = {"half": content[: len(content) // 2], "another key": content + b"more: 1\n"}.get(torn, torn)
    saved.write_bytes(torn)
    with pytest.raises(SprigError, match=r"\.hydra/config.yaml cannot be read \(.*copy it from another run"):
        pipeline.compose([f"run={the_run(world)}"])


@pytest.mark.parametrize("torn", [b"", b"null", b"text", b"{}", b"- a=1\n- 2"])
def test_torn_overrides_are_one_sentence(world, torn):
    file = the_run(world) / ".hydra/overrides.yaml"
    file.write_bytes(torn)
    with pytest.raises(SprigError, match=r"\.hydra/overrides.yaml cannot be read \(.*copy it from another run"):
        pipeline.run(pipeline.compose([f"run={the_run(world)}", "stages=[report]"]))


def test_a_run_without_facts_is_opened_from_its_sources(made, world):
    run = the_run(world)
    (run / facts.FILE).unlink()
    use(run, world, on_request=False)
    assert facts.read(run)["steps"]["tokens"][0] == prepare.STAGE
    (run / facts.FILE).unlink()
    with sources_gone(made, copied=True):
        (made / "texts/more.txt").write_text("More.")
        with pytest.raises(
            SprigError, match="created by an earlier version of Sprig, and its sources or Sprig changed"
        ):
            pipeline.run(pipeline.compose([f"run={run}", "stages=[report]"]))


def test_the_same_run_is_the_same_from_anywhere(made, monkeypatch, tmp_path):
    """With absolute paths, and with relative ones elsewhere: contents count, not places."""
    monkeypatch.chdir(made)
    relative = Context(smoke(made / "outputs", *of_files(), *SMALL), print)
    monkeypatch.chdir(tmp_path)
    places = [f"data.path={made / 'texts'}", f"teacher.path={made / 'teacher'}"]
    absolute = Context(smoke(made / "outputs", *of_files(), *places, *SMALL), print)
    assert prepare.tokens_recipe(relative) == prepare.tokens_recipe(absolute)
    assert sources.identify(relative.config.teacher) == sources.identify(absolute.config.teacher)
    assert Store(made / "outputs/artifacts").find(prepare.tokens_recipe(absolute))
