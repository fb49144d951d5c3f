"""Sprig's Python API: the method on models in memory, for notebooks and scripts.

Models are litgpt GPTs. Blocks are int64 tensors (n, T + 1) of tokens; in each row, the first T predict the last T. All
functions raise `SprigError` with the sentence that the command line would print.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from litgpt import GPT
from omegaconf import OmegaConf
from torch import Tensor

from pipeline.artifacts import digest
from pipeline.composition import compose
from pipeline.config import (
    BinConfig,
    Config,
    Count,
    DataConfig,
    DataSource,
    DeepSpeedConfig,
    DistillConfig,
    ExportForm,
    Precision,
    SearchConfig,
    Source,
    SpaceConfig,
    TeacherConfig,
)
from pipeline.config.typed import to_typed
from pipeline.data.blocks import Blocks
from pipeline.models import checkpoint, extraction, ordering, reconstruction
from pipeline.models.export import folder as export_folder
from pipeline.models.families import architecture_of, is_tied
from pipeline.models.perplexity import mean_nll
from pipeline.models.precision import resolve_precision
from pipeline.models.recovery.recover import Report, Settings
from pipeline.models.recovery.recover import recover as recover_in_place
from pipeline.models.student import LayerwiseGPT
from pipeline.models.tokenizer import Tokenizer
from pipeline.search.budget import Budget
from pipeline.search.evaluator import Evaluator
from pipeline.search.forecast import expected
from pipeline.search.journal import Journal
from pipeline.search.loop import Search
from pipeline.search.strategies.registry import make as make_strategy
from pipeline.stages import prepare, reconstruct
from pipeline.stages.context import Context
from pipeline.subnetwork.bins import make_bin
from pipeline.subnetwork.counting import flops_per_token, parameters
from pipeline.subnetwork.selection import Ordering, select
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork
from pipeline.training.distill import distill as train
from pipeline.training.throughput import Flops

BATCH = 8  # blocks a forward pass


@dataclass(frozen=True)
class Teacher:
    """A frozen model in fp32, and the folder with its tokenizer files.

    To use a model that is already in memory, create `Teacher(model, folder)`.
    """

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
    fitness="kl" its KL divergence from the teacher, in nats per token. `evaluated` counts the candidates."""

    subnetwork: SubNetwork
    fitness: float
    ordering: Ordering
    evaluated: int


def load_teacher(teacher: str, outputs: str | Path = "outputs", device: str = "cpu") -> Teacher:
    """Loads a teacher by its name in `conf/teacher`, such as "smollm2-135m", or from a Hugging Face folder.

    The teacher is converted once and kept in `outputs`, in the store that runs use.
    """
    config = _group("teacher", teacher, outputs)
    given = config.teacher
    if Path(teacher).is_dir():
        given = TeacherConfig(name=Path(teacher).name, source=Source.hf, path=str(Path(teacher).resolve()))
    context = Context(config, log=lambda line: None)
    recipe = prepare.teacher_recipe(context, given)
    folder = context.store.obtain(recipe, partial(prepare.make_teacher, context, recipe, config=given))
    return Teacher(checkpoint.load(folder, device).eval().requires_grad_(False), folder, given)


def load_text(text: str, teacher: Teacher, block_size: int = 256, outputs: str | Path = "outputs") -> Text:
    """Loads a text by its name in `conf/data`, such as "sotu", or from a file or folder of plain text, as blocks of
    `block_size` tokens of the teacher's tokenizer. The prepared blocks are kept in `outputs`."""
    if teacher.config is None:
        raise TypeError("load_text needs a teacher of load_teacher, whose configuration identifies the tokenizer.")
    config = _group("data", text, outputs)
    if Path(text).exists():
        config.data = DataConfig(
            name=Path(text).name, source=DataSource.text, path=str(Path(text).resolve()), block_size=block_size
        )
    config.teacher, config.data.block_size = teacher.config, block_size
    context = Context(config, log=lambda line: None)
    recipe = prepare.tokens_recipe(context)
    make = partial(prepare.make_tokens, context, recipe, teacher=prepare.teacher_recipe(context, teacher.config))
    folder = context.store.obtain(recipe, make)
    return Text(*(Blocks(folder, split) for split in ("train", "validation", "calibration")))


def importance(teacher: GPT, blocks: Tensor) -> Ordering:
    """Ranks the teacher's embedding entries, heads and MLP neurons by their activations on `blocks`, and its layers by
    how much they change the hidden state."""
    fingerprint = digest([list(blocks.shape), int(blocks.sum())])
    return ordering.importance(teacher, blocks, _precision(teacher), BATCH, fingerprint)


class SearchSpace(Space):
    """The sub-networks of a teacher whose parameter count lies in `low`..`high`. `count` is as bin.count; other
    keywords are the keys of `space` in the configuration, such as layers="rank" or hold=["n_embd"]."""

    ordering: Ordering  # the teacher's own, if none is given

    def __init__(
        self, teacher: GPT, low: int, high: int, ordering: Ordering | None = None, count: str = "total", **space: Any
    ) -> None:
        architecture = architecture_of(teacher.config, is_tied(teacher))
        within = make_bin(BinConfig(low=low, high=high, count=Count(count)))
        super().__init__(
            architecture,
            to_typed(SpaceConfig, OmegaConf.create(space), "space."),
            within,
            ordering or Ordering.identity(architecture),
        )


