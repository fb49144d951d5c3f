"""Checkpoints of a training in `<folder>/checkpoints/<step>`, the newest few kept.

A checkpoint is what `pipeline.training.state` yields, as safetensors, and a small JSON file with the checksums of that
and of the metrics so far. It fits any number of ranks and any ZeRO stage. There is no random state to keep: every draw
comes from (seed, purpose, counter).
"""

import hashlib
import json
import logging
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.artifacts import copy_atomically, digest, file_sha256, sync_folder, write_json
from pipeline.errors import SprigError
from pipeline.models.writing import writing
from pipeline.ranks import rank
from pipeline.training.distributed import broadcast
from pipeline.training.engine import Engine
from pipeline.training.metrics import METRICS
from pipeline.training.state import restore, tensors

_TENSORS, _PROGRESS = "state.safetensors", "progress.json"
_SHA256 = "sha256"  # in progress.json, of each file by its name; earlier versions of Sprig wrote none

log = logging.getLogger("sprig")


@dataclass(frozen=True)
class Position:
    """How far a training is.

    Args:
        step: optimizer steps done.
        metrics_bytes: what metrics.jsonl had then.
        run: the fingerprint of what is trained.
        skipped: how many of the steps were left out, because their loss or gradient was not finite.
    """

    step: int = 0
    metrics_bytes: int = 0
    run: str = ""
    skipped: int = 0


def _folders(root: Path) -> list[Path]:
    """Checkpoints, newest first; what a kill left half-written has another kind of name."""
    found = (root / "checkpoints").glob("*")
    return sorted((path for path in found if path.name.isdigit()), key=lambda path: int(path.name), reverse=True)


def in_background(device: torch.device) -> bool:
    """On a CPU a copy would take 12 bytes per parameter of the memory that trains, and a thread its cores."""
    return device.type == "cuda"


class Writer:
    """Writes the checkpoints of one training, each in one rename, and removes all but the newest `keep`.

    Next to a training on a GPU, a thread of rank 0 writes them from a copy in host memory. The next checkpoint waits
    for it, and so does leaving the context. All ranks call every method.
    """

    def __init__(self, root: Path, keep: int, device: torch.device):
        self.root, self.keep = root, keep
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if in_background(device) else None
        self.begun: Future[None] | None = None

    def __enter__(self) -> "Writer":
        return self

    def save(self, engine: Engine, position: Position, at_once: bool) -> None:
        """Takes the state. `at_once`: it is on disk when this returns.

        Raises:
            OSError: this checkpoint or the one before could not be written.
        """
        self.finish()
        own = self.thread is not None  # what training changes meanwhile must not change it
        state = {f"{kind}/{name}": value.to("cpu", copy=own) for kind, name, value in tensors(engine) if rank() == 0}
        if rank() == 0:
            if self.thread is not None and not at_once:
                self.begun = self.thread.submit(_write, state, self.root, position, self.keep)
            else:
                _write(state, self.root, position, self.keep)

    def check(self) -> None:
        """Raises OSError where a checkpoint could not be written meanwhile."""
        if self.begun is not None and self.begun.done():
            self.finish()

    def finish(self) -> None:
        """Waits for the checkpoint that is being written; raises as `check`."""
        begun, self.begun = self.begun, None
        if begun is not None:
            begun.result()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.finish()
        except OSError as error:
            if kind is None:
                raise
            log.warning("A checkpoint could not be written: %s", error)  # next to what ends the training
        finally:
            if self.thread is not None:
                self.thread.shutdown()


