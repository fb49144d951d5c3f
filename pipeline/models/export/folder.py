"""A student as a transformers folder: written next to its destination, checked, and only then moved there."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from litgpt import GPT
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.artifacts import digest, file_sha256
from pipeline.artifacts.runs import refuse_inside
from pipeline.config import Dtype, ExportForm, GGUFKind
from pipeline.errors import SprigError
from pipeline.models.blocks import sizes
from pipeline.models.export import gguf, own, stock
from pipeline.models.export.check import check, check_gguf, require_transformers
from pipeline.models.families import architecture_of, is_tied
from pipeline.models.tokenizer import Tokenizer, read_json, write_json
from pipeline.models.writing import writing
from pipeline.places import refuse_unwritable
from pipeline.subnetwork.architecture import Architecture

OWN = "use export.form=own"
KEPT = ("family", "name", "vocab_size", "padded_vocab_size", "context")  # of a teacher, by every cut
_PREFIX, _LOCK, _EXPORT = ".unchecked-", "lock", "sprig_export"
# What is in the digest of an export, next to its mark.
_DIGESTED = (
    "README.md",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    own.MODELING.name,
)
_DIGEST = "sprig"  # its key in the metadata of the weights, or of their index


@dataclass(frozen=True)
class Published:
    """The form that was taken, and the largest difference between a logit of the student and transformers' own."""

    form: ExportForm
    difference: float


def refuse_existing(to: Path) -> None:
    """Raises SprigError where there is something already: an export overwrites nothing."""
    if to.exists() or to.is_symlink():
        raise SprigError(f"export.to={to} exists: name a folder that does not, or remove it.")


def holds(to: Path, mark: str) -> bool:
    """Whether `to` is an export with this `mark`, has all its weights, and no file next to them was changed since."""
    index, weights = to / "model.safetensors.index.json", to / "model.safetensors"
    try:
        if index.is_file():
            listed = read_json(index)
            metadata, names = listed["metadata"], set(listed["weight_map"].values())
        else:
            with safe_open(weights, "pt") as opened:
                metadata, names = opened.metadata(), set()
        return metadata[_DIGEST] == _digest(to, mark) and all((to / name).is_file() for name in names)
    except (OSError, SafetensorError, SprigError, LookupError, TypeError, AttributeError):
        return False


def _digest(folder: Path, mark: str) -> str:
    there = [folder / name for name in _DIGESTED if (folder / name).exists()]
    return digest([mark, {file.name: file_sha256(file) for file in there}])


def refuse_other(student: GPT, teacher: Architecture, kept: tuple[str, ...] = KEPT) -> None:
    """Raises SprigError where the student cannot be cut out of this teacher, whose tokenizer and name it would get."""
    own = architecture_of(student.config, is_tied(student))
    for name in kept:
        if (ours := getattr(own, name)) != (theirs := getattr(teacher, name)):
            raise SprigError(
                f"The student's {name} is {ours}, but that of teacher {teacher.name} is {theirs}: export it with the "
                "teacher that it was cut out of."
            )


def export(
    student: GPT,
    tokenizer: Path,
    to: Path,
    form: ExportForm,
    blocks: Tensor,
    card: Callable[[ExportForm, dict], str],
    kind: GGUFKind = GGUFKind.none,
    dtype: Dtype = Dtype.fp32,
    mark: str | None = None,
) -> Published:
    """Publishes the student (fp32, on the CPU) at `to`, with the tokenizer of folder `tokenizer`.

    `blocks` (n, T) are the tokens that it is checked on; `card` gives README.md for the form that was taken and
    its config.json. With a GGUF `kind` the folder holds <name>-<kind>.gguf too. Weights are rounded to `dtype` after
    the check, which compares those of the student. `mark` is what `holds` asks for.

    Returns:
        With the form that was asked for, or the first of stock, padded and own that can hold the student.

    Raises:
        SprigError: the form cannot hold the student, `to` exists, lies in a store or run, or cannot be made, or
            transformers is missing or computes other logits.
    """
    refuse_existing(to)
    refuse_inside("export.to", to)
    refuse_unwritable("export.to", to)
    require_transformers()
    if kind != GGUFKind.none:
        gguf.refuse(architecture_of(student.config, is_tied(student)))
    taken, config, state = _in_form(student, form, kind)
    to.parent.mkdir(parents=True, exist_ok=True)
    with _unchecked(to.parent) as unchecked:
        if taken == ExportForm.own:
            shutil.copyfile(own.MODELING, unchecked / own.MODELING.name)
        (unchecked / "README.md").write_text(card(taken, config), encoding="utf-8")
        _write(unchecked, config, state, tokenizer, mark)
        difference = check(student.eval(), unchecked, Tokenizer(tokenizer), blocks)
        if kind != GGUFKind.none:
            file = unchecked / gguf.file_name(to.name, kind)
            gguf.write(file, to.name, config, state, tokenizer, kind)
            check_gguf(file, kind, unchecked, Tokenizer(tokenizer), blocks)
        if dtype == Dtype.bf16:
            _round(unchecked, state, mark)
        refuse_existing(to)  # once more: checking takes its time
        unchecked.rename(to)
    return Published(taken, difference)


