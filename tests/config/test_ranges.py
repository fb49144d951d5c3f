"""Every number of the schema has a range, which holds at both ends; hypothesis sets any key to anything."""

import math
from contextlib import suppress
from functools import cache
from typing import Any, get_args

import pytest
from covering import slow
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from pipeline import SprigError, compose
from pipeline.command_line.composition import composed, without_hydra
from pipeline.config import Config, keys, to_objects
from pipeline.config.keys import Key
from pipeline.config.paths import absolute
from pipeline.config.values import read_as_written

# A failing example is made smaller, but not explained, which traces every line and takes minutes.
DONE = settings(deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate, Phase.shrink])


@cache
def base() -> DictConfig:
    return without_hydra(composed(["experiment=smoke", "teacher@kd_teacher=tiny-deep"]))


def element(key: Key) -> Any:
    """The type of a key's value, of a list that of its elements."""
    return get_args(key.hint)[0] if get_args(key.hint) and key.hint is not dict else key.hint


NUMBERS = sorted(name for name, key in keys.keys().items() if element(key) in (int, float) and "launcher" not in name)
# One key of each range.
FIRST = {str(keys.keys()[name].field.metadata.get("range")): name for name in reversed(NUMBERS)}.values()
VALUES = [key for key in keys.keys().values() if not key.is_section and "launcher" not in key.name]


def with_value(name: str, value: Any) -> Config:
    config = base().copy()
    listed = get_args(keys.keys()[name].hint)
    with read_as_written():
        try:
            OmegaConf.update(config, name, [value] if listed else value)
        except Exception as error:  # OmegaConf's own refusal, which a command line turns into a sentence
            raise SprigError(str(error)) from error
    return to_objects(config)


def test_every_number_has_a_range_of_finite_ends():
    for name in NUMBERS:
        allowed = keys.keys()[name].field.metadata.get("range")
        assert allowed is not None, f"{name} has no range"
        assert math.isfinite(allowed.low) and math.isfinite(allowed.high) and allowed.low < allowed.high


@pytest.mark.parametrize("name", [*FIRST, *slow([name] for name in NUMBERS if name not in FIRST)])
def test_beyond_a_range_is_refused_naming_the_key(name):
    key = keys.keys()[name]
    allowed, whole = key.field.metadata["range"], element(key) is int
    beyond = [allowed.low - 1, allowed.high + 1 if whole else allowed.high * 2 + 1]
    beyond += [] if whole else [math.nan, math.inf, -math.inf]
    for value in beyond:
        with pytest.raises(SprigError) as error:
            with_value(name, value)
        assert f"{name}={value}" in str(error.value)


ANYTHING = st.one_of(
    st.sampled_from(["", "null", "true", "-1", "0", "1e30", "nan", "inf", "-inf", "1e-300", "10" * 15, "50k", "1e4"]),
    st.sampled_from(["[]", "[[1]]", "{}", "[null]", "{a: 1}", "a b", "a,b", "(", "'", '"', "${seed}", "${", "~", "\\"]),
    st.text(max_size=8),
    st.integers().map(str),
    st.floats().map(str),
)  # fmt: skip


def holds(key: str, value: str) -> None:
    """One sentence, or a configuration whose numbers are the ones that were asked for."""
    try:
        config = compose(["experiment=smoke", f"{key}={value}"])
    except SprigError as error:
        assert str(error) and "Traceback" not in str(error)
        return
    found: Any = config
    for name in key.split("."):
        found = getattr(found, name)
    if isinstance(found, float):
        with suppress(ValueError):
            assert found == float(value)
        assert math.isfinite(found)
    if isinstance(found, str) and keys.keys()[key].is_text and not value.strip().startswith(("'", '"', "~", "${")):
        assert found in (value.strip(), absolute(value.strip())), "paths are absolute"


@given(st.sampled_from([key.name for key in VALUES]), ANYTHING)
@settings(DONE, max_examples=25)
def test_any_value_gets_a_sentence_or_means_what_it_says(key, value):
    holds(key, value)


@pytest.mark.slow
@given(st.sampled_from([key.name for key in VALUES]), ANYTHING)
@settings(DONE, max_examples=1_500)
def test_many_values_get_a_sentence_or_mean_what_they_say(key, value):
    holds(key, value)


@pytest.mark.slow
@pytest.mark.parametrize("name", NUMBERS)
def test_the_plan_copes_with_both_ends_of_every_range(name, tmp_path):
    """Neither a traceback nor a hang: what is in range is planned, or refused for what it does not fit."""
    from pipeline.plan import checks
    from pipeline.plan.table import table
    from pipeline.stages.context import Context

    key = keys.keys()[name]
    allowed = key.field.metadata["range"]
    for value in (allowed.low, allowed.high):
        with suppress(SprigError):
            config = with_value(name, int(value) if element(key) is int else float(value))
            config.plan, config.outputs = True, str(tmp_path)
            context = Context(config, lambda line: None)
            checks.check(context)
            assert table(context)
