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
from runs import write_llama
from safetensors.torch import load_file, save_file

from pipeline import cli
from pipeline.data import packing, shards
from pipeline.errors import SprigError
from pipeline.models import checkpoint, ordering
from pipeline.models.huggingface import HuggingFaceFolder
from pipeline.models.litgpt_folder import LitGPTFolder
from pipeline.models.tokenizer import Tokenizer, write_bytes
from pipeline.models.weight_files import read as read_weights
from pipeline.recorded import recorded
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


def bomb(form: str) -> str:
    """Ten lines, each of which repeats the one before nine times."""
    levels = (f"a{n}: &a{n} {form.format(','.join([f'*a{n - 1}'] * 9))}" for n in range(1, 10))
    return "\n".join(["name: toy", "a0: &a0 {n_layer: 1}", *levels])


HUGE = {
    "aliases": (bomb("[{}]"), r"is not YAML \(it has the alias \*a0, write its value out\)"),
    "merged keys": (bomb("{{<<: [{}]}}"), r"is not YAML \(it has the alias \*a0"),
    "itself": ("n_layer: &a [*a]", r"is not YAML \(it has the alias \*a,"),
    "nesting": ("[" * 100_000, "is not YAML .maximum recursion"),
    "a little nesting": (f"hf_config: {'[' * 70}{']' * 70}", "is nested more than 64 deep"),
    "size": (f"name: [{'1,' * 200_000}]", "has 400,008 bytes, more than the 262,144 of any such file"),
    "tags": ("n_layer: !!int ''", "is not YAML"),
    "bytes": ("name: \udcff", "is not UTF-8"),
}


@pytest.mark.parametrize("kind", HUGE)
@pytest.mark.timeout(60)
def test_no_yaml_takes_all_memory_or_time(kind, smoke_outputs, tmp_path):
    content, said = HUGE[kind]
    folder, run = tmp_path / "theirs", tmp_path / "outputs/smoke/0123"
    folder.mkdir()
    torch.save({}, folder / "lit_model.pth")
    shutil.copytree((smoke_outputs / "smoke/latest").resolve(), run, symlinks=True)
    for file, prefix in ((folder / "model_config.yaml", ""), (run / ".hydra/config.yaml", r"cannot be read \(it ")):
        file.write_text(content, errors="surrogateescape")
        with pytest.raises(SprigError, match=f"{file.name} {prefix}{said}") as caught:
            recorded(file) if file.is_relative_to(run) else LitGPTFolder(folder).config
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_no_json_takes_all_memory_or_time(tmp_path):
    """A file with a hole in it, of the size of a large model."""
    write_bytes(tmp_path)
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(2**36)
    with pytest.raises(SprigError, match=r"config.json has 68,719,476,736 bytes, more than the 67,108,864"):
        HuggingFaceFolder(tmp_path).config  # noqa: B018
    (tmp_path / "model_config.yaml").write_text("name: pythia-14m\n")
    torch.save({}, tmp_path / "lit_model.pth")
    (tmp_path / "subnetwork.json").write_text("[" * 100_000)
    with pytest.raises(SprigError, match=r"subnetwork.json is not JSON"):
        LitGPTFolder(tmp_path).config  # noqa: B018


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


def test_names_of_weights_and_tokens_steer_no_terminal(tmp_path):
    write_llama(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"a\x1b[2J\nb": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "a\\u001b[2J\\nb"}')
    for read in (lambda: HuggingFaceFolder(tmp_path).weights(torch.float32), lambda: Tokenizer(tmp_path)):
        with pytest.raises(SprigError, match=r"a\\+x1b\[2J\\+nb") as caught:
            read()
        assert str(caught.value).isprintable()


def test_an_export_holds_no_links(tmp_path):
    """Although the tokenizer's folder does."""
    tokenizer = exports.tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tokenizer / name).rename(tmp_path / name)
        (tokenizer / name).symlink_to(tmp_path / name)
    _, to = exports.export(exports.student("llama", exports.uniform("llama", False), True), tokenizer)
    files = list(to.rglob("*"))
    assert len(files) > 4 and not any(file.is_symlink() for file in files)
