"""What lies in an exported folder, and what is never published."""

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import exports
import huggingface_hub
import pytest
import tiny
import torch
import transformers
from covering import grid
from filelock import FileLock
from litgpt import GPT
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config import Dtype, ExportForm, Source, SpaceConfig
from pipeline.errors import SprigError
from pipeline.models import sources
from pipeline.models.export import check, folder, own
from pipeline.models.families import architecture_of, is_tied
from pipeline.models.ordering import importance
from pipeline.models.tokenizer import Tokenizer
from pipeline.subnetwork.bins import Bin
from pipeline.subnetwork.exported import exported
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import LayerGenes, SubNetwork


@pytest.fixture
def tokenizer(tmp_path) -> Path:
    return exports.tokenizer(tmp_path)


def test_what_lies_in_the_folder(tokenizer):
    _, to = exports.export(exports.student("llama", exports.uniform("llama", True), tied=True), tokenizer)
    stock = {"model.safetensors", "config.json", "generation_config.json", "README.md"}
    stock |= {"tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in to.iterdir()} == stock
    assert len({path.stat().st_mode for path in to.iterdir()}) == 1
    assert (to / "README.md").read_text() == "stock\n"
    assert [path.name for path in to.parent.iterdir()] == [to.name]
    plain = json.loads((to / "config.json").read_text())
    assert plain["eos_token_id"] == 256 and plain["rope_parameters"]["rope_type"] == "linear"
    assert transformers.GenerationConfig.from_pretrained(to).eos_token_id == 256
    words = AutoTokenizer.from_pretrained(to)
    assert words.eos_token_id == 256 and words.model_max_length == 64
    assert words.decode(words("Zwölf, and  twice\n12").input_ids) == "Zwölf, and  twice\n12"


def test_weights_are_rounded_on_request(tokenizer, tmp_path):
    student = exports.student("llama", exports.uniform("llama", True), tied=True)
    _, full = exports.export(student, tokenizer)
    to, blocks = tmp_path / "half", exports.tokens()
    folder.export(student, tokenizer, to, ExportForm.auto, blocks, lambda *_: "", dtype=Dtype.bf16)
    wanted, written = (load_file(place / "model.safetensors") for place in (full, to))
    assert wanted.keys() == written.keys()
    assert all(torch.equal(written[name], each.bfloat16()) for name, each in wanted.items())
    assert AutoModelForCausalLM.from_pretrained(to, dtype="auto").dtype == torch.bfloat16
    assert (full / "config.json").stat().st_mode == (to / "model.safetensors").stat().st_mode


@pytest.mark.parametrize("form", ["auto", "padded"])
@pytest.mark.parametrize("cut_head", [False, True], ids=["full head", "cut head"])
@pytest.mark.parametrize("family", ["gpt_neox", "llama", "llama3", "qwen2", "qwen3"])
def test_rotary_positions_are_said_for_transformers_4_and_5(family, cut_head, form, tokenizer):
    """Version 4 reads the keys at the top, and takes 10000 where it finds none."""
    sub = (exports.uniform if form == "auto" else exports.layerwise)(family, cut_head)
    _, to = exports.export(exports.student(family, sub, tied=False, rope_base=700), tokenizer, form)
    plain = json.loads((to / "config.json").read_text())
    five = plain["rope_parameters"]
    base = plain["rotary_emb_base" if family == "gpt_neox" else "rope_theta"]
    assert base == five["rope_theta"] and 1 < base < 701 and ("rope_theta" in plain) == (family != "gpt_neox")
    kind = "llama3" if family == "llama3" else "linear" if cut_head else "default"
    assert five["rope_type"] == kind and five.get("partial_rotary_factor") == plain.get("rotary_pct")
    assert ("rotary_pct" in plain) == (family == "gpt_neox")
    four = {name: value for name, value in five.items() if name not in ("rope_theta", "partial_rotary_factor")}
    assert plain.get("rope_scaling") == (None if kind == "default" else four)
    assert plain["dtype"] == plain["torch_dtype"] == "float32"


@torch.no_grad()
def assert_comes_back(student: GPT, to: Path, place: Path) -> GPT:
    """The export as a teacher, which is uniform, has the student's logits and is described as it is."""
    config = sources.TeacherConfig(name="back", source=Source.hf, path=str(to))
    sources.convert(config, place)
    model = sources.checkpoint.load(place, "cpu").eval()
    assert type(model) is GPT
    torch.testing.assert_close(model(exports.tokens()), student(exports.tokens())[..., :257], atol=1e-4, rtol=0)
    assert sources.describe(config) == architecture_of(model.config, is_tied(student))
    space = Space(sources.describe(config), SpaceConfig(layers="subset"), Bin(0, 1, 10**9), None)  # it can be cut
    assert space.grids["head_size"][-1] == model.config.head_size
    return model


@pytest.mark.parametrize(
    ("family", "form", "tied"),
    grid(["gpt_neox", "llama", "llama3", "qwen2", "qwen3", "mixtral"], ["stock", "own"], [False, True]),
)
def test_an_export_comes_back_as_a_teacher(family, form, tied, tokenizer):
    """Nothing of it is lost on the way out and in."""
    # A stock class cannot hold cut heads of Llama 3.1's frequencies.
    sub = exports.layerwise(family, True) if form == "own" else exports.uniform(family, family != "llama3")
    student = exports.student(family, sub, tied)
    _, to = exports.export(student, tokenizer, form)
    assert_comes_back(student, to, tokenizer.parent / "back")


def test_an_own_file_for_layers_that_are_alike_comes_back(tokenizer):
    """Its head has a bias, which no stock class has; and a serial GPT-NeoX with rotary shares that round down."""
    student = exports.student("qwen2", exports.uniform("qwen2", True), tied=False, lm_head_bias=True)
    assert_comes_back(student, exports.export(student, tokenizer)[1], tokenizer.parent / "back")
    sub = SubNetwork((0, 2), 184, (LayerGenes(1, 1, 104, 40), LayerGenes(1, 1, 72, 40)), head_pairs="strided")
    student = exports.student("gpt_neox", sub, tied=False, n_embd=184, n_head=1, head_size=128, parallel_residual=False)
    assert_comes_back(student, exports.export(student, tokenizer, "own")[1], tokenizer.parent / "again")


def test_a_rotary_share_that_no_float_is(tokenizer):
    """14 rotary entries of 50: 0.28 * 50 is above 14, so no size would be found that keeps whole pairs."""
    sub = SubNetwork((0, 2), 128, (LayerGenes(1, 1, 32, 40), LayerGenes(1, 1, 48, 40)), head_pairs="strided")
    student = exports.student("gpt_neox", sub, tied=False, n_embd=128, n_head=1, head_size=128)
    model = assert_comes_back(student, exports.export(student, tokenizer, "own")[1], tokenizer.parent / "back")
    assert (model.config.rope_n_elem, model.config.head_size) == (14, 50)


def test_own_files_that_cannot_be_a_teacher(tokenizer):
    student = exports.student("qwen3", exports.with_heads(exports.layerwise("qwen3", True), 10, 4, 14), tied=True)
    _, to = exports.export(student, tokenizer, "own")
    config = sources.TeacherConfig(name="back", source=Source.hf, path=str(to))
    with pytest.raises(SprigError, match=r"norms q and k over each head, .* take another student"):
        sources.describe(config)
    genes = tuple(tiny.gene("mixtral", 2, 2, 16, 24, experts) for experts in (5, 3))
    student = exports.student("mixtral", SubNetwork((0, 2), 40, genes), tied=False)
    _, to = exports.export(student, tokenizer, "auto")
    with pytest.raises(SprigError, match=r"differ in their experts, and zeros cannot .* take another student"):
        sources.describe(sources.TeacherConfig(name="back", source=Source.hf, path=str(to)))


def test_an_own_file_with_other_weights_is_refused(tokenizer):
    _, to = exports.export(exports.student("qwen3", exports.layerwise("qwen3", True), tied=True), tokenizer, "own")
    config = sources.TeacherConfig(name="back", source=Source.hf, path=str(to))
    state = load_file(to / "model.safetensors")
    key = "layers.0.attention.k.weight"
    for other in ({"layers.0.attention.z.weight": torch.zeros(1)}, {key: state[key][:, 1:].clone()}):
        save_file(state | other, to / "model.safetensors", {"format": "pt"})
        with pytest.raises(SprigError, match=r"weights in .*own do not fit its config\.json: export the student again"):
            sources.convert(config, tokenizer.parent / "back")


def test_an_own_file_that_transformers_saved_again_comes_back(tokenizer):
    student = exports.student("llama", exports.layerwise("llama", True), tied=True)
    _, to = exports.export(student, tokenizer, "own")
    AutoModelForCausalLM.from_pretrained(to, trust_remote_code=True).save_pretrained(tokenizer.parent / "tuned")
    AutoTokenizer.from_pretrained(to, trust_remote_code=True).save_pretrained(tokenizer.parent / "tuned")
    assert_comes_back(student, tokenizer.parent / "tuned", tokenizer.parent / "back")


def test_zeros_of_a_padded_teacher_are_what_is_cut_first(tokenizer):
    """A padded student as the next teacher: its empty neurons and groups are ranked last."""
    student = exports.student("llama", exports.layerwise("llama", True), tied=True)
    _, to = exports.export(student, tokenizer, "padded")
    sources.convert(sources.TeacherConfig(name="back", source=Source.hf, path=str(to)), tokenizer.parent / "back")
    model = sources.checkpoint.load(tokenizer.parent / "back", "cpu").eval()
    ranked = importance(model, exports.tokens(), "fp32", 2, "ordering")
    for number, block in enumerate(student.transformer.h):
        for dimension, size in (("neurons", "intermediate_size"), ("groups", "n_query_groups")):
            kept = getattr(block.config, size)
            assert set(getattr(ranked, dimension)[number][:kept]) == set(range(kept))


def test_an_export_that_computes_something_else_is_not_published(tokenizer, monkeypatch):
    student = exports.student("llama", exports.uniform("llama", True), tied=False)
    right = folder.stock.state_dict

    def wrong(*arguments):
        state = right(*arguments)
        state["model.layers.1.self_attn.o_proj.weight"] += 0.01
        return state

    monkeypatch.setattr(folder.stock, "state_dict", wrong)
    with pytest.raises(SprigError, match=r"logits differ from the student's at block 0, token 0, by [\d.e-]+ where"):
        exports.export(student, tokenizer)
    assert list((tokenizer.parent / "exports").iterdir()) == []


def test_logits_that_are_no_numbers_are_noticed(tokenizer):
    student = exports.student("llama", exports.uniform("llama", True), tied=False)
    _, to = exports.export(student, tokenizer)
    state = load_file(to / "model.safetensors")
    state["lm_head.weight"][7] = torch.nan
    save_file(state, to / "model.safetensors", {"format": "pt"})
    with pytest.raises(SprigError, match="block 0, token 0, by nan"):
        check.check(student, to, Tokenizer(tokenizer), exports.tokens())


def test_another_tokenizer_is_noticed(tokenizer):
    student = exports.student("llama", exports.uniform("llama", True), tied=False)
    _, to = exports.export(student, tokenizer)
    words = json.loads((to / "tokenizer.json").read_text())
    words["normalizer"] = {"type": "Prepend", "prepend": "!"}
    (to / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(SprigError, match=r"reads the tokenizer of .* differently"):
        check.check(student, to, Tokenizer(tokenizer), exports.tokens())


def test_the_own_file_is_checked_without_a_question_at_the_terminal(tokenizer, monkeypatch):
    asked = []
    monkeypatch.setattr("builtins.input", lambda *question: asked.append(question) or "n")
    student = exports.student("llama", exports.layerwise("llama", True), tied=False)
    exports.export(student, tokenizer, "own")
    assert not asked


@pytest.mark.parametrize("shards", ["one", "several"])
@pytest.mark.parametrize("dtype", Dtype)
def test_the_mark_of_an_export_is_found(tokenizer, tmp_path, monkeypatch, shards, dtype):
    if shards == "several":
        save = huggingface_hub.save_torch_state_dict
        monkeypatch.setattr(huggingface_hub, "save_torch_state_dict", partial(save, max_shard_size="20KB"))
    student = exports.student("llama", exports.uniform("llama", True), tied=True)
    for to, mark in ((tmp_path / "marked", "abc"), (tmp_path / "plain", None)):
        folder.export(student, tokenizer, to, ExportForm.auto, exports.tokens(), lambda *_: "", dtype=dtype, mark=mark)
        assert (to / "model.safetensors").exists() == (shards == "one")
        assert folder.holds(to, "abc") == (mark is not None) and not folder.holds(to, "other")
        next(to.glob("*.safetensors")).unlink()
        assert not folder.holds(to, "abc")
    assert not folder.holds(tmp_path / "nothing", "abc")


def test_a_folder_that_exists_is_left_alone(tokenizer):
    student = exports.student("llama", exports.uniform("llama", True), tied=False)
    (tokenizer.parent / "exports" / "auto").mkdir(parents=True)
    with pytest.raises(SprigError, match=r"export\.to=.*auto exists: name a folder that does not, or remove it"):
        exports.export(student, tokenizer)
    assert list((tokenizer.parent / "exports" / "auto").iterdir()) == []


def test_without_transformers(tokenizer, monkeypatch):
    student = exports.student("llama", exports.uniform("llama", True), tied=False)
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SprigError, match=r"transformers, which is not installed: pip install 'sprig-lm\[export\]'"):
        exports.export(student, tokenizer)


def test_the_own_file_needs_only_torch_and_transformers():
    lines = own.MODELING.read_text().splitlines()
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imported == {"torch", "transformers"}


def test_an_export_removes_no_folder_that_only_looks_like_a_killed_ones(tokenizer):
    parent = tokenizer.parent / "exports"
    files = [parent / ".unchecked-mine/lock", parent / ".unchecked-mine/notes", parent / ".unchecked-bare/lock"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    (parent / ".unchecked-left/sprig_export").mkdir(parents=True)
    (parent / ".unchecked-left/lock").touch()
    exports.export(exports.student("llama", exports.uniform("llama", True), tied=False), tokenizer)
    assert [file.read_text() for file in files] == ["mine"] * 3 and not (parent / ".unchecked-left").exists()


@pytest.mark.slow
def test_the_next_export_removes_what_a_killed_one_left(tokenizer):
    """And neither what another still works in, nor folders that only look alike."""
    parent = tokenizer.parent / "exports"
    export = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
import exports
exports.folder.check = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
exports.export(exports.student("llama", exports.uniform("llama", True), tied=False), Path({str(tokenizer)!r}), "own")
"""
    killed = subprocess.run([sys.executable, "-c", export], timeout=300)
    assert killed.returncode == -signal.SIGKILL
    (left,) = parent.iterdir()
    assert (left / "sprig_export/model.safetensors").is_file() and left.name.startswith(".unchecked-")
    (parent / ".unchecked-mine").mkdir()
    (parent / ".unchecked-busy").mkdir()
    with FileLock(parent / ".unchecked-busy/lock"):
        exports.export(exports.student("llama", exports.uniform("llama", True), tied=False), tokenizer)
    assert {path.name for path in parent.iterdir()} == {"auto", ".unchecked-mine", ".unchecked-busy"}


def test_a_width_that_heads_do_not_divide_is_a_mistral(tokenizer):
    """Newer versions of transformers refuse it as a Llama."""
    for heads, kind in ((1, "llama"), (3, "mistral")):
        sub = SubNetwork((0, 2), 40, (LayerGenes(heads, 2, 10, 24),) * 2)
        student = exports.student("llama", sub, tied=False)
        taken, to = exports.export(student, tokenizer)
        plain = json.loads((to / "config.json").read_text())
        assert taken == "stock" and (plain["model_type"], plain.get("sliding_window")) == (kind, None)
        assert plain["architectures"] == [f"{kind.capitalize()}ForCausalLM"]
        assert_comes_back(student, to, tokenizer.parent / kind)
        to.rename(tokenizer.parent / f"{kind} export")


def test_a_gemma_whose_width_its_heads_do_not_divide_needs_the_own_file(tokenizer):
    """Newer versions of transformers refuse it, and there is no class like Mistral."""
    sub = SubNetwork((0, 2), 40, (LayerGenes(3, 2, 16, 24),) * 2)
    student = exports.student("gemma2", sub, tied=True)
    with pytest.raises(SprigError, match=r"width of 40, which is not a multiple of its 6 heads, .* export\.form=own"):
        exports.export(student, tokenizer, "stock")
    teacher = exports.teacher("gemma2", tied=True)
    assert exported(architecture_of(teacher.config, tied=True), sub).form == "own"
    assert exports.export(student, tokenizer)[0] == "own"
