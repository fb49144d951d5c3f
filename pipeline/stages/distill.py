"""Stage distill: pretraining with knowledge distillation, of the student and of its control alike."""

import logging
import math
from functools import partial
from pathlib import Path

import torch
from litgpt import GPT

from pipeline.artifacts import Recipe, json_lines
from pipeline.config import DistillConfig, ScheduleKind, material
from pipeline.errors import SprigError
from pipeline.models.perplexity import bits_per_byte
from pipeline.progress import Progress, counted
from pipeline.ranks import rank, world_size
from pipeline.stages import cache, extract, stable
from pipeline.stages.budget import batch_tokens, budget, settings, token_flops
from pipeline.stages.context import Context, Step
from pipeline.stages.roots import Roots
from pipeline.training import checkpoints
from pipeline.training.distill import distill, validation_steps
from pipeline.training.engine import Batching, batching
from pipeline.training.fitting import fitted
from pipeline.training.metrics import METRICS
from pipeline.training.schedules import check_schedule, warmup_tokens
from pipeline.training.validation import shared_nll

STAGE, VERSION = "distill", 2
OF_BUDGET = ("tokens", "schedule", "validation_tokens")  # what of a recipe follows from the token budget
# What the start, the cache or the recipe itself states in another form.
STATED = ("init", "from_run", "control", "lr", "tokens", "validations", "cache")

log = logging.getLogger("sprig")


def learning_rate(context: Context, role: str) -> float:
    distill = context.config.distill
    return distill.lr if role == "student" else distill.control.lr


def check(context: Context) -> None:
    """Raises SprigError where budget, batches, processes and schedule do not fit one another."""
    wanted, started = context.config.deepspeed.world_size, world_size()
    if wanted not in (None, started) and not context.config.plan:
        raise SprigError(
            f"deepspeed.world_size={wanted}, but {counted(started, 'process')} started: start {wanted} "
            f"(python -m launchers.torchrun {wanted} ...), or add plan=true to see what they would cost."
        )
    layout(context)
    check_schedule(context.config.distill.schedule, budget(context))


def layout(context: Context) -> Batching:
    """How the global batch is divided; raises SprigError where it cannot be."""
    return batching(settings(context), context.config.deepspeed.world_size or world_size())


def stable_tokens(context: Context) -> int:
    """Tokens before the decay of a wsd schedule, in whole batches; 0 where there is no stable phase to share."""
    schedule, batch = context.config.distill.schedule, batch_tokens(context)
    return stable.steps(schedule, budget(context), batch) * batch


def loads_kd_teacher(context: Context) -> bool:
    """Whether training needs a KD teacher other than the teacher that is cut."""
    return cache.needs_teacher(context) and context.config.kd_teacher is not None


def recipe(context: Context, role: str, roots: Roots, start: Recipe) -> Recipe:
    """`role` is "student" or "control"; `start` makes the weights that training starts from."""
    inputs = _inputs(context, roots, start)
    if shared := phase(context, role, roots, start):
        inputs |= {"stable": shared.fingerprint}
    whole = {"schedule": _schedule(context), "tokens": budget(context)}
    return Recipe(STAGE, VERSION, _distillation(context, role) | whole, inputs)


def phase(context: Context, role: str, roots: Roots, start: Recipe) -> Recipe | None:
    """The stable phase of a wsd schedule, which trainings with other budgets share; None where there is none."""
    if not (tokens := stable_tokens(context)):
        return None
    inputs = _inputs(context, roots, start)
    return stable.recipe(_distillation(context, role), _schedule(context), tokens, inputs)


def _inputs(context: Context, roots: Roots, start: Recipe) -> dict[str, str]:
    distill, inputs = context.config.distill, {"start": start.fingerprint, "tokens": roots.tokens.fingerprint}
    if distill.distils:
        inputs["teacher"] = roots.kd_teacher.fingerprint
    if distill.cached:
        inputs["cache"] = cache.recipe(context, roots).fingerprint
    return inputs


def _distillation(context: Context, role: str) -> dict:
    """What determines a training, except for its budget, its schedule and its inputs."""
    config = context.config
    return material(config.distill, *STATED) | {
        "lr": learning_rate(context, role),
        "seed": config.seed,
        "precision": context.precision,
        "validation_tokens": validation_steps(config.distill, config.data.block_size) * batch_tokens(context),
        "validation_blocks": config.evaluate.blocks,
        "validation_batch": config.evaluate.batch,
    }


def make(context: Context, recipe: Recipe, folder: Path, role: str, roots: Roots, start: Recipe) -> None:
    """All ranks make it together."""
    begin, known, shared = None, False, phase(context, role, roots, start)
    if shared is not None:
        known = context.store.find(shared) is not None
        if known:
            log.info("The first %s tokens reuse stable phase %s.", f"{stable.length(shared):,}", shared.fingerprint)
        make_stable = partial(_make_stable, context, shared, role=role, roots=roots, start=start)
        begin = context.store.obtain(shared, make_stable, context.agree)
    if rank() == 0 and (finished := _finished_budgets(context, recipe)):
        log.info(
            "%s: a %s schedule ends with its budget, so training on %s tokens starts from the beginning, although "
            "training on %s is finished. init=trained distill.from_run=RUN trains a finished run's student further; "
            "with distill=wsd, a larger budget resumes from a smaller one.",
            role,
            recipe.config["schedule"]["kind"],
            f"{budget(context):,}",
            " and of ".join(f"{each:,}" for each in finished),
        )
    if begin is not None and known:
        _log_again(context, role, begin, folder)
    trained = _train(context, folder, role, roots, start, run=recipe.fingerprint, begin=begin)
    if rank() == 0:
        extract.save(context, start, trained, folder)


