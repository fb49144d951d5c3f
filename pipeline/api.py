"""Sprig's Python API: the method on models in memory, for notebooks and scripts.

Models are litgpt GPTs. Blocks are int64 tensors (n, T + 1) of tokens; in each row, the first T predict the last T. All
functions raise `SprigError` with the sentence that the command line would print.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from litgpt import GPT
from torch import Tensor

from pipeline import api_inputs, api_settings
from pipeline.api_settings import settings as typed
from pipeline.artifacts import digest
from pipeline.config import (
    BinConfig,
    DataConfig,
    DeepSpeedConfig,
    DistillConfig,
    ExportConfig,
    ExportForm,
    Layers,
    SearchConfig,
    SpaceConfig,
    TeacherConfig,
    to_plain,
)
from pipeline.data.blocks import Blocks
from pipeline.errors import SprigError
from pipeline.models import checkpoint, extraction, ordering, reconstruction
from pipeline.models.export import folder as export_folder
from pipeline.models.families import architecture_of, is_tied
from pipeline.models.perplexity import mean_nll
from pipeline.models.recovery.recover import Report, Settings
from pipeline.models.recovery.recover import recover as recover_in_place
from pipeline.models.tokenizer import Tokenizer
from pipeline.places import in_one_sentence
from pipeline.plan.epochs import MOST
from pipeline.search.evaluator import Evaluator
from pipeline.search.once import search_once
from pipeline.search.strategies.registry import make as make_strategy
from pipeline.stages import prepare
from pipeline.stages.context import Context
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.bins import make_bin
from pipeline.subnetwork.selection import Ordering, select
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork
from pipeline.training.distill import distill as train
from pipeline.training.throughput import flops_of

BATCH = 8  # blocks per forward pass


@dataclass(frozen=True)
class Teacher:
    """A frozen model in fp32, and the folder with its tokenizer files. To use a model that is already in memory, create
    `Teacher(model, folder)`."""

    model: GPT
    folder: Path
    config: TeacherConfig | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self.folder)


@dataclass(frozen=True)
class Text:
    """A text as token blocks, in splits that share no document. `text.train.evenly(16)` returns 16 evenly spaced blocks
    of a split as one tensor."""

    train: Blocks
    validation: Blocks
    calibration: Blocks


@dataclass(frozen=True)
class Found:
    """The result of a search. `fitness` is the perplexity of the untrained sub-network on the search's blocks, or with
    fitness="kl" its KL divergence from the teacher, in nats per token. `evaluated` counts the candidates, and
    `architecture` is the teacher's."""

    subnetwork: SubNetwork
    fitness: float
    ordering: Ordering
    evaluated: int
    architecture: Architecture


@in_one_sentence
@torch.inference_mode(False)  # its weights can be trained, even if made under inference_mode
def load_teacher(teacher: str, outputs: str | Path = "outputs", device: str = "cpu") -> Teacher:
    """Loads a teacher by its name in `conf/teacher`, such as "smollm2-135m", or from a Hugging Face folder, a litgpt
    folder or a GGUF file.

    The teacher is converted once and kept in `outputs`, in the store that runs use.
    """
    api_inputs.check_device(device)
    own = api_inputs.path_of("teacher", teacher)
    config = api_inputs.quickstart("teacher", None if own else teacher, outputs)
    given = api_inputs.teacher_at(own) if own else config.teacher
    context = Context(config, log=lambda line: None)
    recipe = prepare.teacher_recipe(context, given)
    folder = context.store.obtain(recipe, partial(prepare.make_teacher, context, recipe, config=given))
    return Teacher(checkpoint.load(folder, device).eval().requires_grad_(False), folder, given)


@in_one_sentence
def load_text(text: str, teacher: Teacher, block_size: int = 256, outputs: str | Path = "outputs") -> Text:
    """Loads a text by its name in `conf/data`, such as "sotu", or from a file or folder of plain text, as blocks of
    `block_size` tokens of the teacher's tokenizer. The prepared blocks are kept in `outputs`."""
    api_inputs.check_teacher(teacher)
    if teacher.config is None:
        raise SprigError("load_text needs a teacher of load_teacher, whose configuration identifies the tokenizer.")
    own = api_inputs.path_of("data", text)
    config = api_inputs.quickstart("data", None if own else text, outputs)
    given = api_inputs.text_at(own) if own else to_plain(config.data)
    config.data = typed(DataConfig, "data", given | {"block_size": block_size})
    config.teacher, longest = teacher.config, teacher.model.config.block_size
    prepare.check_block_size(config.data.block_size, "teacher", config.teacher.name, longest)
    context = Context(config, log=lambda line: None)
    recipe = prepare.tokens_recipe(context)
    make = partial(prepare.make_tokens, context, recipe, teacher=prepare.teacher_recipe(context, teacher.config))
    folder = context.store.obtain(recipe, make)
    return Text(*(Blocks(folder, split) for split in ("train", "validation", "calibration")))


