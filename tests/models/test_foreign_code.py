"""What a teacher's folder asks for and never gets: code of its own, and files outside the folder."""

import json
import re
from pathlib import Path

import exports
import pytest
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers import dynamic_module_utils as dynamic
from transformers.models.auto import auto_factory, configuration_auto, tokenization_auto

from pipeline.config import Source, TeacherConfig
from pipeline.errors import SprigError
from pipeline.models import checkpoint, sources
from pipeline.models.export import check, own
from pipeline.models.tokenizer import Tokenizer

_SIZES = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
_FILES = ("tokenizer_config.json", "config.json", "generation_config.json")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A Llama of transformers with the tokenizer of bytes."""
    place = tmp_path / "theirs"
    LlamaForCausalLM(LlamaConfig(**_SIZES, vocab_size=257)).save_pretrained(place)
    source = exports.tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).rename(place / name)
    return place


@pytest.fixture
def code(monkeypatch) -> list[str]:
    """The names of the modules that transformers fetches in order to run them."""
    fetched = []
    right = dynamic.get_class_from_dynamic_module

    def recorded(name, *arguments, **options):
        fetched.append(name)
        return right(name, *arguments, **options)

    for module in (auto_factory, configuration_auto, tokenization_auto):
        monkeypatch.setattr(module, "get_class_from_dynamic_module", recorded)
    return fetched


def teacher(folder: Path) -> TeacherConfig:
    return TeacherConfig(name="tiny", source=Source.hf, path=str(folder))


def change(file: Path, **changes) -> None:
    before = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(before | changes))


def keys(content) -> set[str]:
    """All keys of a JSON value, at every depth."""
    if isinstance(content, dict):
        return set(content) | set().union(*map(keys, content.values()))
    return set().union(*map(keys, content)) if isinstance(content, list) else set()


@pytest.mark.parametrize("form", ["stock", "own"])
@pytest.mark.parametrize(
    "auto_map",
    [
        {"AutoTokenizer": [None, "owner/repo--evil.Evil"]},
        {"AutoTokenizer": ["owner/repo--evil.Evil", None]},
        {"AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Evil"},
        [None, "evil.Evil"],
    ],
)
def test_no_code_of_a_teacher_is_run_or_published(auto_map, form, folder, code, tmp_path):
    (folder / "evil.py").write_text("raise SystemExit('run')\n")
    for name in _FILES:
        change(folder / name, auto_map=auto_map, custom_generate="evil", tokenizer_class="EvilTokenizer", evil="run me")
    sources.convert(teacher(folder), tmp_path / "ours")
    taken, to = exports.export(checkpoint.load(tmp_path / "ours", "cpu"), tmp_path / "ours", form)
    assert taken == form and {name.partition(".")[0] for name in code} == (
        {"modeling_sprig"} if form == "own" else set()
    )
    for file in to.glob("*.json"):
        plain = json.loads(file.read_text())
        assert not {"evil", "custom_generate"} & keys(plain) and "evil" not in file.read_text().lower()
        expected = own._AUTO_MAP if form == "own" and file.name == "config.json" else None
        assert plain.get("auto_map") == expected
    assert not list(to.glob("evil*"))


def test_a_teacher_that_an_earlier_version_copied_whole(code, tmp_path):
    """Artifacts with all of a tokenizer_config.json are still in stores."""
    tokenizer = exports.tokenizer(tmp_path)
    change(tokenizer / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "owner/repo--evil.Evil"]}, evil=1)
    _, to = exports.export(exports.student("llama", exports.uniform("llama", True), tied=False), tokenizer)
    assert not code and "evil" not in (to / "tokenizer_config.json").read_text()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "import os\n"),
        ({"auto_map": own._AUTO_MAP | {"AutoModel": "modeling_sprig.Other"}}, ""),
        ({"auto_map": own._AUTO_MAP | {"AutoConfig": "owner/repo--modeling_sprig.SprigConfig"}}, ""),
        ({"auto_map": ["modeling_sprig.SprigConfig"]}, ""),
    ],
)
def test_only_our_own_modelling_file_is_trusted(changes, line, code, tmp_path):
    tokenizer = exports.tokenizer(tmp_path)
    student = exports.student("llama", exports.layerwise("llama", True), tied=False)
    _, to = exports.export(student, tokenizer, "own")
    code.clear()
    file = to / own.MODELING.name
    file.write_text(line + file.read_text())
    change(to / "config.json", **changes)
    with pytest.raises(SprigError, match=r"run code that is not Sprig's: do not load it"):
        check.check(student, to, Tokenizer(tokenizer), exports.tokens())
    assert not code


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
@pytest.mark.parametrize(
    "shard",
    ["/etc/passwd", "../model.safetensors", "a/../../b.safetensors", "..", ".", "", "sub/b.safetensors", "./b.bin"],
)
def test_an_index_reaches_no_file_outside_its_folder(index, shard, folder, tmp_path):
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")  # there for one of them to find
    (folder / index).write_text(json.dumps({"weight_map": {"model.norm.weight": shard}}))
    named = re.escape(repr(shard))
    with pytest.raises(SprigError, match=rf"index\.json names {named}, which is not a file of its folder"):
        sources.identify(teacher(folder))


def test_shards_may_be_links_as_in_the_hubs_cache(folder, tmp_path):
    weights = (folder / "model.safetensors").rename(tmp_path / "0123")
    (folder / "model-00001-of-00001.safetensors").symlink_to(weights)
    where = dict.fromkeys(load_file(weights), "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    sources.convert(teacher(folder), tmp_path / "ours")
    assert checkpoint.load(tmp_path / "ours", "cpu").config.n_layer == 2