def _finished_budgets(context: Context, recipe: Recipe) -> list[int]:
    """Of the trainings in the store that differ from this one in their budget alone, and cannot be continued."""

    def alike(other: Recipe) -> dict:
        own = {key: value for key, value in other.config.items() if key not in OF_BUDGET}
        return own | {"kind": other.config["schedule"]["kind"], "version": other.version, "inputs": other.inputs}

    if recipe.config["schedule"]["kind"] == ScheduleKind.wsd:
        return []
    return sorted(each.config["tokens"] for each in context.store.recipes(STAGE) if alike(each) == alike(recipe))


def _make_stable(context: Context, recipe: Recipe, folder: Path, role: str, roots: Roots, start: Recipe) -> None:
    steps, begin = stable.length(recipe) // batch_tokens(context), stable.shorter(context, recipe)
    if begin is not None:
        _log_again(context, role, begin, folder)
    _train(context, folder, role, roots, start, run=recipe.fingerprint, begin=begin, until=steps)
    if rank() == 0:
        checkpoints.publish(folder, steps)


def _train(
    context: Context,
    folder: Path,
    role: str,
    roots: Roots,
    start: Recipe,
    run: str,
    begin: Path | None,
    until: int | None = None,
) -> GPT:
    """Trains from `start`, or from the state in `begin`, to the end or for a number of optimizer steps."""
    config = context.config
    teacher_config = config.kd_teacher or config.teacher
    if loads_kd_teacher(context):
        context.tokenizer(start).check_same(context.tokenizer(roots.kd_teacher))
    validation = context.evenly(roots.tokens, "validation", config.evaluate.blocks, "evaluate.blocks")
    targets = validation[:, 1:]
    size = context.tokenizer(start).text_bytes(targets.tolist())
    online = config.distill.online
    logits = cache.complete(context, roots) if config.distill.cached else None
    if not online:
        context.forget_teacher()
    flops = token_flops(context, extract.subnetwork(context, start), config.distill)
    total = budget(context) if until is None else until * batch_tokens(context)

    def train(layout: DistillConfig) -> GPT:
        return distill(
            context.student(start, torch.device("cpu")),  # the copy that trains moves to the device
            context.teacher(roots.kd_teacher, teacher_config) if online else None,
            logits,
            context.blocks(roots.tokens, "train"),
            layout,
            lr=learning_rate(context, role),
            deepspeed=config.deepspeed,
            seed=config.seed,
            precision=context.precision,
            device=context.device,
            folder=folder,
            run=run,
            flops=flops,
            validate=partial(shared_nll, blocks=validation, batch=config.evaluate.batch, precision=context.precision),
            log=_Log(context, role, progress),
            per_byte=partial(bits_per_byte, tokens=targets.numel(), size=size),
            begin=begin,
            until=until,
        )

    with Progress(f"distill {role}", total=total, unit="tokens") as progress:
        trained, context.micro_batch = fitted(folder, settings(context), train)
    return trained


def _log_again(context: Context, role: str, begin: Path, folder: Path) -> None:
    """Logs the metrics of a phase that another run trained, once."""
    if rank() == 0 and not (folder / METRICS).exists():
        for line in _metrics(begin):
            context.log({"role": f"distilled_{role}"} | line)


def _schedule(context: Context) -> dict:
    """The schedule in tokens, and without what its kind has no use for."""
    schedule = context.config.distill.schedule
    unused = () if schedule.kind == ScheduleKind.wsd else ("decay",)
    return material(schedule, "warmup", *unused) | {"warmup_tokens": warmup_tokens(schedule, budget(context))}


class _Log:
    """Sends each metrics line on under the role's name, and shows it in the progress bar."""

    def __init__(self, context: Context, role: str, progress: Progress):
        self.context, self.role, self.progress = context, role, progress
        self.tokens = 0
        self.shown: dict[str, str] = {}

    def __call__(self, line: dict) -> None:
        if "resumed" in line:
            self.tokens = line["tokens"]
            self.progress.begin_at(self.tokens)
            return
        self.context.log({"role": f"distilled_{self.role}"} | line)
        if "validation_nll" in line:  # every other figure is in metrics.jsonl
            self.shown["perplexity"] = f"{math.exp(line['validation_nll']):,.2f}"
        self.progress.advance(line["tokens"] - self.tokens, **self.shown)
        self.tokens = line["tokens"]


def curve(folder: Path) -> list[tuple[int, float]]:
    """The validation curve of a model so far: (tokens, nats per token), from token 0 on."""
    return [(line["tokens"], line["validation_nll"]) for line in _metrics(folder) if "validation_nll" in line]


def how_far(context: Context, step: Step) -> str:
    """How far a training is that has begun."""
    folders = [context.store.begun(step.recipe)]
    if step.phase is not None:
        folders += [context.store.begun(step.phase), context.store.path(step.phase)]
    reached = max((line["tokens"] for folder in folders if folder for line in _metrics(folder)), default=0)
    return f"at {reached:,} of {budget(context):,} tokens"


def trained(context: Context, step: Step) -> Path:
    """The folder of a model that is trained.

    Raises:
        SprigError: it is not; says how far its training is.
    """
    if context.store.find(step.recipe) is None and context.store.begun(step.recipe):
        role = step.role.removeprefix("distilled_")
        raise SprigError(
            f"Training of the {role} is {how_far(context, step)}: run the same command without stages= to resume it."
        )
    return context.made(step.recipe)


def _metrics(folder: Path) -> list[dict]:
    """The lines so far, up to one that is cut short or damaged."""
    return json_lines(folder / METRICS)[0]
