import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from litgpt import GPT, Config
from litgpt.config import name_to_config
from omegaconf import OmegaConf

from pipeline.config import Dtype, Source, TeacherConfig
from pipeline.errors import SprigError
from pipeline.models import checkpoint, sources, student, tokenizer
from pipeline.models.families import architecture_of, is_tied
from pipeline.models.tokenizer import Tokenizer
from pipeline.subnetwork.value import LayerGenes, SubNetwork

CONF = Path(__file__).parents[2] / "conf" / "teacher"
LLAMA = {
    "name": "toy",
    "block_size": 32,
    "n_layer": 2,
    "n_embd": 32,
    "n_head": 4,
    "n_query_groups": 2,
    "intermediate_size": 48,
    "vocab_size": 280,
    "padded_vocab_size": 320,
    "mlp_class_name": "LLaMAMLP",
    "norm_class_name": "RMSNorm",
    "bias": False,
    "parallel_residual": False,
    "rotary_percentage": 1.0,
}
TOKENS = torch.randint(0, 256, (2, 16), generator=torch.Generator().manual_seed(0))


def random_teacher(**changes) -> TeacherConfig:
    fields = {"name": "toy", "source": Source.random, "litgpt": LLAMA, "tokenizer": "bytes"}
    return TeacherConfig(**fields | changes)


def converted(config: TeacherConfig, folder: Path) -> GPT:
    sources.convert(config, folder)
    return checkpoint.load(folder, "cpu").eval()


@torch.no_grad()
def logits(model: GPT) -> torch.Tensor:
    return model(TOKENS)


# --- random


@pytest.mark.parametrize("name", ["TinyGemma", "My-OLMo"])
def test_a_name_says_nothing_of_the_norms(tmp_path, name):
    plain = converted(random_teacher(), tmp_path / "toy")
    named = converted(random_teacher(name=name), tmp_path / "random")
    copied = TeacherConfig(name=name, source=Source.litgpt, path=str(tmp_path / "toy"))
    for model in (named, converted(copied, tmp_path / "copied")):
        assert torch.equal(logits(model), logits(plain))
    architecture_of(*sources.shape(copied))


def test_random_teacher_is_the_same_one_every_time(tmp_path):
    config = random_teacher()
    first = converted(config, tmp_path / "a")
    torch.manual_seed(1)
    second = converted(config, tmp_path / "b")
    assert torch.equal(logits(first), logits(second))
    assert logits(first).std() > 0
    assert sources.describe(config) == architecture_of(first.config, tied=False)
    assert (first.config.vocab_size, first.config.padded_vocab_size) == (257, 320)
    assert Tokenizer(tmp_path / "a").eos_id == 256


def test_random_teacher_by_litgpts_name_and_changed(tmp_path):
    named = sources.describe(random_teacher(litgpt="pythia-14m"))
    assert (named.family, named.n_layer, named.n_embd, named.padded_vocab_size) == ("gpt_neox", 6, 128, 50304)
    changed = sources.describe(random_teacher(litgpt={"name": "pythia-14m", "n_layer": 2}))
    assert replace(changed, n_layer=6) == named


def test_random_teacher_can_be_tied(tmp_path):
    config = random_teacher(tied=True)
    assert is_tied(converted(config, tmp_path))
    assert sources.describe(config).tied


def test_random_teacher_plans_without_a_tokenizer_but_does_not_convert(tmp_path):
    config = random_teacher(tokenizer=None)
    assert sources.describe(config).vocab_size == 280
    with pytest.raises(SprigError, match=r"has no tokenizer: set teacher\.tokenizer=bytes"):
        sources.convert(config, tmp_path / "none")


@pytest.mark.parametrize("given", ["no-such-model", {"n_layers": 2}, {"n_embd": 30, "n_head": 4}])
def test_what_is_no_litgpt_config_is_refused(given):
    with pytest.raises(SprigError, match=r"teacher\.litgpt=.* is not a litgpt configuration"):
        sources.describe(random_teacher(litgpt=given))


# --- dtype and vocabulary