def _write(state: dict[str, Tensor], root: Path, position: Position, keep: int) -> None:
    folder = root / "checkpoints" / str(position.step)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with writing(partial / _TENSORS):
            save_file({name: value.contiguous() for name, value in state.items()}, partial / _TENSORS)
        with (partial / _TENSORS).open("rb") as file:
            os.fsync(file.fileno())
        checksums = _checksums(partial, root, position)
        write_json(partial / _PROGRESS, asdict(position) | {_SHA256: checksums})
    except OSError:  # what is half written would keep a full disk full
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(partial)
    shutil.rmtree(folder, ignore_errors=True)  # unreadable, or it would not be written again
    partial.rename(folder)
    sync_folder(folder.parent)
    # A later one could not be read, or training would have resumed from it: it does not count.
    for old in [each for each in _folders(root) if int(each.name) <= position.step][keep:]:
        shutil.rmtree(old)


def latest(root: Path) -> Path | None:
    """The newest checkpoint that is intact, as are the metrics before it; others are skipped, with a warning."""
    for folder in _folders(root):
        try:
            _check(folder, root)
            return folder
        except (OSError, SafetensorError, ValueError, TypeError) as error:
            log.warning("Checkpoint %s cannot be read (%s): using the previous one.", folder, error)
    return None


def _check(folder: Path, root: Path) -> None:
    """Raises what reading a torn file raises, and ValueError where a byte is not the one that was written."""
    position, wanted = _read(folder)
    with safe_open(folder / _TENSORS, "pt"):
        pass
    found = _checksums(folder, root, position)
    for name, sha256 in wanted.items():
        if found.get(name) != sha256:
            raise ValueError(f"{name} was changed")


def _checksums(folder: Path, root: Path, position: Position) -> dict[str, str]:
    return {
        _TENSORS: file_sha256(folder / _TENSORS),
        _PROGRESS: digest(asdict(position)),
        METRICS: _sha256_so_far(root, position),
    }


def _sha256_so_far(root: Path, position: Position) -> str:
    """Of the metrics up to this position.

    Raises:
        ValueError: there are fewer.
    """
    if not position.metrics_bytes:
        return hashlib.sha256().hexdigest()
    with (root / METRICS).open("rb") as file:
        content = file.read(position.metrics_bytes)
    if len(content) < position.metrics_bytes:
        raise ValueError(f"{METRICS} has only {len(content):,} of {position.metrics_bytes:,} bytes")
    return hashlib.sha256(content).hexdigest()


def publish(root: Path, step: int) -> None:
    """Moves a step's checkpoint next to metrics.jsonl, where `resume` of another training finds both in `begin`."""
    for name in (_TENSORS, _PROGRESS):
        (root / "checkpoints" / str(step) / name).replace(root / name)


def read_position(folder: Path) -> Position:
    """How far the training was that wrote this checkpoint."""
    return _read(folder)[0]


def _read(folder: Path) -> tuple[Position, dict[str, str]]:
    """A checkpoint's position, and its checksums by name."""
    found = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{_PROGRESS} is not a checkpoint's")
    checksums = dict(found.pop(_SHA256, {}))
    return Position(**found), checksums


def resume(engine: Engine, root: Path, run: str, begin: Path | None = None) -> Position:
    """Puts the newest readable checkpoint into the engine; how far it is (nowhere, where there is none).

    All ranks call it; rank 0 chooses. Where `root` has no checkpoint, `begin`, which `publish` has made, is the one;
    its metrics are copied.

    Raises:
        SprigError: the checkpoint is of another run.
    """
    own = latest(root) if rank() == 0 else None
    if begin is not None and own is None and rank() == 0:
        root.mkdir(parents=True, exist_ok=True)
        copy_atomically(begin / METRICS, root / METRICS)
    folder, foreign = broadcast((own or begin, own is None))
    if folder is None:
        return Position(run=run)
    position = read_position(folder)
    if position.run != run and not foreign:
        raise SprigError(
            f"Checkpoint {folder} is of run {position.run}, not of {run}: remove {folder.parent}, or put back the "
            "right ones."
        )
    with safe_open(folder / _TENSORS, "pt") as file:
        restore(engine, lambda kind, name: file.get_tensor(f"{kind}/{name}"), position.step - position.skipped)
    return position