@contextmanager
def _unchecked(parent: Path) -> Iterator[Path]:
    """An empty folder next to the export's place, removed at the end. A killed export leaves its own, which the next
    one removes: nobody holds its lock any more."""
    for left in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        # Another's folder, or one that an export still works in.
        with suppress(OSError, Timeout):
            if {each.name for each in left.parent.iterdir()} == {_LOCK, _EXPORT}:
                with FileLock(left, blocking=False):
                    shutil.rmtree(left.parent)
    with tempfile.TemporaryDirectory(dir=parent, prefix=_PREFIX) as place, FileLock(Path(place) / _LOCK):
        # transformers keeps a copy of a modelling file by its folder's name: one name, or the copies would pile up.
        unchecked = Path(place) / _EXPORT
        unchecked.mkdir()
        yield unchecked


def _in_form(student: GPT, form: ExportForm, kind: GGUFKind) -> tuple[ExportForm, dict, dict[str, Tensor]]:
    """The form that is taken, its config.json and its weights."""
    if form != ExportForm.own:
        try:
            common = stock.target(student, OWN if kind == GGUFKind.none else gguf.CURE)
            unpadded = all(sizes(block) == common.sizes for block in student.transformer.h)
            if form == ExportForm.stock and not unpadded:
                raise SprigError(
                    f"{student.config.name} needs zeros to fit a stock class, which export.form=stock does not add: "
                    "use export.form=padded, or own."
                )
            taken = ExportForm.stock if unpadded else ExportForm.padded
            return taken, stock.config_json(student, common), stock.state_dict(student, common)
        except SprigError:
            if form != ExportForm.auto or kind != GGUFKind.none:
                raise
    return ExportForm.own, own.config_json(student), own.state_dict(student)


def _write(folder: Path, config: dict, state: dict[str, Tensor], tokenizer: Path, mark: str | None) -> None:
    """Weights in shards of at most 5 GB, configurations and tokenizer."""
    entries = Tokenizer(tokenizer)
    special, numbers = _special(entries, config["vocab_size"])
    write_json(folder / "generation_config.json", {"do_sample": False} | numbers)
    shutil.copyfile(tokenizer / "tokenizer.json", folder / "tokenizer.json")
    write_json(
        folder / "tokenizer_config.json",
        special
        | {
            # Another class would build its own tokenizer from the vocabulary alone, whatever tokenizer.json says.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": config["max_position_embeddings"],
        },
    )
    _write_model(folder, config | numbers, state, mark)


def _write_model(folder: Path, config: dict, state: dict[str, Tensor], mark: str | None) -> None:
    """The weights last: they hold the digest of all else."""
    from huggingface_hub import save_torch_state_dict

    write_json(folder / "config.json", config)
    with writing(folder):
        save_torch_state_dict(state, folder, metadata={_DIGEST: _digest(folder, mark)} if mark else {})
    for file in folder.glob("*.safetensors"):  # safetensors lets nobody else read them
        file.chmod((folder / "config.json").stat().st_mode)


def _round(folder: Path, state: dict[str, Tensor], mark: str | None) -> None:
    """Writes the weights again in bf16."""
    config = read_json(folder / "config.json") | {"dtype": "bfloat16", "torch_dtype": "bfloat16"}
    _write_model(folder, config, {name: each.bfloat16() for name, each in state.items()}, mark)


def _special(entries: Tokenizer, rows: int) -> tuple[dict[str, Any], dict[str, int | list[int] | None]]:
    """The teacher's special tokens for tokenizer_config.json, and their numbers for config.json and
    generation_config.json: those that the embedding has `rows` for. If nothing pads, what ends a text does."""
    named, given = entries.special_tokens(), entries.special_numbers()
    ends = given.get("eos_token_id", [])
    ends = [each for each in (ends if isinstance(ends, list) else [ends]) if each < rows and each != entries.eos_id]
    pad = entries.id_of(named["pad_token"]) if "pad_token" in named else given.get("pad_token_id", rows)
    pad = pad if pad < rows else entries.eos_id
    begin = given.get("bos_token_id", rows) if entries.bos_id is None else entries.bos_id
    numbers: dict[str, int | list[int] | None] = {
        "bos_token_id": begin if begin < rows else None,
        "eos_token_id": [entries.eos_id, *ends] if ends else entries.eos_id,
        "pad_token_id": pad,
    }
    return named | {"pad_token": entries.token_of(pad)}, numbers
