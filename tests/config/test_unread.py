"""Every key of the schema changes what a run makes, or is named as without effect: each is varied alone."""

import json
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from covering import slow

from pipeline import SprigError, compose
from pipeline.config import Config, is_material, unread
from pipeline.config.keys import Key, keys
from pipeline.stages import cache, graph
from pipeline.stages.context import Context
from pipeline.stages.roots import roots
from pipeline.subnetwork.selection import Ordering

# Read, but in no recipe: what reports and cards say.
SHOWN = {"preset", "teacher.name", "teacher.license", "kd_teacher.name", "kd_teacher.license", "data.name"}
# Read by a check alone: what the sub-network of a file is held against.
HELD_AGAINST = {"space.max_flops_per_token", "space.max_kv_bytes_per_token", "bin.low", "bin.high", "bin.count"}
# Not read where they are named as without effect, but in a recipe all the same, as its fingerprints have to stay.
RECORDED = {
    "distill.js_weight",
    "distill.alpha",
    "distill.beta",
    "distill.temperature",
    "distill.schedule.decay",
    "search.limit.evaluations",
    "search.limit.tokens",
    "search.limit.flops",
}
GIVEN, FINISHED = "search=given search.path=GIVEN", "init=trained distill.from_run=RUN distill.control.enabled=false"
QUICK = [
    "",
    "search=uniform search.random_baseline=false recover=off ordering=none",
    "init=random_weights kd=off",
    f"{GIVEN} search.random_baseline=false",
    FINISHED,
]
OTHERS = [
    "search=random search.random_baseline=true",
    "search=allocation",
    "search.rerank.candidates=2",
    "init=random_subnetwork",
    "init=random_weights distill.control.init=searched",
    "distill.cache.kind=topk distill=wsd",
    "distill.schedule.warmup_tokens=64 distill.validation_tokens=64",
    "distill.beta=0 distill.alpha=1 evaluate.tasks=[piqa]",
    "study.random=8",
    "bin.center=80_000 bin.low=null bin.high=null",
    "teacher@kd_teacher=tiny-deep",
    GIVEN,
    f"{FINISHED} study.random=8",
]


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> dict[str, Any]:
    """Facts of the smoke preset's sources; and of a finished run, with a sub-network in a file, both in `folder`."""
    folder: Path = tmp_path_factory.mktemp("given")
    facts: dict[str, Any] = {"folder": folder}
    context = Context(compose(["experiment=smoke", "precision=fp32"]), print, facts)
    (sub,) = context.draws(Ordering.identity(context.architecture), np.random.default_rng(0))
    begun = roots(context)
    (folder / "GIVEN").write_text(json.dumps(replace(sub, ordering=begun.ordering_fingerprint).to_dict()))
    (folder / "RUN").mkdir()
    facts[f"student of {folder / 'RUN'}"] = {
        "distilled_student": "0" * 16,
        "teacher": begun.teacher.fingerprint,
        "sub": sub.to_dict(),
        "vocabulary": None,
    }
    return facts


def made(config: Config, known: dict[str, Any]) -> dict[str, str]:
    """The fingerprints of all that a run makes."""
    context = Context(config, print, known)
    found = {role: step.recipe.fingerprint for role, step in graph.build(context).items()}
    return found | ({"cache": cache.recipe(context, roots(context)).fingerprint} if config.distill.cached else {})


def others(key: Key, value: Any) -> Iterator[Any]:
    """Values of a key that differ from its value."""
    hint = get_args(key.hint)[0] if key.is_list else key.hint
    if isinstance(hint, type) and issubclass(hint, Enum):
        found: list[Any] = list(hint)
    else:
        some = {bool: [True, False], int: [1, 2, 16, 100_000], float: [0.07, 0.3, 0.5, 2.0]}
        found = some.get(hint, ["x", "piqa", "n_embd"])
    yield from ([each] if key.is_list else each for each in found if each != value)


def value_of(config: Any, name: str) -> Any:
    first, _, rest = name.partition(".")
    return value_of(getattr(config, first), rest) if rest else getattr(config, first)


def with_value(config: Any, name: str, value: Any) -> Any:
    first, _, rest = name.partition(".")
    return replace(config, **{first: with_value(getattr(config, first), rest, value) if rest else value})


def changes(config: Config, key: Key, known: dict[str, Any]) -> bool | None:
    """Whether a value of this key changes what the run makes; None if the run accepts none of those that are tried."""
    before, accepted = made(config, known), None
    for value in others(key, value_of(config, key.name)):
        try:
            accepted = made(with_value(config, key.name, value), known) != before
        except (SprigError, OSError):
            continue
        if accepted:
            break
    return accepted


@pytest.mark.parametrize("words", [*QUICK, *slow([each] for each in OTHERS)])
def test_a_key_changes_what_a_run_makes_or_is_named(words, known):
    placed = words.replace("GIVEN", str(known["folder"] / "GIVEN")).replace("RUN", str(known["folder"] / "RUN"))
    config = compose(["experiment=smoke", "precision=fp32", *placed.split()])
    tried = 0
    for key in keys().values():
        section = key.name.partition(".")[0]
        if key.is_section or section in ("hydra", *SHOWN) or not is_material(key.name):
            continue
        if section == "kd_teacher" and config.kd_teacher is None:
            continue
        changed, named = changes(config, key, known), unread(config, [f"{key.name}=x"])
        tried += changed is not None
        if changed:
            assert not named or key.name in RECORDED, f"{named[0]} But it changes what the run makes."
        elif changed is False and key.name not in SHOWN | HELD_AGAINST:
            assert len(named) == 1, f"{key.name} changes nothing that the run makes, and unread does not name it."
    assert tried > 80