def find(teacher: GPT, space: SearchSpace, blocks: Tensor, seed: int = 0, **settings: Any) -> Found:
    """Searches the space for the sub-network with the lowest loss on `blocks` before any training. Keywords are the
    keys of `search` in the configuration, such as strategy="evolution", population=12, generations=3. "allocation" also
    measures its errors on `blocks`."""
    given = {"blocks": len(blocks), "batch": min(BATCH, len(blocks)), **settings}
    config = to_typed(SearchConfig, OmegaConf.create(given), "search.")
    length = blocks.size(1) - 1
    known, errors = space.ordering, None
    if reconstruct.applies(config):
        errors = reconstruction.measure(teacher, known, blocks, _precision(teacher), config.batch)
    evaluator = Evaluator(teacher, known, blocks, _precision(teacher), config.batch, fitness=config.fitness)
    budget = Budget(config.limit, length, lambda sub: flops_per_token(space.architecture, sub, length=length))
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.jsonl", "search")
        best = Search(
            config,
            make_strategy(config, space, seed, errors),
            evaluator,
            journal,
            budget,
            parameters=lambda sub: parameters(space.architecture, sub),
            expected=expected(config, length).evaluations,
            log=lambda line: None,
        ).run()
        journal.close()
    return Found(best.subnetwork, best.fitness, known, budget.spent.evaluations)


def extract(teacher: GPT, found: Found) -> GPT:
    """Cuts the student out of the teacher. It is in fp32 on the teacher's device, and has the teacher's weights."""
    return extraction.extract(teacher, found.subnetwork, found.ordering).float()


def recover(teacher: GPT, student: GPT, found: Found, blocks: Tensor) -> Report:
    """Refits the student's projections in closed form to the teacher's activations on `blocks`, in place."""
    selection = select(found.subnetwork, architecture_of(teacher.config, is_tied(teacher)), found.ordering)
    settings = Settings(batch=BATCH, precision=_precision(teacher))
    return recover_in_place(teacher, student, found.subnetwork, selection, blocks, settings)


def distill(
    teacher: GPT,
    student: GPT,
    blocks: Blocks,
    validation: Tensor,
    tokens: int,
    seed: int = 0,
    log: Callable[[dict[str, Any]], None] = lambda line: None,
    **settings: Any,
) -> list[tuple[int, float]]:
    """Trains the student in place on the first `tokens` of a seeded permutation of `blocks`, with the teacher's
    distribution as the target. Keywords are the keys of `distill` in the configuration, such as lr=3e-4 or
    temperature=2.0. `log` receives each line of metrics.

    Returns:
        The validation curve as (tokens, nats per token), starting at token 0.
    """
    given = {"tokens": tokens, "checkpoint": {"tokens": tokens, "minutes": None}, **settings}
    config = to_typed(DistillConfig, OmegaConf.create(given), "distill.")
    curve: list[tuple[int, float]] = []

    def keep(line: dict[str, Any]) -> None:
        if "validation_nll" in line:
            curve.append((line["tokens"], line["validation_nll"]))
        log(line)

    precision, device = _precision(teacher), next(teacher.parameters()).device
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
            flops=_flops(teacher, student, blocks.block_size),
            validate=partial(mean_nll, blocks=validation, batch=BATCH, precision=precision),
            log=keep,
        )
    return curve


def perplexity(model: GPT, blocks: Tensor) -> float:
    """exp(mean negative log-likelihood per token) on `blocks`."""
    return float(torch.tensor(mean_nll(model.eval(), blocks, BATCH, _precision(model)), dtype=torch.float64).exp())


def export(student: GPT, teacher: Teacher, to: str | Path, blocks: Tensor, form: str = "auto") -> ExportForm:
    """Writes the student as a Hugging Face folder, if transformers computes the same logits on `blocks`.

    Returns:
        The chosen form: stock, padded or own (see docs/use-the-student.md).
    """
    name = Path(to).name
    card = f"# {name}\n\nCut out of {teacher.model.config.name} with Sprig.\n"
    return export_folder.export(
        student.cpu(), teacher.folder, Path(to), ExportForm(form), blocks[:, :-1], lambda form, config: card
    ).form


def _group(group: str, name: str, outputs: str | Path) -> Config:
    """The quickstart's configuration; unless `name` is a path, with this choice of one group."""
    chosen: Sequence[str] = [] if Path(name).exists() else [f"{group}={name}"]
    return compose(["experiment=quickstart", f"outputs={outputs}", *chosen])


def _precision(model: GPT) -> str:
    return resolve_precision(Precision.auto, next(model.parameters()).device)


def _flops(teacher: GPT, student: GPT, length: int) -> Flops:
    """FLOPs per token; a backward pass costs as much as two forward passes."""
    whole = architecture_of(teacher.config, is_tied(teacher))
    if isinstance(student, LayerwiseGPT):
        own = flops_per_token(whole, student.sub, length=length)
    else:
        own = flops_per_token(architecture_of(student.config, is_tied(student)), length=length)
    return Flops(3 * own, flops_per_token(whole, length=length))