def test_weights_are_written_in_the_dtype_asked_for(tmp_path):
    sources.convert(random_teacher(dtype=Dtype.bf16), tmp_path / "bf16")
    weights = torch.load(tmp_path / "bf16" / "lit_model.pth", weights_only=True)
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    sources.convert(random_teacher(), tmp_path / "fp32")
    full = torch.load(tmp_path / "fp32" / "lit_model.pth", weights_only=True)
    for name, weight in weights.items():
        torch.testing.assert_close(weight.float(), full[name], rtol=2**-8, atol=1e-6)


def test_trimming_drops_padding_rows_alone(tmp_path):
    whole = converted(random_teacher(), tmp_path / "whole")
    config = random_teacher(padded_vocab_size=264)
    trimmed = converted(config, tmp_path / "trimmed")
    assert trimmed.lm_head.weight.shape == (264, 32)
    torch.testing.assert_close(logits(trimmed), logits(whole)[..., :264], atol=1e-6, rtol=0)
    assert sources.describe(config) == architecture_of(trimmed.config, tied=False)


def test_vocabularies_that_do_not_fit_are_refused(tmp_path):
    for padded, message in [
        (256, "tokenizer has 257 entries but teacher toy's embedding 256 rows"),
        (321, r"padded_vocab_size=321 exceeds the 320 rows"),
    ]:
        config = random_teacher(padded_vocab_size=padded)
        with pytest.raises(SprigError, match=message):
            sources.describe(config)
        with pytest.raises(SprigError, match=message):
            sources.convert(config, tmp_path / "none")


# --- litgpt folders


def litgpt_folder(folder: Path, tied: bool) -> GPT:
    """As stock litgpt writes one: a plain state dictionary, tied weights twice."""
    torch.manual_seed(0)
    model = GPT(Config(**LLAMA)).eval()
    if tied:
        model.lm_head.weight = torch.nn.Parameter(model.transformer.wte.weight.clone())
    folder.mkdir()
    torch.save(model.state_dict(), folder / "lit_model.pth")
    (folder / "model_config.yaml").write_text(yaml.dump(LLAMA))
    tokenizer.write_bytes(folder)
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_litgpt_folder(tied, tmp_path):
    theirs = litgpt_folder(tmp_path / "theirs", tied)
    config = TeacherConfig(name="toy", source=Source.litgpt, path=str(tmp_path / "theirs"))
    ours = converted(config, tmp_path / "ours")
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-6, rtol=0)
    assert is_tied(ours) == tied
    assert sources.describe(config) == architecture_of(ours.config, tied)


def test_litgpts_own_training_wraps_the_weights(tmp_path):
    theirs = litgpt_folder(tmp_path / "theirs", tied=False)
    torch.save({"model": theirs.state_dict()}, tmp_path / "theirs" / "lit_model.pth")
    ours = converted(TeacherConfig(name="t", source=Source.litgpt, path=str(tmp_path / "theirs")), tmp_path / "ours")
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-6, rtol=0)


def student_folder(folder: Path, sizes: list[int], tmp_path: Path) -> GPT:
    genes = tuple(LayerGenes(2, 2, 8, size) for size in sizes)
    sub = SubNetwork((0, 1), 32, genes)
    model = student.build(Config(**LLAMA), sub, tied=True)
    student.initialize(model, 0)
    tokenizer.write_bytes(tmp_path)
    checkpoint.save(model, folder, sub, tmp_path)
    return model.eval()


@pytest.mark.parametrize("sizes", [[16, 16], [16, 24]], ids=["uniform", "layer-wise"])
def test_a_student_can_teach(sizes, tmp_path):
    theirs = student_folder(tmp_path / "student", sizes, tmp_path)
    config = TeacherConfig(name="s", source=Source.litgpt, path=str(tmp_path / "student"))
    ours = converted(config, tmp_path / "ours")
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-6, rtol=0)
    assert sources.describe(config) == architecture_of(ours.config, tied=True)
    assert ours.config.intermediate_size == max(sizes)


def test_a_layerwise_student_whose_files_do_not_belong_together(tmp_path):
    student_folder(tmp_path / "student", [16, 24], tmp_path)
    config = TeacherConfig(name="s", source=Source.litgpt, path=str(tmp_path / "student"))
    before = sources.identify(config)
    sub = tmp_path / "student/subnetwork.json"
    sub.write_text(sub.read_text().replace("24", "32"))
    assert sources.identify(config) != before
    with pytest.raises(SprigError, match=r"weights in .*student do not fit its subnetwork\.json"):
        sources.convert(config, tmp_path / "ours")


