"""The paper's presets and their twins: every job of every one is composed and planned, and each says what it is."""

from functools import cache
from itertools import product

import pytest
import yaml
from covering import slow
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

import pipeline
from pipeline.command_line.composition import CONF
from pipeline.config import register

PRESETS = sorted(f"{path.parent.name}/{path.stem}" for path in (CONF / "experiment").glob("*/*.yaml"))
TWINS = [preset for preset in PRESETS if preset.startswith("twin/")]
# The others have many jobs: `make test-all` plans them.
QUICK = [preset for preset in PRESETS if preset.startswith("twin/p0")]
AT_LENGTH = [pytest.param(preset, marks=pytest.mark.slow) for preset in PRESETS if preset not in QUICK]
# Of the others, every job is planned in test-all.
PAPER = [each for each in PRESETS if each.startswith("paper/p") and each[7] in "0246"]
SIZED = [[f"experiment={preset}", f"size={size}"] for preset in TWINS for size in ("smoke", "gpu")]


@cache
def axes(experiment: str, *sizes: str) -> dict[str, list[str]]:
    """What the preset sweeps over: what its own file says, which a size may replace."""
    if not sizes:
        preset = yaml.safe_load((CONF / f"{experiment.replace('=', '/')}.yaml").read_text())
        return {
            key: str(values).split(",")
            for key, values in preset.get("hydra", {}).get("sweeper", {}).get("params", {}).items()
        }
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra_compose("config", [experiment, *sizes], return_hydra_config=True)
    return {key: str(values).split(",") for key, values in (config.hydra.sweeper.params or {}).items()}


def jobs(*overrides: str) -> list[list[str]]:
    every = axes(*overrides)
    return [[f"{key}={value}" for key, value in zip(every, values, strict=True)] for values in product(*every.values())]


def touching(*overrides: str) -> list[list[str]]:
    """The first job, and those that differ from it in one value: every value once."""
    first, *others = jobs(*overrides)
    return [first, *(job for job in others if sum(a != b for a, b in zip(first, job, strict=True)) == 1)]


def plan(capsys, *overrides: str) -> None:
    config = pipeline.compose([*overrides, "plan=true"])
    assert config.preset == overrides[0].removeprefix("experiment=").replace("/", "-")
    pipeline.run(config)
    assert "What this run would do" in capsys.readouterr().out


def test_every_ablation_of_the_paper_has_a_preset_and_a_twin():
    papers, twins = ([each.split("/")[1] for each in PRESETS if each.startswith(kind)] for kind in ("paper", "twin"))
    assert papers == twins
    assert [each.split("-")[0] for each in papers] == [f"p{number}" for number in range(10)]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_says_what_it_is(preset):
    text = (CONF / "experiment" / f"{preset}.yaml").read_text()
    required = {"paper": ["# Published", "# Ours"], "twin": ["# The twin of paper/"], "lab": []}[preset.split("/")[0]]
    assert all(f"\n{each}" in text for each in [*required, "# Cost: "])
    assert f"\n#   sprig experiment={preset}" in text


@pytest.mark.parametrize("preset", [*PAPER, *slow([[each] for each in PRESETS if each not in PAPER])])
def test_the_first_job_is_planned(capsys, preset):
    plan(capsys, f"experiment={preset}", *jobs(f"experiment={preset}")[0])


@pytest.mark.parametrize("preset", [*QUICK, *AT_LENGTH])
def test_every_value_of_every_axis_is_planned(capsys, preset):
    for job in touching(f"experiment={preset}"):
        plan(capsys, f"experiment={preset}", *job)


def test_every_size_of_a_preset_has_folders_of_its_own():
    """In one table their perplexities, of other models on other text, would stand side by side."""
    sizes = ([], ["size=smoke"], ["size=gpu"])
    names = [pipeline.compose([f"experiment={TWINS[0]}", "hydra.mode=RUN", *size]).run_name for size in sizes]
    assert names == [None, "twin-p0-initialisation-smoke", "twin-p0-initialisation-gpu"]


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [*([f"experiment={preset}"] for preset in PRESETS), *SIZED], ids=" ".join)
def test_every_job_is_planned(capsys, sweep):
    for job in jobs(*sweep):
        plan(capsys, *sweep, *job)
