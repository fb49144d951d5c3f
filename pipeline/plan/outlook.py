"""What a user wants to know before a run: which text, how often, how many steps, how long, and which model leaves."""

import math
from dataclasses import dataclass

import torch

from pipeline.config import ExportForm
from pipeline.plan import costs as prices
from pipeline.plan import epochs, measured
from pipeline.stages import distill
from pipeline.stages.budget import batch_tokens, budget, token_flops
from pipeline.stages.context import Context, Step
from pipeline.subnetwork.exported import exported
from pipeline.subnetwork.value import SubNetwork
from pipeline.training.throughput import PEAKS, matrix_flops, peak_flops

Row = tuple[str, str]
UTILISATION = {"cuda": 0.3, "cpu": 0.5}  # of a GPU's peak, of the speed of matrix products on a CPU
YEAR = 365 * 24 * 3600  # seconds
PLANNED = "NVIDIA H100 80GB HBM3"  # in place of a GPU that is not here


def text(context: Context) -> Row:
    """The text's name, its training tokens, and how often the budget goes through them."""
    name, tokens, times = context.config.data.name, epochs.text_tokens(context), epochs.epochs(context)
    if tokens is None or times is None:
        return "text", f"{name}; its training tokens are known once stage prepare has run"
    known = epochs.prepared_tokens(context) is not None
    most, least = ("", "") if known else ("at most ", "at least ")
    often = f"the text is read {least}{times:.1f} times" if times > 1 else f"{least}{times:.2g} epochs"
    by_bytes = not known and tokens != context.config.data.max_tokens
    of = " (one per byte; English has about four bytes per token)" if by_bytes else ""
    return "text", f"{name}: {most}{tokens:,} training tokens{of}; {often}"


def schedule(context: Context) -> Row:
    """Steps of the optimizer, their tokens, and the learning rate."""
    config, batch = context.config.distill, batch_tokens(context)
    return (
        "steps",
        f"{budget(context) // batch:,} of {batch:,} tokens, learning rate {config.lr:g}, {config.schedule.kind}",
    )


def control(context: Context, flops: int) -> Row:
    """What the control costs, and what it is for."""
    config = context.config.distill.control
    if not config.enabled:
        return "control", "none"
    rate = distill.learning_rate(context, "control")
    return "control", (
        f"a second training, from {config.init}, at learning rate {rate:g}: {flops:.3g} FLOPs. It only measures what "
        "the student saves; distill.control.enabled=false leaves it out"
    )


def leaves(context: Context, students: list[SubNetwork]) -> Row:
    """Parameters of the exported student, as transformers counts them."""
    found = [exported(context.architecture, sub) for sub in students]
    low, high = (edge(each.parameters for each in found) for edge in (min, max))
    forms = " or ".join(sorted({each.form for each in found}))
    beyond = (
        ", outside the bin" if high > context.bin.high and context.bin.count not in ("non_embedding", "active") else ""
    )
    padded = f"; zeros pad its layers to one size{beyond}" if ExportForm.padded in {each.form for each in found} else ""
    return "parameters as exported", f"{f'{low:,}' if low == high else f'{low:,} to {high:,}'} ({forms}{padded})"


def hours(context: Context, flops: int, ranks: int, student: SubNetwork) -> Row:
    """Hours of all stages together, with what that assumes or what was measured."""
    kind = context.device.type
    beyond = "" if prices.is_complete(context) else ", and the search in addition"
    if context.config.plan == "measure":
        tokens = measured.tokens_per_second(context, student)
        of_a_token = token_flops(context, student, context.config.distill)
        took = duration(flops / (tokens * (of_a_token.student + of_a_token.teacher) * ranks))
        return "time", (
            f"about {took}{beyond} at the measured {tokens:,.0f} tokens/s of training per process, communication not "
            f"counted; for 8 hours of training: budget=8h@{tokens * ranks:.0f}"
        )
    rate, of = _rate(context)
    seconds = flops / (rate * UTILISATION[kind] * ranks)
    more = "device=cuda plans it for a GPU" if kind == "cpu" and seconds > YEAR else "plan=measure times a few steps"
    return (
        "time",
        f"about {duration(seconds)}{beyond}, at {UTILISATION[kind]:.0%} of {of} on {ranks} x {kind}; {more}",
    )


@dataclass
class Outlook:
    """The seconds that each step of a run is expected to take, by role, and what is left of them.

    As steps finish, the expectation of the rest is scaled by how long they took.
    """

    expected: dict[str, float]
    took: float = 0.0
    done: float = 0.0  # expected seconds of the steps that are finished

    def finish(self, role: str, seconds: float) -> None:
        if expected := self.expected.pop(role, 0.0):
            self.took, self.done = self.took + seconds, self.done + expected

    def left(self) -> str:
        """For a log line; empty below a minute."""
        seconds = self.seconds()
        return f", about {duration(seconds)} left in all" if seconds >= 60 else ""

    def seconds(self, without: str | None = None) -> float:
        """What is left, apart from the step `without`."""
        rest = sum(seconds for role, seconds in self.expected.items() if role != without)
        return rest * (self.took / self.done if self.done else 1)


def expected(context: Context, steps: list[Step], ranks: int) -> Outlook:
    """Of steps that are not made yet, under the assumptions of `hours`; a step that costs next to nothing takes 0."""
    missing = [step.role for step in steps if context.store.find(step.recipe) is None]
    if not missing:
        return Outlook({})
    rate, costs = _rate(context)[0] * UTILISATION[context.device.type] * ranks, prices.flops(context)
    return Outlook({role: costs.get(role, 0) / rate for role in missing})


def header(steps: list[Step], outlook: Outlook) -> str:
    """The stages of these steps, with about how long each takes."""
    stages = dict.fromkeys((step.stage for step in steps), 0.0)
    for step in steps:
        stages[step.stage] += outlook.expected.get(step.role, 0.0)
    return ", ".join(f"{stage} {duration(took)}" if took >= 60 else stage for stage, took in stages.items())


def _rate(context: Context) -> tuple[float, str]:
    """FLOP/s of one device, and what they are."""
    if context.device.type == "cpu":
        return matrix_flops(context.device, context.precision), "this machine's matrix-multiplication speed"
    name = torch.cuda.get_device_name(context.device) if torch.cuda.is_available() else PLANNED
    known = peak_flops(name)
    return (known, f"the peak of {name}") if known else (PEAKS[PLANNED], f"the peak of {PLANNED}")


def duration(seconds: float) -> str:
    """Such as 5 min, 1.5 h, 250 h or 260 years."""
    if seconds < 3600:
        return f"{math.ceil(seconds / 60)} min"
    count, unit = (seconds / 3600, "h") if seconds < 2 * YEAR else (seconds / YEAR, "years")
    return f"{count:.2g} {unit}" if count < 10 else f"{count:,.0f} {unit}"
