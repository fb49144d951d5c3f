import dataclasses
import errno
import json
import os
import resource
from contextlib import contextmanager

import exports
import pytest
import tiny
import torch
from covering import slow
from litgpt import GPT, Config
from safetensors import SafetensorError
from safetensors.torch import save_file

from pipeline.config import Source, TeacherConfig
from pipeline.errors import SprigError
from pipeline.models import checkpoint, sources
from pipeline.models.extraction import extract
from pipeline.models.families import architecture_of, is_tied
from pipeline.models.student import LayerwiseGPT
from pipeline.models.writing import writing
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.value import SubNetwork


@pytest.fixture
def tokenizer(tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    (folder / "config.json").write_text("{}")
    return folder


BROKEN_CONFIGS = (
    b"",
    b"a: [",
    b"\xff\xfe",
    b"- 1",
    b"text",
    b"name: null",
    b"n_layer: x",
    b"n_head: 7\nn_embd: 8",
    b"a: 1",
)


@contextmanager
def files_of_at_most(size):
    """What writes beyond it is refused by the system itself, with errno.EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def student(family, layerwise, pairs="last"):
    teacher = tiny.teacher(family)
    architecture = architecture_of(teacher.config, is_tied(teacher))
    gene = tiny.gene(family, 2, 1, architecture.head_size // 2, 30)
    other = dataclasses.replace(gene, n_query_groups=1, head_size=architecture.head_size) if layerwise else gene
    sub = SubNetwork((0, 2), 40, (gene, other), pairs)
    return extract(teacher, sub, Ordering.identity(architecture)), sub


def run(model):
    with torch.no_grad():
        return model(tiny.tokens())


def stock_load(folder):
    model = GPT(Config.from_file(folder / "model_config.yaml"))
    model.load_state_dict(torch.load(folder / "lit_model.pth", weights_only=True, mmap=True))
    return model.eval()


@pytest.mark.proves("converted teacher loads in stock litgpt", lambda family: family)
@pytest.mark.parametrize("family", tiny.families(of=sorted(tiny.CONFIGS.keys() - {"smollm3", "olmoe"})))
def test_a_teacher_is_a_stock_litgpt_folder(family, tmp_path, tokenizer):
    """But SmolLM3's and OLMoE's: litgpt lacks layers without rotary positions, and experts' weights of any sum."""
    from litgpt.utils import check_valid_checkpoint_dir  # imports lightning

    teacher = tiny.teacher(family)
    checkpoint.save(teacher, tmp_path / "model", None, tokenizer)
    check_valid_checkpoint_dir(tmp_path / "model", raise_error=True)
    assert not (tmp_path / "model" / "config.json").exists()
    assert torch.equal(run(stock_load(tmp_path / "model")), run(teacher))


@pytest.mark.proves("teacher from a litgpt folder", lambda family: family)
@pytest.mark.parametrize("family", ["llama", *tiny.LATER, *slow([each] for each in tiny.FIRST if each != "llama")])
def test_a_teacher_survives_its_folder_and_its_conversion(family, tmp_path):
    teacher = exports.teacher(family, family in tiny.TIED)
    checkpoint.save(teacher, tmp_path / "model", None, exports.tokenizer(tmp_path))
    given = TeacherConfig(name=family, source=Source.litgpt, path=str(tmp_path / "model"))
    sources.convert(given, tmp_path / "converted")
    assert torch.equal(run(checkpoint.load(tmp_path / "converted", "cpu")), run(teacher))
    loaded = checkpoint.load(tmp_path / "model", "cpu")
    assert torch.equal(run(loaded), run(teacher))
    assert not isinstance(loaded, LayerwiseGPT) and is_tied(loaded) == (family in tiny.TIED)


@pytest.mark.parametrize("pairs", ["last", "strided", "plain"])
@pytest.mark.parametrize("family", ["gpt_neox", "llama", "qwen2", "qwen3"])
def test_a_uniform_student_loads_with_stock_litgpt(family, pairs, tmp_path, tokenizer):
    model, sub = student(family, layerwise=False, pairs=pairs)
    checkpoint.save(model, tmp_path / "model", sub, tokenizer)
    assert torch.equal(run(stock_load(tmp_path / "model")), run(model))
    loaded = checkpoint.load(tmp_path / "model", "cpu")
    assert type(loaded) is GPT and loaded.config == model.config
    assert torch.equal(run(loaded), run(model))


@pytest.mark.parametrize("family, layerwise", [*((family, True) for family in tiny.CONFIGS), ("llama3", False)])
def test_a_layerwise_student_loads_with_sprig(family, layerwise, tmp_path, tokenizer):
    model, sub = student(family, layerwise)
    checkpoint.save(model, tmp_path / "model", sub, tokenizer)
    loaded = checkpoint.load(tmp_path / "model", "cpu")
    assert type(loaded) is LayerwiseGPT and is_tied(loaded) == (family in tiny.TIED)
    assert SubNetwork.from_dict(json.loads((tmp_path / "model" / "subnetwork.json").read_text())) == loaded.sub == sub
    assert torch.equal(run(loaded), run(model))


def test_views_into_a_large_buffer_are_written_alone(tmp_path, tokenizer):
    """As DeepSpeed holds parameters."""
    model = tiny.teacher("llama")
    checkpoint.save(model, tmp_path / "plain", None, tokenizer)
    flat = torch.cat([parameter.data.flatten() for parameter in model.parameters()])
    start = 0
    for parameter in model.parameters():
        parameter.data = flat[start : start + parameter.numel()].view(parameter.shape)
        start += parameter.numel()
    checkpoint.save(model, tmp_path / "flat", None, tokenizer)
    sizes = [(tmp_path / name / "lit_model.pth").stat().st_size for name in ("plain", "flat")]
    assert sizes[0] == sizes[1] < 1.5 * 4 * sum(parameter.numel() for parameter in model.parameters())
    loaded = checkpoint.load(tmp_path / "flat", "cpu")
    assert is_tied(loaded) and torch.equal(run(loaded), run(model))


def test_the_dtype_is_the_readers_choice(tmp_path, tokenizer):
    checkpoint.save(tiny.teacher("llama"), tmp_path / "model", None, tokenizer)
    loaded = checkpoint.load(tmp_path / "model", "cpu", torch.bfloat16)
    assert loaded.lm_head.weight.dtype == torch.bfloat16 and is_tied(loaded)


def test_a_write_that_the_system_refuses_keeps_its_number(tmp_path, tokenizer):
    with pytest.raises(OSError) as caught, files_of_at_most(20_000):
        checkpoint.save(tiny.teacher("llama"), tmp_path / "model", None, tokenizer)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "model" / "lit_model.pth"))
    file = tmp_path / "x.safetensors"
    with pytest.raises(OSError) as caught, files_of_at_most(20_000), writing(file):
        save_file({"x": torch.zeros(20_000)}, file)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(file))


