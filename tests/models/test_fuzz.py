"""Teacher files with random mistakes: one sentence, or the model that transformers reads from the same files.

A few mutations of each kind run by default, and many in the slow tests. All are drawn from seeds.
"""

import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import test_gguf
import test_huggingface
import torch
from transformers import AutoModelForCausalLM

from pipeline.config import TeacherConfig
from pipeline.errors import SprigError
from pipeline.models import checkpoint, sources

FEW, MANY = range(12), range(12, 400)
VALUES = [None, True, False, -1, 0, 1, 2, 3, 7, 64, 10**6, 10**30, 0.5, -0.5, 1e-30, 1e30, float("nan"), float("inf")]
VALUES += ["", "x", "64", "float16", [], [1], {}, {"rope_type": "linear"}, [None] * 3]


def change_fields(file: Path, rng: random.Random) -> None:
    """Other values for one or two keys, or a key left out, at any depth."""
    content = json.loads(file.read_text())
    for _ in range(rng.choice((1, 1, 2))):
        place = content
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = rng.choice(keys)
            if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.4:
                break
            place = place[key]
        if rng.random() < 0.15:
            del place[key]
        else:
            place[key] = rng.choice(VALUES)
        if not content:
            break
    file.write_text(json.dumps(content))


def change_bytes(content: bytearray, rng: random.Random, within: int) -> bytearray:
    """Some bytes flipped, left out or added in the first `within` ones, or an end cut off."""
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, kind = rng.randrange(min(within, len(content))), rng.random()
        if kind < 0.6:
            content[at] = rng.randrange(256)
        elif kind < 0.75:
            del content[at : at + rng.choice((1, 4, 100))]
        elif kind < 0.9:
            content[at:at] = rng.randbytes(rng.choice((1, 4, 100)))
        else:
            del content[rng.randrange(len(content)) :]
    return content


def safetensors_header(file: Path, rng: random.Random) -> None:
    """Fields of the header, which stays well-formed JSON of the length it names."""
    content = file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = file.with_suffix(".json")
    header.write_bytes(content[8 : 8 + size])
    change_fields(header, rng)
    changed = header.read_bytes()
    header.unlink()
    file.write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + size :])


def bytes_of(name: str, within: int) -> Callable[[Path, random.Random], None]:
    def mutate(folder: Path, rng: random.Random) -> None:
        file = folder / name
        file.write_bytes(change_bytes(bytearray(file.read_bytes()), rng, within))

    return mutate


MUTATIONS: dict[str, Callable[[Path, random.Random], None]] = {
    "fields of config.json": lambda folder, rng: change_fields(folder / "config.json", rng),
    "bytes of config.json": bytes_of("config.json", 10**6),
    "fields of the weights' header": lambda folder, rng: safetensors_header(folder / "model.safetensors", rng),
    "bytes of the weights' header": bytes_of("model.safetensors", 3_000),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A transformers folder of each of two families, and a GGUF file."""
    folder = tmp_path_factory.mktemp("saved")
    for name in ("llama", "neox"):
        test_huggingface.make(name).save_pretrained(folder / name)
    (folder / "gguf").mkdir()
    test_gguf.write(test_gguf.make(tied=False), folder / "gguf/model.gguf")
    return {name: folder / name for name in ("llama", "neox", "gguf")}


@torch.no_grad()
def holds(teacher: TeacherConfig, place: Path, seed: int) -> None:
    """One sentence, or a model with the logits of transformers, if that loads the files at all."""
    try:
        described = sources.describe(teacher)
        sources.convert(teacher, place / "ours")
    except SprigError as error:
        sentence = str(error)
        assert sentence.rstrip().endswith(".") and "\n" not in sentence and "Traceback" not in sentence, (
            seed,
            sentence,
        )
        return
    ours = checkpoint.load(place / "ours", "cpu").eval()
    assert described.n_layer == ours.config.n_layer, seed
    size, length = min(ours.config.vocab_size, 250), min(ours.config.block_size, 20)
    tokens = torch.randint(0, size, (1, length), generator=torch.Generator().manual_seed(0))
    found = ours(tokens)
    try:
        if teacher.source == "gguf":
            theirs = AutoModelForCausalLM.from_pretrained(place, gguf_file="model.gguf", dtype=torch.float32).eval()
        else:
            theirs = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
        wanted = theirs(tokens).logits
    except Exception:  # whatever it raises on a broken file
        return
    assert torch.allclose(found, wanted[..., : found.shape[-1]], atol=1e-3, equal_nan=True), seed


def folder_holds(kind: str, family: str, seed: int, saved: dict[str, Path], tmp_path: Path) -> None:
    place = shutil.copytree(saved[family], tmp_path / f"{family}-{seed}")
    MUTATIONS[kind](place, random.Random(f"{kind} {seed}"))
    holds(test_huggingface.teacher(place), place, seed)


def gguf_holds(seed: int, saved: dict[str, Path], tmp_path: Path) -> None:
    place = shutil.copytree(saved["gguf"], tmp_path / f"gguf-{seed}")
    bytes_of("model.gguf", 9_000)(place, random.Random(seed))
    holds(test_gguf.teacher(place / "model.gguf"), place, seed)


@pytest.mark.parametrize("kind", MUTATIONS)
def test_a_mutated_folder_is_refused_or_means_what_it_says(kind, saved, tmp_path):
    for seed in FEW:
        folder_holds(kind, "llama" if seed % 2 else "neox", seed, saved, tmp_path)


def test_a_mutated_gguf_file_is_refused_or_means_what_it_says(saved, tmp_path):
    for seed in FEW:
        gguf_holds(seed, saved, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MUTATIONS)
def test_many_mutated_folders(kind, saved, tmp_path):
    for seed in MANY:
        folder_holds(kind, "llama" if seed % 2 else "neox", seed, saved, tmp_path)


@pytest.mark.slow
def test_many_mutated_gguf_files(saved, tmp_path):
    for seed in MANY:
        gguf_holds(seed, saved, tmp_path)
