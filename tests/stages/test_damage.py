"""Damage to an artifact of any kind is found, named, and the artifact is not used."""

import importlib
import json
import pkgutil
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import smoke

import pipeline
from pipeline import stages
from pipeline.artifacts import MANIFEST, Store, check, read_manifest
from pipeline.artifacts.manifest import recipe_of
from pipeline.artifacts.runs import summary
from pipeline.errors import SprigError
from pipeline.report import material

# Every stage in one run, and what it takes to have it there.
EVERY_STAGE = [
    "search.start=[allocation]",
    "space.hold=[n_embd,head_size]",
    "search.rerank.candidates=2",
    "search.rerank.tokens=256",
    "distill=wsd",
    "distill.schedule.warmup_tokens=128",
    "distill.tokens=1024",
    "distill.validation_tokens=256",
    "distill.cache.kind=topk",
    "study.random=2",
    "study.searched=1",
    "study.short=[512]",
    "study.resamples=20",
]


def kinds() -> set[str]:
    modules = (
        importlib.import_module(f"pipeline.stages.{each.name}") for each in pkgutil.iter_modules(stages.__path__)
    )
    return {module.STAGE for module in modules if hasattr(module, "STAGE")} | {material.STAGE}


def largest(folder: Path) -> Path:
    """A file that a logits cache fills on demand, where the artifact has no others."""
    manifest = read_manifest(folder)
    files = [folder / name for name in manifest["files"]]
    files = files or [file for name in manifest["grows"] for file in (folder / name).iterdir()]
    return max(files, key=lambda file: file.stat().st_size)


def flip(folder: Path, _: Path) -> None:
    file = largest(folder)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(folder: Path, _: Path) -> None:
    file = largest(folder)
    file.write_bytes(file.read_bytes()[:-1])


def delete(folder: Path, _: Path) -> None:
    largest(folder).unlink()


def other_file(folder: Path, other: Path) -> None:
    shutil.copyfile(largest(other), largest(folder))


def other_manifest(folder: Path, other: Path) -> None:
    shutil.copyfile(other / MANIFEST, folder / MANIFEST)


def edit(folder: Path, _: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(content | {"config": content["config"] | {"edited": True}}))


Damage = Callable[[Path, Path], None]
DAMAGES: list[Damage] = [flip, cut, delete, other_file, other_manifest, edit]


def damages(folder: Path) -> list[Damage]:
    """A cache may lack records, since it computes them when they are wanted."""
    return DAMAGES if read_manifest(folder)["files"] else [flip, other_file, other_manifest, edit]


@pytest.mark.slow
def test_damage_of_every_kind_of_artifact_is_named(tmp_path):
    pipeline.run(smoke(tmp_path, *EVERY_STAGE))
    folders = {
        kind: sorted(each.parent for each in tmp_path.glob(f"artifacts/{kind}/*/{MANIFEST}")) for kind in kinds()
    }
    assert not [kind for kind, found in folders.items() if not found], "a kind without an artifact: extend EVERY_STAGE"
    store = Store(tmp_path / "artifacts")
    for kind, (folder, *_) in folders.items():
        recipe, kept = recipe_of(folder), tmp_path / "kept"
        other = next(found[0] for name, found in folders.items() if name != kind)
        shutil.copytree(folder, kept)
        assert store.find(recipe) == folder
        for damage in damages(folder):
            damage(folder, other)
            with pytest.raises(SprigError) as refused:
                check(folder, everything=not read_manifest(kept)["files"])
            assert folder.name in str(refused.value), (kind, damage.__name__)
            shutil.rmtree(folder)
            shutil.copytree(kept, folder)
        assert store.find(recipe) == folder
        shutil.rmtree(kept)


@pytest.mark.parametrize("kind", ["prepare", "search", "distill"])
def test_a_run_does_not_use_a_damaged_artifact(kind, smoke_outputs, tmp_path):
    outputs = tmp_path / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    folder = next(outputs.glob(f"artifacts/{kind}/*/{MANIFEST}")).parent
    flip(folder, folder)
    with pytest.raises(SprigError, match=rf"{folder.name}.* has sha256"):
        pipeline.run(smoke(outputs))


def test_a_changed_digit_of_a_summary_is_found_and_the_report_writes_it_again(smoke_outputs, tmp_path):
    outputs = shutil.copytree(smoke_outputs, tmp_path / "outputs", symlinks=True)
    run = outputs / "smoke/latest"
    file, known = run / "summary.json", summary(run)
    written, perplexity = file.read_text(), known["student"]["final_perplexity"]
    assert known["status"] == "completed" and written.count(str(perplexity)) >= 1
    file.write_text(written.replace(str(perplexity), str(perplexity + 1)))
    assert json.loads(file.read_text())["student"]["final_perplexity"] == perplexity + 1 and summary(run) == {}
    pipeline.run(pipeline.compose([f"run={run}", "stages=[report]"]))
    assert summary(run) == known and file.read_text() == written