def test_a_file_and_a_folder_name_the_source_that_reads_them(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_text("GGUF")
    with pytest.raises(SprigError, match=rf"{file} is a file, and .*=hf reads a folder: set teacher\.source=gguf"):
        sources.describe(TeacherConfig(name="toy", source=Source.hf, path=str(file)))
    with pytest.raises(SprigError, match=r"is a folder: .*, or set teacher\.source to hf or litgpt"):
        sources.describe(TeacherConfig(name="toy", source=Source.gguf, path=str(tmp_path)))


def test_broken_litgpt_folders_are_one_sentence(tmp_path):
    config = TeacherConfig(name="toy", source=Source.litgpt, path=str(tmp_path / "theirs"))
    with pytest.raises(SprigError, match=r"lit_model\.pth does not exist: set teacher\.path"):
        sources.identify(config)
    litgpt_folder(tmp_path / "theirs", tied=False)
    weights = tmp_path / "theirs" / "lit_model.pth"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(SprigError, match=r"lit_model\.pth is truncated or not a weight file"):
        sources.convert(config, tmp_path / "ours")
    for strange in ([1], {"lm_head.weight": 1}):
        torch.save(strange, weights)
        with pytest.raises(SprigError, match=r"lit_model\.pth is truncated or not a weight file"):
            sources.convert(config, tmp_path / "ours")
    torch.save(torch.nn.Linear(1, 1), weights)
    with pytest.raises(SprigError, match=r"not a weight file \(it is not a pickle of tensors alone\): make it again"):
        sources.convert(config, tmp_path / "ours")
    student_of = tmp_path / "theirs" / "subnetwork.json"
    for content in ("", "[]", '{"layers": [0]}'):
        student_of.write_text(content)
        with pytest.raises(SprigError, match=r"subnetwork\.json is not (a sub-network of a student|JSON)"):
            sources.describe(config)
    student_of.unlink()
    for content in (b"", b"a: [", b"\xff\xfe", b"- 1", b"n_layers: 3", b"n_head: 7\nn_embd: 8"):
        (tmp_path / "theirs" / "model_config.yaml").write_bytes(content)
        with pytest.raises(SprigError, match=r"is not (a litgpt configuration|YAML|UTF-8)") as caught:
            sources.describe(config)
        assert "\n" not in str(caught.value)


# --- what was planned against what is there


def test_planned_sizes_that_differ_from_the_files_are_refused(tmp_path):
    litgpt_folder(tmp_path / "theirs", tied=False)
    good = TeacherConfig(name="toy", source=Source.litgpt, path=str(tmp_path / "theirs"), litgpt=LLAMA)
    assert sources.describe(good).n_embd == 32
    assert sources.describe(replace(good, padded_vocab_size=300)).padded_vocab_size == 300
    bad = replace(good, litgpt=LLAMA | {"intermediate_size": 50})
    for step in (sources.describe, lambda config: sources.convert(config, tmp_path / "none")):
        with pytest.raises(SprigError, match=r"has intermediate_size=48, but teacher\.litgpt=.* says 50"):
            step(bad)
    assert not (tmp_path / "none").exists()


def test_a_hub_model_is_planned_without_weights_or_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)  # any call would fail
    hub = TeacherConfig(name="p", source=Source.hf, path="EleutherAI/pythia-12b", litgpt="pythia-12b", tied=False)
    assert sources.describe(hub).n_layer == 36
    with pytest.raises(SprigError, match=r"teacher\.tied is null"):
        sources.describe(replace(hub, tied=None))


# --- identity


def test_identity_follows_contents_not_places(tmp_path):
    litgpt_folder(tmp_path / "a", tied=False)
    config = TeacherConfig(name="toy", source=Source.litgpt, path=str(tmp_path / "a"))
    before = sources.identify(config)
    assert json.loads(json.dumps(before)) == before
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    moved = replace(config, path=str(tmp_path / "b"), name="other", license="mit")
    assert sources.identify(moved) == before
    with (tmp_path / "b" / "lit_model.pth").open("r+b") as weights:
        weights.seek(1000)
        weights.write(b"changed")
    changed = sources.identify(moved)
    assert changed["files"]["lit_model.pth"] != before["files"]["lit_model.pth"]
    assert changed["files"]["model_config.yaml"] == before["files"]["model_config.yaml"]


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": Dtype.bf16},
        {"tied": True},
        {"padded_vocab_size": 300},
        {"litgpt": LLAMA | {"n_layer": 3}},
        {"tokenizer": None},
    ],
)
def test_identity_holds_what_changes_the_result(change):
    assert sources.identify(random_teacher(**change)) != sources.identify(random_teacher())


