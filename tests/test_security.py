"""Files that carry code, in every place that Sprig reads such files from: none of it runs."""

import gzip
import io
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import exports
import numpy as np
import pytest
import torch

from pipeline import cli
from pipeline.data import packing, shards
from pipeline.errors import SprigError
from pipeline.models import checkpoint, ordering
from pipeline.models.tokenizer import write_bytes
from pipeline.models.weight_files import read as read_weights
from pipeline.stages import reconstruct, recover


class Payload:
    """Writes a file as soon as somebody unpickles it."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.write_text, (self.mark, "this ran")


def pickled(file: Path, mark: Path) -> None:
    """As torch.save writes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weights": Payload(mark)}, file)


def bare(file: Path, mark: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps({"weights": Payload(mark)}))


def arrays(file: Path, mark: Path) -> None:
    names = ("ids", "lengths", "hashes", "extent", "belongs", "shards", "attention", "mlp", "dropped", "fingerprint")
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **{name: np.array([Payload(mark)], dtype=object) for name in (*names, *ordering._ARRAYS)})


class Made:
    """Stands for a Context whose artifact is a folder."""

    def __init__(self, folder: Path):
        self.made = lambda recipe: folder


READERS = {
    "a teacher's pytorch_model.bin": ("pytorch_model.bin", lambda file: read_weights(file)),
    "a checkpoint's weights": (checkpoint.WEIGHTS, lambda file: checkpoint.load(file.parent, "cpu")),
    "a layer of a recovery": ("layer-0.pt", lambda file: recover._finished(file.parent)),
    "the state of a reconstruction": ("passed.pt", reconstruct._resumed),
    "an ordering": ("ordering.npz", lambda file: ordering.load(file.parent)),
    "reconstruction errors": (reconstruct.ERRORS, lambda file: reconstruct.load(Made(file.parent), None)),
    "a shard of tokens": ("000000.npz", shards.tokens_of),
    "a shard's documents": ("000000.npz", shards.documents_of),
    "the members of a split": (packing.MEMBERS, lambda file: packing.Members.load(file.parent)),
}


@pytest.mark.parametrize("place", READERS)
@pytest.mark.parametrize("write", [pickled, bare, arrays])
def test_no_pickle_is_run(place, write, tmp_path):
    name, read = READERS[place]
    file, mark = tmp_path / "folder" / name, tmp_path / "ran"
    if name == checkpoint.WEIGHTS:
        file.parent.mkdir()
        (file.parent / checkpoint.CONFIG).write_text("name: pythia-14m\n")
    write(file if write is not arrays else file.with_suffix(".npz"), mark)
    if write is arrays and file.suffix != ".npz":
        file.with_suffix(".npz").rename(file)
    try:
        found = read(file)
    except (SprigError, ValueError, OSError, KeyError, pickle.UnpicklingError) as error:
        found = error
    assert not mark.exists(), f"{place} ran it: {found}"
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists(), "the payload itself works"


TAG = "!!python/object/apply:pathlib.Path.touch\n- !!python/object/apply:pathlib.Path [{mark}]\n"


def refused(words: list[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    sentence = str(stopped.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("file", ["config", "overrides"])
def test_no_tag_of_a_runs_yaml_is_run(file, smoke_outputs, tmp_path):
    outputs, mark = tmp_path / "outputs", tmp_path / "ran"
    run = shutil.copytree((smoke_outputs / "smoke/latest").resolve(), outputs / "smoke/0123", symlinks=True)
    (run / f".hydra/{file}.yaml").write_text(TAG.format(mark=mark))
    assert f"{file}.yaml" in refused([f"run={run}", "stages=[report]"])
    assert not mark.exists()


def test_no_tag_of_a_litgpt_folder_is_run(tmp_path):
    mark, folder = tmp_path / "ran", tmp_path / "theirs"
    folder.mkdir()
    (folder / "model_config.yaml").write_text(TAG.format(mark=mark))
    torch.save({}, folder / "lit_model.pth")
    write_bytes(folder)
    words = ["experiment=smoke", f"outputs={tmp_path / 'outputs'}", "teacher=local", "teacher.source=litgpt"]
    assert "model_config.yaml" in refused([*words, f"teacher.path={folder}", "plan=true"])
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".txt.gz"])
def test_an_archive_of_texts_is_not_unpacked(suffix, tmp_path):
    """Its members' names may lead anywhere."""
    archive, member = tmp_path / f"texts{suffix}", "../escaped.txt"
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(member, "One text.")
    else:
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as file:
            file.addfile(tarfile.TarInfo(member))
        archive.write_bytes(gzip.compress(content.getvalue()) if suffix.endswith("gz") else content.getvalue())
    words = ["experiment=smoke", f"outputs={tmp_path / 'outputs'}", "data=text", f"data.path={archive}"]
    assert archive.name in refused([*words, "stages=[prepare]"])
    assert not list(tmp_path.parent.rglob("escaped*"))


def test_an_export_holds_no_links(tmp_path):
    """Although the tokenizer's folder does."""
    tokenizer = exports.tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tokenizer / name).rename(tmp_path / name)
        (tokenizer / name).symlink_to(tmp_path / name)
    _, to = exports.export(exports.student("llama", exports.uniform("llama", False), True), tokenizer)
    files = list(to.rglob("*"))
    assert len(files) > 4 and not any(file.is_symlink() for file in files)
