"""Students of tiny random teachers in every shape that an export must hold."""

import dataclasses
import subprocess
import sysconfig
import venv
from pathlib import Path

import tiny
import torch
from litgpt import GPT, Config

from pipeline.config import ExportForm, GGUFKind
from pipeline.models.export import folder
from pipeline.models.extraction import extract
from pipeline.models.families import architecture_of, is_tied
from pipeline.models.student import build
from pipeline.models.tokenizer import write_bytes
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.value import LayerGenes, SubNetwork

# The byte tokenizer's vocabulary, with rows of padding, and room for 32 more tokens. No stock class has a head bias.
_CHANGES = {"block_size": 64, "vocab_size": 257, "padded_vocab_size": 288, "lm_head_bias": False}


def teacher(family: str, tied: bool, **changes) -> GPT:
    model = tiny.randomize(build(Config(**tiny.CONFIGS[family] | _CHANGES | changes), None, tied))
    with torch.no_grad():  # never the likeliest token: 32 are compared
        model.lm_head.weight[256] = 0
    return model


def uniform(family: str, cut_head: bool, **changes) -> SubNetwork:
    """Two layers alike, of less width; GPT-NeoX's heads x head size are its width."""
    if family == "gpt_neox":
        gene, width = LayerGenes(3, 1, 16 if cut_head else 32, 40), 48 if cut_head else 96
    else:
        gene, width = tiny.gene(family, 2, 2, 10 if cut_head else 16, 24), 40
    return SubNetwork((0, 2), width, (gene, gene), **changes)


def layerwise(family: str, cut_head: bool, **changes) -> SubNetwork:
    """Three layers that differ in all sizes; with qk-norm not in the head size, which padding could not follow."""
    same = dict.fromkeys(("qwen3", "olmo2", "qwen3_moe", "olmoe"), (10, 10, 10))
    heads = ({"gpt_neox": (24, 8, 16)} | same).get(family, (10, 4, 14))
    full = 32 if family == "gpt_neox" else 16
    heads = heads if cut_head else (full,) * 3
    per_group = (1, 1, 1) if family == "gpt_neox" else (2, 1, 2)
    sizes = zip((2, 3, 1), per_group, heads, (24, 16, 40), strict=True)
    width = {"gpt_neox": 96, "gemma2": 42, "gemma3": 42}.get(family, 40)  # the heads divide Gemma's
    return SubNetwork((0, 1, 2), width, tuple(tiny.gene(family, *each) for each in sizes), **changes)


def form_of(family: str, shape: str, cut_head: bool) -> str:
    """What export.form=auto takes for a `uniform` or a `layerwise` student."""
    # Mistral, which such a width needs, has no biases; and a norm of q and k over padding is another one.
    if (shape == "layerwise" and family in ("biased", "olmo2", "olmoe")) or (family == "gemma3" and cut_head):
        return "own"
    if family == "olmoe" and not cut_head:  # 4 heads of 16 are more than the width
        return "own"
    # A cut head keeps its place among Llama 3.1's frequencies, which are not a power law, with zeros for the others.
    return "padded" if shape == "layerwise" or (family == "llama3" and cut_head) else "stock"


def student(family: str, sub: SubNetwork, tied: bool, **changes) -> GPT:
    whole = teacher(family, tied, **changes)
    return extract(whole, sub, Ordering.identity(architecture_of(whole.config, is_tied(whole)))).eval()


def with_heads(sub: SubNetwork, *sizes: int) -> SubNetwork:
    genes = (dataclasses.replace(gene, head_size=size) for gene, size in zip(sub.genes, sizes, strict=True))
    return dataclasses.replace(sub, genes=tuple(genes))


def tokens(rows: int = 2, length: int = 24) -> torch.Tensor:
    return torch.randint(0, 256, (rows, length), generator=torch.Generator().manual_seed(1))


def tokenizer(tmp_path: Path) -> Path:
    place = tmp_path / "tokenizer"
    place.mkdir()
    write_bytes(place)
    return place


def export(student: GPT, tokenizer: Path, form: str = "auto", kind: str = "none") -> tuple[ExportForm, Path]:
    """Exports into a folder beside the tokenizer's; the form that was taken, and the folder."""
    to = tokenizer.parent / "exports" / form
    taken = folder.export(
        student, tokenizer, to, ExportForm(form), tokens(), lambda form, config: f"{form}\n", GGUFKind(kind)
    ).form
    return taken, to


def environment(version: str, place: Path) -> str:
    """Installs a version of transformers in an environment of its own, which takes everything else that it needs from
    this one; the path of its Python."""
    venv.create(place, symlinks=True)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "this.pth").write_text(sysconfig.get_path("purelib"))
    python = str(place / "bin/python")
    subprocess.run([python, "-m", "pip", "install", "-q", f"transformers=={version}"], check=True, timeout=1200)
    asked = [python, "-I", "-c", "import transformers as t; print(t.__version__)"]
    found = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    assert found == version, f"{found} instead of {version}"
    return python
