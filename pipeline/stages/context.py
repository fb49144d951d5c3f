"""What the stages of one run share: configuration, store, device, and what is loaded once."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from litgpt import GPT

from pipeline.artifacts import Recipe, Store, digest
from pipeline.artifacts.facts import Facts
from pipeline.artifacts.runs import refuse_inside
from pipeline.config import Config, DataConfig, Device, Precision, TeacherConfig, to_plain
from pipeline.config.own import code_hash, imported, is_own, running
from pipeline.data import prepare as data
from pipeline.data.blocks import Blocks
from pipeline.errors import SprigError
from pipeline.models import checkpoint, sources, vocabulary
from pipeline.models.families import register
from pipeline.models.precision import resolve_device, resolve_precision
from pipeline.models.tokenizer import Tokenizer
from pipeline.ranks import world_size
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.bins import Bin, make_bin
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork
from pipeline.training import distributed


@dataclass(frozen=True)
class Step:
    """One artifact of a run: its role in the run, what determines it, and the function that makes it.

    `agree` is set where all ranks make it together (see Store.obtain). `phase` is set where the step makes another
    artifact on its way, from which other runs can resume (see pipeline.stages.stable).
    """

    role: str
    recipe: Recipe
    make: Callable[[Path], None]
    agree: Callable[[bool], bool] | None = None
    phase: Recipe | None = None

    @property
    def stage(self) -> str:
        return self.recipe.stage


Steps = dict[str, Step]  # by role, in the order in which they are made


def _name(config: DataConfig | TeacherConfig, fact: str) -> str:
    plain = to_plain(config)
    if plain.get("family") is None:  # as in runs from before there was this key
        plain.pop("family", None)
    return f"{fact} {digest(plain)}"


class Context:
    """One run's configuration with what it needs at hand. Nothing heavy is loaded before it is asked for.

    `shared` has the facts of teachers and texts that the jobs of a sweep have in common, so each is found once. A run
    that is opened again (config.run) has the facts with which it was created.

    Raises:
        SprigError: the outputs lie in a run or a store, or the device, precision or family cannot be used.
    """

    def __init__(self, config: Config, log: Callable[[dict], None], shared: dict[str, Any] | None = None):
        self.config, self.log = config, log
        for teacher in (config.teacher, config.kd_teacher):
            register(teacher.family if teacher else None)
        refuse_inside("outputs", Path(config.outputs))
        reopened = Path(config.run) if config.run else None
        self.store = Store(Path(config.outputs) / "artifacts", reopened)
        self.facts = Facts(shared, reopened)
        # A plan runs nothing, so it may be of a machine with other hardware.
        planned = config.plan and config.device == Device.cuda
        self.device = torch.device("cuda") if planned else resolve_device(config.device)
        planned = config.plan and config.precision != Precision.auto
        self.precision = config.precision.value if planned else self._precision()
        self._teachers: dict[str, GPT] = {}
        self.micro_batch: int | None = None  # which has fitted a training of this process

    def _precision(self) -> str:
        """Never that of another job of a sweep, which may be for another device."""
        name = f"precision {self.config.precision.value}"
        found = self.facts.recalled.get(name) or resolve_precision(self.config.precision, self.device)
        self.facts.values[name] = found
        return found

    @property
    def agree(self) -> Callable[[bool], bool] | None:
        """As Step.agree: hands rank 0's decision to every rank; None where there is one process."""

        def agree(decision: bool) -> bool:
            distributed.start(self.device)
            return distributed.broadcast(decision)

        return None if world_size() == 1 else agree

    @cached_property
    def architecture(self) -> Architecture:
        """Of the teacher that is cut, with the vocabulary of space.vocabulary."""
        return self.with_vocabulary(self.config.teacher)

    @cached_property
    def kd_architecture(self) -> Architecture:
        return self.with_vocabulary(self.config.kd_teacher) if self.config.kd_teacher else self.architecture

    def with_vocabulary(self, teacher: TeacherConfig) -> Architecture:
        """With the tokens of space.vocabulary alone."""
        return vocabulary.of_size(self.describe(teacher), self.config.space.vocabulary)

    @property
    def uncut_vocabulary(self) -> int | None:
        """Tokens of the teacher's whole vocabulary; None without space.vocabulary."""
        return None if self.config.space.vocabulary is None else self.describe(self.config.teacher).vocab_size

    def describe(self, teacher: TeacherConfig) -> Architecture:
        """As its source has it, with its whole vocabulary."""
        found = self.facts.get(_name(teacher, "architecture"), lambda: sources.describe(teacher).to_dict())
        return Architecture(**found)

    @cached_property
    def bin(self) -> Bin:
        return make_bin(self.config.bin)

    @property
    def data_identity(self) -> dict:
        return self._identity(self.config.data, data.identify)

    def identity_of(self, teacher: TeacherConfig) -> dict:
        return self._identity(teacher, sources.identify)

    @property
    def tokenizer_identity(self) -> dict:
        return self._identity(self.config.teacher, sources.identify_tokenizer)

    def _identity(self, config: DataConfig | TeacherConfig, identify: Callable[..., dict]) -> dict:
        return self.facts.get(_name(config, identify.__name__), partial(identify, config))

    def check_source(self, config: DataConfig | TeacherConfig, identify: Callable[..., dict]) -> None:
        """Before work from a source of a run that is opened again.

        Raises:
            SprigError: it is not what it was when the run was created.
        """
        recalled = self.facts.recalled.get(_name(config, identify.__name__))
        if recalled is not None and recalled != json.loads(json.dumps(identify(config))):
            key = "data" if isinstance(config, DataConfig) else "teacher"
            raise SprigError(
                f"{key}.path={config.path} changed since run {self.config.run} was created, and its stage prepare was "
                f"not finished: bring the old {key} back, or start a new run with the command in .hydra/overrides.yaml."
            )

    def own_code(self, **named: str | None) -> dict[str, str]:
        """For a recipe: the hash of the code behind each key, such as `search.fitness`, that names the user's own."""
        own = {key: path for key, path in named.items() if path is not None and is_own(path)}
        return {key: self.facts.get(f"{key}={path}, code", partial(code_hash, key, path)) for key, path in own.items()}

    def space(self, ordering: Ordering) -> Space:
        own = self.config.space.type
        kind = Space if own is None else imported("space.type", own)
        if not (isinstance(kind, type) and issubclass(kind, Space)):
            raise SprigError(f"space.type={own} is not a subclass of pipeline.subnetwork.space.Space: make it one.")
        with running("space.type", own) if own else nullcontext():
            return kind(self.architecture, self.config.space, self.bin, ordering, **self.counted_at)

    def draws(self, ordering: Ordering, rng: np.random.Generator, count: int = 1) -> list[SubNetwork]:
        """Random members of the space.

        Raises:
            SprigError: as `space`; or the user's own space fails, or returns something else.
        """
        space, own = self.space(ordering), self.config.space.type
        with running("space.type", own) if own else nullcontext():
            drawn = [space.sample(rng) for _ in range(count)]
        if wrong := [each for each in drawn if not isinstance(each, SubNetwork)]:
            raise SprigError(f"space.type={own} must return a SubNetwork from sample, but returned {wrong[0]!r:.100}.")
        return drawn

    @property
    def counted_at(self) -> dict[str, int]:
        """What the limits of the space are counted at: tokens of a sequence, and bytes of an entry of the KV cache."""
        return {"length": self.config.data.block_size, "value_bytes": 4 if self.precision == "fp32" else 2}

    def made(self, recipe: Recipe) -> Path:
        """The folder of an input.

        Raises:
            SprigError: it was never made, or was changed since.
        """
        folder = self.store.find(recipe)
        if folder is None and self.config.run and not self.store.root.exists():
            raise SprigError(
                f"{self.config.run} has no result of stage {recipe.stage} ({recipe.fingerprint}) for these values, and "
                f"{self.store.root} does not exist: if it was copied, give the command for the original run, or copy "
                "its outputs folder whole; else run all its stages."
            )
        if folder is None:
            raise SprigError(
                f"Stage {recipe.stage} was never run for this configuration ({recipe.fingerprint} is not in "
                f"{self.store.root}): add it, stages=[{recipe.stage},...], or run all stages."
            )
        return folder

    def student(self, recipe: Recipe, device: torch.device) -> GPT:
        """A student of the store, in fp32."""
        return checkpoint.load(self.made(recipe), device)

    def teacher(self, recipe: Recipe, config: TeacherConfig) -> GPT:
        """A frozen teacher in its own dtype; the last one loaded is kept, for the stages that follow."""
        if recipe.fingerprint not in self._teachers:
            self._teachers = {}  # before the next one is loaded: two may not fit
            model = checkpoint.load(self.made(recipe), self.device, sources.DTYPES[config.dtype])
            self._teachers = {recipe.fingerprint: model.eval().requires_grad_(False)}
        return self._teachers[recipe.fingerprint]

    def forget_teacher(self) -> None:
        """Frees the memory of the one that was kept, where a stage does without."""
        self._teachers = {}

    def blocks(self, recipe: Recipe, split: str) -> Blocks:
        return Blocks(self.made(recipe), split)

    def evenly(self, recipe: Recipe, split: str, count: int, key: str) -> torch.Tensor:
        """`count` blocks (count, T + 1), evenly spaced over a split.

        Raises:
            SprigError: the split has fewer; `key` is the configuration's name for the count.
        """
        blocks = self.blocks(recipe, split)
        if count > len(blocks):
            raise SprigError(
                f"{key}={count}, but the {split} split of data {self.config.data.name} has {len(blocks)} blocks of "
                f"{blocks.block_size} tokens: lower {key}, raise data.{split}, or give more text."
            )
        return blocks.evenly(count)

    def tokenizer(self, recipe: Recipe) -> Tokenizer:
        return Tokenizer(self.made(recipe))