def test_a_full_disk_is_known_however_it_is_told(tmp_path):
    class Full:
        def write(self, content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def flush(self):
            pass

    with pytest.raises(OSError) as caught, writing(tmp_path):
        torch.save({"x": torch.zeros(20_000)}, Full())
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))
    with pytest.raises(OSError) as caught, writing(tmp_path):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(RuntimeError, match="another failure"), writing(tmp_path):
        raise RuntimeError("another failure")


def test_what_cannot_be_loaded_is_one_sentence(tmp_path, tokenizer):
    with pytest.raises(SprigError, match=r"no tokenizer\.json"):
        checkpoint.save(tiny.teacher("llama"), tmp_path / "model", None, tmp_path)
    with pytest.raises(SprigError, match="model_config"):
        checkpoint.load(tmp_path / "nowhere", "cpu")
    folder = tmp_path / "model"
    checkpoint.save(tiny.teacher("llama"), folder, None, tokenizer)
    whole, config = (folder / "lit_model.pth").read_bytes(), (folder / "model_config.yaml").read_bytes()
    for broken in (whole[: len(whole) // 2], b"not weights", b""):
        (folder / "lit_model.pth").write_bytes(broken)
        with pytest.raises(SprigError, match="not a checkpoint"):
            checkpoint.load(folder, "cpu")
    (folder / "lit_model.pth").write_bytes(whole)
    for content in BROKEN_CONFIGS:
        (folder / "model_config.yaml").write_bytes(content)
        with pytest.raises(SprigError, match="not a checkpoint") as caught:
            checkpoint.load(folder, "cpu")
        assert "\n" not in str(caught.value)
    (folder / "model_config.yaml").write_bytes(config)
    for content in ("", "{", "[]", '{"layers": [0]}', "\ud800"):
        (folder / "subnetwork.json").write_bytes(content.encode("utf-8", "surrogatepass"))
        with pytest.raises(SprigError, match="not a checkpoint"):
            checkpoint.load(folder, "cpu")
    (folder / "subnetwork.json").unlink()
    for strange in ([1], {"lm_head.weight": 1}, {}):
        torch.save(strange, folder / "lit_model.pth")
        with pytest.raises(SprigError, match="not a checkpoint"):
            checkpoint.load(folder, "cpu")
    checkpoint.save(tiny.teacher("gpt_neox"), tmp_path / "other", None, tokenizer)
    (folder / "lit_model.pth").write_bytes((tmp_path / "other" / "lit_model.pth").read_bytes())
    with pytest.raises(SprigError, match="not a checkpoint"):
        checkpoint.load(folder, "cpu")


@pytest.mark.parametrize("damage", ["empty", "half", "one byte", "text"])
def test_kept_work_that_was_damaged_is_done_again(tmp_path, damage, caplog):
    file, work = tmp_path / "checkpoints" / "layer-0.pt", {"weights": torch.arange(1000.0)}
    assert checkpoint.kept(file) is None
    checkpoint.keep(work, file)
    assert torch.equal(checkpoint.kept(file)["weights"], work["weights"])
    content = bytearray(file.read_bytes())
    content[content.index(work["weights"].numpy().tobytes()) + 17] ^= 1
    file.write_bytes({"empty": b"", "half": content[: len(content) // 2], "text": b"text\n"}.get(damage, content))
    assert checkpoint.kept(file) is None
    assert "layer-0.pt cannot be read (" in caplog.text
