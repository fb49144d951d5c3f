"""The measures of a study, and what its own journals or other studies already know of them."""

from collections.abc import Callable
from pathlib import Path

from pipeline.artifacts import Recipe, digest
from pipeline.config import Fitness
from pipeline.progress import Progress
from pipeline.search.journal import Journal, read
from pipeline.stages.context import Context
from pipeline.subnetwork.value import SubNetwork

RECOVERED = "recovered"  # the perplexity after recovery
REACHED = "reached"  # the loss that the others should predict


def short(tokens: int) -> str:
    """The loss after a shorter training."""
    return f"short-{tokens}"


def elsewhere(context: Context, recipe: Recipe) -> dict[str, dict[str, float]]:
    """What the finished studies of the store tell of the measures that this one shares with them: {measure: {key of a
    sub-network: value}}. Versions differ in which measures they have, not in what one means."""
    own = _determined(recipe)
    known: dict[str, dict[str, float]] = {name: {} for name in own}
    for other in context.store.recipes(recipe.stage):
        shared = own.items() & _determined(other).items()
        if shared and (folder := context.store.find(other)):
            for name in (name for name, _ in shared if (folder / _journal(name)).exists()):
                known[name] |= {line["key"]: line["fitness"] for line in read(folder / _journal(name))}
    return known


def _determined(recipe: Recipe) -> dict[str, str]:
    """Every measure of a study, with a hash of all that determines it for a given sub-network."""
    config, inputs = recipe.config, {name: each for name, each in recipe.inputs.items() if name != "search"}
    calibration, validation, reached = config["calibration"], config["validation"], config[REACHED]
    parts = {str(fitness): [calibration, reached["precision"]] for fitness in Fitness}
    parts |= {short(each["tokens"]): [calibration, validation["batch"], each] for each in config["short"]}
    if "recover" in reached:
        parts[RECOVERED] = [calibration, reached["precision"], reached["recover"]]
    return {name: digest([inputs, part]) for name, part in (parts | {REACHED: [validation, reached]}).items()}


def measured(
    folder: Path,
    fingerprint: str,
    subs: list[SubNetwork],
    known: dict[str, dict[str, float]],
    measures: dict[str, Callable[[SubNetwork], float]],
) -> dict[str, list[float]]:
    """The named measures of every sub-network, all of one before any of the next. What a measure's journal, or another
    study, already knows is not measured again."""
    journals = {name: Journal(folder / _journal(name), fingerprint) for name in measures}
    for name, journal in journals.items():
        for sub in subs:
            if sub.key not in journal.losses and (value := known[name].get(sub.key)) is not None:
                journal.add(sub, [value], value)
    left = {sub: [name for name in measures if sub.key not in journals[name].losses] for sub in subs}
    done = sum(not names for names in left.values())
    with Progress(f"study, {' + '.join(measures)}", len(subs), "sub-networks", start=done) as progress:
        for sub, names in left.items():
            for name in names:
                value = measures[name](sub)
                journals[name].add(sub, [value], value)
            progress.advance(bool(names))
    for journal in journals.values():
        journal.close()
    return {name: [journal.losses[sub.key][0] for sub in subs] for name, journal in journals.items()}


def _journal(name: str) -> str:
    return f"{name}.jsonl"