def importance(teacher: GPT, blocks: Tensor) -> Ordering:
    """Ranks the teacher's embedding entries, heads and MLP neurons by their activations on `blocks`, and its layers by
    how much they change the hidden state."""
    blocks = api_inputs.tokens(teacher, blocks)
    fingerprint = digest([list(blocks.shape), int(blocks.sum())])
    return ordering.importance(teacher, blocks, api_inputs.precision(teacher), BATCH, fingerprint)


class SearchSpace(Space):
    """The sub-networks of a teacher whose parameter count lies in `low`..`high`. `count` is as bin.count; other
    keywords are the keys of `space` in the configuration, such as layers="rank" or hold=["n_embd"]."""

    ordering: Ordering  # the teacher's own, if none is given

    def __init__(
        self, teacher: GPT, low: int, high: int, ordering: Ordering | None = None, count: str = "total", **space: Any
    ) -> None:
        architecture = api_inputs.architecture_for(teacher, ordering)
        within = make_bin(typed(BinConfig, "bin", {"low": low, "high": high, "count": count}))
        config = typed(SpaceConfig, "space", space)
        if config.layers == Layers.rank and ordering is None:
            raise SprigError("space.layers=rank needs an ordering: give that of importance(teacher, blocks).")
        super().__init__(architecture, config, within, ordering or Ordering.identity(architecture))

    def contains(self, sub: SubNetwork) -> bool:
        api_inputs.check_type("sub", sub, SubNetwork, "a sub-network, such as found.subnetwork")
        return super().contains(sub)

    def sample(self, rng: np.random.Generator) -> SubNetwork:
        api_inputs.check_drawing(self, rng)
        return super().sample(rng)

    def mutate(self, parent: SubNetwork, rng: np.random.Generator, gene_rate: float, global_rate: float) -> SubNetwork:
        api_inputs.check_drawing(self, rng, parent)
        if not all(isinstance(rate, Real) and 0 <= rate <= 1 for rate in (gene_rate, global_rate)):
            raise SprigError(f"gene_rate={gene_rate} and global_rate={global_rate} must be numbers in 0..1.")
        return super().mutate(parent, rng, gene_rate, global_rate)

    def crossover(self, a: SubNetwork, b: SubNetwork, rng: np.random.Generator) -> SubNetwork:
        api_inputs.check_drawing(self, rng, a, b)
        return super().crossover(a, b, rng)


@torch.inference_mode(False)  # allocation needs gradients, even under no_grad
def find(teacher: GPT, space: SearchSpace, blocks: Tensor, seed: int = 0, **settings: Any) -> Found:
    """Searches the space for the sub-network with the lowest loss on `blocks` before any training. Other keywords are
    the keys of `search` in the configuration, such as strategy="evolution", population=12, generations=3; without any,
    evolution evaluates 5,050 candidates. strategy="importance", the command line's default, evaluates one, and needs
    SearchSpace(..., layers="rank"). "allocation" also measures its errors on `blocks`. Four keys are not keywords:
    path, rerank and random_baseline are for runs alone, as is strategy="given", and search.blocks is the number of
    `blocks`. To cut a sub-network of your own, give extract a `Found` of it."""
    api_inputs.check_space(teacher, space)
    blocks, seed = api_inputs.tokens(teacher, blocks), api_settings.seed(seed)
    config = typed(SearchConfig, "search", {"blocks": len(blocks), "batch": min(BATCH, len(blocks)), **settings})
    length = blocks.size(1) - 1
    known, errors, before = space.ordering, None, 0
    if config.reads_errors:
        errors = reconstruction.measure(teacher, known, blocks, api_inputs.precision(teacher), config.batch)
        before = reconstruction.flops(space.architecture, len(blocks), length)
    evaluator = Evaluator(teacher, known, blocks, api_inputs.precision(teacher), config.batch, fitness=config.fitness)
    strategy = make_strategy(config, space, seed, errors)
    best, spent = search_once(config, strategy, evaluator, space.architecture, length, before)
    return Found(best.subnetwork, best.fitness, known, spent.evaluations, space.architecture)