def test_identity_of_tokenizer_and_hub(tmp_path):
    tokenizer.write_bytes(tmp_path)
    own = sources.identify(random_teacher(tokenizer=str(tmp_path)))["tokenizer"]
    assert set(own) == {"tokenizer.json", "tokenizer_config.json"}
    hub = TeacherConfig(name="p", source=Source.hf, path="a/b", revision="main")
    assert sources.identify(hub) != sources.identify(replace(hub, revision="step1000"))


def test_identity_of_the_tokenizer_alone(tmp_path, monkeypatch):
    """What it is counts, not whose it is, where it lies, or what else its configuration says."""
    tokenizer.write_bytes(tmp_path)
    said = tmp_path / "tokenizer_config.json"
    said.write_text(json.dumps(tokenizer.read_json(said) | {"chat_template": "hello"}))
    ours = sources.identify_tokenizer(random_teacher())
    assert json.loads(json.dumps(ours)) == ours
    others = {"litgpt": LLAMA | {"n_layer": 3}, "dtype": Dtype.bf16, "tokenizer": str(tmp_path)}
    assert sources.identify_tokenizer(random_teacher(**others)) == ours
    said.write_text(json.dumps({"eos_token": "a"}))
    assert sources.identify_tokenizer(random_teacher(**others)) == ours | {"eos_id": 97}
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["c"], vocabulary["b"] = vocabulary["b"], vocabulary["c"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert sources.identify_tokenizer(random_teacher(**others))["sha256"] != ours["sha256"]

    monkeypatch.setattr("huggingface_hub.snapshot_download", None)  # any call would fail
    hub = TeacherConfig(name="p", source=Source.hf, path="a/b", revision="main")
    assert sources.identify_tokenizer(hub) != sources.identify_tokenizer(replace(hub, revision="step1000"))
    assert sources.identify_tokenizer(replace(hub, tokenizer="bytes")) == ours


@pytest.mark.parametrize("source", [Source.hf, Source.litgpt, Source.gguf])
def test_a_run_is_no_teacher_but_its_export_is(smoke_outputs, source):
    run = smoke_outputs / "smoke/latest"
    with pytest.raises(SprigError, match="is a run of Sprig: export its student, `sprig run="):
        sources.describe(TeacherConfig(name="grown", source=source, path=str(run)))


# --- the shipped teachers


PRETRAINED = [
    file
    for file in sorted(CONF.glob("*.yaml"))
    if not {"source: random", "source: ???", "  - tiny-random"} & set(file.read_text().splitlines())
    and not file.stem.startswith("lab-")  # Sprig's own: tests/test_lab.py
    and "path: ~/" not in file.read_text()  # a file that an optional package puts there
]


@pytest.mark.parametrize("file", PRETRAINED, ids=lambda file: file.stem)
def test_shipped_teachers_say_the_right_size(file):
    text = file.read_text()
    composed = OmegaConf.merge(OmegaConf.structured(TeacherConfig), OmegaConf.create(text))
    config = OmegaConf.to_object(composed)
    architecture = sources.describe(config)
    assert config.name == architecture.name == file.stem
    name = config.litgpt if isinstance(config.litgpt, str) else config.litgpt["name"]
    named = Config.from_name(name) if name in name_to_config else Config(**config.litgpt)
    with torch.device("meta"):  # a mixture of 48 layers has 18,432 matrices
        one, two = (GPT(replace(named, n_layer=layers)) for layers in (1, 2))
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (one, two)]
    count = sizes[0] + (architecture.n_layer - 1) * (sizes[1] - sizes[0])
    count -= one.lm_head.weight.numel() if architecture.tied else 0
    assert f"{count:,} parameters" in text
    assert architecture.vocab_size <= architecture.padded_vocab_size