@torch.inference_mode(False)  # as load_teacher
def extract(teacher: GPT, found: Found) -> GPT:
    """Cuts the student out of the teacher. It is in fp32 on the teacher's device, and has the teacher's weights."""
    api_inputs.check_found(teacher, found)
    return extraction.extract(teacher, found.subnetwork, found.ordering).float()


def recover(teacher: GPT, student: GPT, found: Found, blocks: Tensor) -> Report:
    """Refits the student's projections in closed form to the teacher's activations on `blocks`, in place."""
    architecture, blocks = api_inputs.check_found(teacher, found), api_inputs.tokens(teacher, blocks)
    api_inputs.check_extract(student, architecture, found.subnetwork)
    selection = select(found.subnetwork, architecture, found.ordering)
    settings = Settings(batch=BATCH, precision=api_inputs.precision(teacher))
    return recover_in_place(teacher, student, found.subnetwork, selection, blocks, settings)


@in_one_sentence
@torch.inference_mode(False)  # gradients, even under no_grad
def distill(
    teacher: GPT,
    student: GPT,
    blocks: Blocks,
    validation: Tensor,
    tokens: int,
    seed: int = 0,
    log: Callable[[dict[str, Any]], None] = lambda line: None,
    repeat: bool = False,
    **settings: Any,
) -> list[tuple[int, float]]:
    """Trains the student in place on the first `tokens` of a seeded permutation of `blocks`, with the teacher's
    distribution as the target. Keywords are the keys of `distill` in the configuration, such as lr=3e-4 or
    temperature=2.0; init, from_run, control, cache and checkpoint are for runs alone. `log` receives each line of
    metrics. `repeat` allows more than four passes over `blocks`.

    Returns:
        The validation curve as (tokens, nats per token), starting at token 0.
    """
    api_inputs.check_type("log", log, Callable, "a function of a line of metrics")
    api_inputs.check_trainable(teacher, student)
    api_inputs.check_split(blocks)
    validation, seed = api_inputs.tokens(student, validation), api_settings.seed(seed)
    config = typed(DistillConfig, "distill", {"tokens": tokens, **settings})
    config.checkpoint.tokens, config.checkpoint.minutes = config.tokens, None  # only the last step's, which is dropped
    if not repeat:
        api_inputs.check_passes(config.tokens, len(blocks) * blocks.block_size, MOST)
    curve: list[tuple[int, float]] = []

    def keep(line: dict[str, Any]) -> None:
        if "validation_nll" in line:
            curve.append((line["tokens"], line["validation_nll"]))
        log(line)

    precision, device = api_inputs.precision(teacher), next(teacher.parameters()).device
    with TemporaryDirectory() as folder:
        train(
            student,
            teacher if config.distils else None,
            None,
            blocks,
            config,
            lr=config.lr,
            deepspeed=DeepSpeedConfig(),
            seed=seed,
            precision=precision,
            device=device,
            folder=Path(folder),
            run="api",
            flops=flops_of(teacher, student, blocks.block_size),
            validate=partial(mean_nll, blocks=validation, batch=BATCH, precision=precision),
            log=keep,
        )
    return curve


def perplexity(model: GPT, blocks: Tensor) -> float:
    """exp(mean negative log-likelihood per token) on `blocks`."""
    blocks = api_inputs.tokens(model, blocks)
    nll = mean_nll(model.eval(), blocks, BATCH, api_inputs.precision(model))
    return float(torch.tensor(nll, dtype=torch.float64).exp())


@in_one_sentence
def export(student: GPT, teacher: Teacher, to: str | Path, blocks: Tensor, form: str = "auto") -> ExportForm:
    """Writes the student as a Hugging Face folder, if transformers computes the same logits on `blocks`.

    Returns:
        The chosen form: stock, padded or own (see docs/use-the-student.md).
    """
    api_inputs.check_fp32(student)
    api_inputs.check_teacher(teacher)
    blocks, to = api_inputs.tokens(student, blocks), api_inputs.destination(to)
    export_folder.refuse_other(student, architecture_of(teacher.model.config, is_tied(teacher.model)))
    chosen = typed(ExportConfig, "export", {"to": str(to), "form": form}).form
    card = f"# {to.name}\n\nCut out of {teacher.model.config.name} with Sprig.\n"
    return export_folder.export(
        student.cpu(), Path(teacher.folder), to, chosen, blocks[:, :-1], lambda form, config: card
    ).form
