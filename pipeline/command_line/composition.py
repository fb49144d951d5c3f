"""From the words of a command line to a checked configuration: Hydra's groups over the schema, or a run folder's."""

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.version import setbase
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pipeline.command_line import groups, hydra_errors
from pipeline.command_line.group_choices import PARTS
from pipeline.command_line.groups import CONF, Files
from pipeline.command_line.overrides import NULLABLE, SEARCHPATH, Words, key_of, refuse_hydra
from pipeline.command_line.quoting import quoted_parts
from pipeline.config import ON_REQUEST, Cluster, Config, keys, register, to_objects
from pipeline.config.derived import all_stages
from pipeline.config.paths import absolute
from pipeline.config.values import read_as_written
from pipeline.errors import SprigError
from pipeline.recorded import recorded, unreadable

# What a reopened run does not take over.
OF_ONE_COMMAND = ("stages", "plan", "debug", "device", "export", "prompt", "sample")
OWN_CONF = "conf"  # a project's own choices, in the working directory
PRESETS = ("experiment", "size")  # the groups that decide which others a command uses
UNUSED: dict[str, Any] = {
    "hydra.run.dir": ".",
    "hydra.output_subdir": None,
    "hydra.job.chdir": False,
    "hydra.callbacks": {},
}


@dataclass(frozen=True)
class Session:
    """Hydra over Sprig's and the project's configuration files. `words` are checked; `searched` are the words by which
    another process finds the same files."""

    files: Files
    words: list[str]
    searched: list[str]
    checker: Words

    @property
    def loader(self) -> ConfigLoaderImpl:
        return groups.loader(self.files)

    def compose(self, mode: RunMode = RunMode.RUN) -> DictConfig:
        composed = groups.compose(self.files, self.words, mode)
        self._check(composed)
        return composed

    def _check(self, composed: DictConfig) -> None:
        """Holds a preset's own choices to what holds for those of a command line."""
        for key, choice in composed.hydra.runtime.choices.items():
            if choice is not None and not key.startswith("hydra/") and key not in PARTS:
                self.checker.choices.check(
                    key, choice if isinstance(choice, Sequence) and not isinstance(choice, str) else [choice]
                )
        for key, unused in UNUSED.items():
            if OmegaConf.select(composed, key) != unused:
                refuse_hydra(key)


def compose(overrides: list[str]) -> Config:
    """The configuration of a command line, such as ["experiment=quickstart", "distill.tokens=50k"].

    `run` names a run, by its folder or its name in `outputs`, and reopens it with its own configuration; other
    overrides can then change single values, but not groups. Texts and paths are taken literally: commas, colons and
    brackets have no special meaning in them.

    Raises:
        SprigError: a key is unknown, misspelled or missing, a value has the wrong type or is out of range, a group has
            no such choice, or a preset is a sweep and an axis is left open.
    """
    if isinstance(overrides, str):
        raise SprigError(f"compose takes a list of overrides: write compose([{overrides!r}]).")
    if isinstance(overrides, Mapping) or not isinstance(overrides, Iterable):
        raise SprigError(f'compose takes a list, such as ["experiment=quickstart"], not a {type(overrides).__name__}.')
    overrides = [str(each) for each in overrides]
    _require_run(overrides)
    found = composed(overrides)
    _require_one_job(overrides, found)
    config = to_objects(without_hydra(found))
    _require_text(overrides)
    return config


def _require_one_job(overrides: list[str], found: DictConfig) -> None:
    """A sweep is not one configuration.

    Raises:
        SprigError: the preset is a sweep, and the words leave one of its axes open.
    """
    if OmegaConf.select(found, "hydra.mode") != RunMode.MULTIRUN:
        return
    named, declared = set(map(key_of, overrides)), found.hydra.sweeper.get("params") or {}
    if axes := [f"{key}={values}" for key, values in declared.items() if key not in named]:
        first = OverridesParser.create().parse_overrides(axes[:1])[0]
        listed = first.is_choice_sweep() or first.is_range_sweep()
        example = f"{key_of(axes[0])}={next(first.sweep_string_iterator())}" if listed else axes[0]
        raise SprigError(
            f"The preset {found.preset} is a sweep over {', '.join(map(key_of, axes))}, and this is one configuration: "
            f"give each of them a value, such as {example}, or run the sweep, "
            f"`{shlex.join(['sprig', *overrides])}`."
        )


def _require_run(overrides: list[str]) -> None:
    """What works on a finished run needs to know which one.

    Raises:
        SprigError: the words ask for such stages alone, and name neither a run nor a preset.
    """
    values = {key_of(word): word.partition("=")[2] for word in overrides}
    asked = re.findall(r"\w+", values.get("stages", ""))
    if asked and {*asked} <= ({*ON_REQUEST, "report"} - {"cache"}) and not values.keys() & {"run", "experiment"}:
        raise SprigError(
            f"stages={values['stages']} works on a run that exists: name it, run=outputs/quickstart/latest; `sprig "
            "runs` lists all."
        )


def _require_text(overrides: list[str]) -> None:
    """A teacher of the user's own is not trained on a default text that nobody named.

    Raises:
        SprigError: the words name such a teacher, and neither a text nor a preset.
    """
    named = {key_of(override) for override in overrides}
    if "teacher=local" in overrides and not named & {"data", "experiment", "run"}:
        raise SprigError(
            "teacher=local names a teacher of your own, but no text, and the default is data=sotu, 12 MB of speeches: "
            "give yours, data=text data.path=FOLDER, or data=sotu if you mean it."
        )


def composed(overrides: list[str], sweeps: bool = False) -> DictConfig:
    """As `compose`, before the values become objects; of a sweep, what its jobs share. With Hydra's own keys,
    unless `run` reopens one.

    Raises:
        SprigError: as `compose`.
    """
    if any(key_of(override) == "run" for override in overrides):
        return _reopen(overrides)
    with session(overrides, sweeps) as opened:
        return opened.compose(RunMode.MULTIRUN if sweeps else RunMode.RUN)


def without_hydra(config: DictConfig) -> DictConfig:
    """The same without Hydra's own keys."""
    with open_dict(config):
        config.pop("hydra", None)
    return config


def parsed(overrides: list[str]) -> dict[str, Any]:
    """The values of words that name no group, by their keys.

    Raises:
        SprigError: as `compose`.
    """
    with session([]) as opened:
        return opened.checker.values(overrides)


def starts_jobs(overrides: list[str]) -> bool:
    """Whether these overrides start jobs without -m: their preset is a sweep (hydra.mode=MULTIRUN), or they go to
    Slurm."""
    deciding = (*PRESETS, "hydra.mode", "hydra/launcher", SEARCHPATH)
    words = [override for override in overrides if key_of(override) in deciding]
    with session(words, sweeps=True) as opened:
        hydra = opened.compose(RunMode.MULTIRUN).hydra
    if hydra.mode is None:
        return OmegaConf.select(hydra, "launcher.cluster") == Cluster.slurm
    return hydra.mode == RunMode.MULTIRUN


@contextmanager
def session(overrides: Sequence[str], sweeps: bool = False) -> Iterator[Session]:
    """Hydra over all configuration files, with the words checked; what it rejects becomes one sentence.

    Raises:
        SprigError: as `compose`; or a folder to search does not exist.
    """
    register()
    setbase("1.3")
    try:
        with read_as_written():
            yield _open(overrides, sweeps)
    except (HydraException, OmegaConfBaseException) as error:
        raise SprigError(hydra_errors.sentence(error)) from None


def _open(overrides: Sequence[str], sweeps: bool) -> Session:
    others = [override for override in overrides if not override.startswith(f"{SEARCHPATH}=")]
    places = _places(overrides)
    found = groups.files(tuple(places))
    repository = groups.loader(found).repository
    # Which groups a command uses depends on its preset: that one first.
    checker = Words(repository, OverridesParser.create(groups.loader(found)), PRESETS, sweeps)
    presets = checker.checked([word for word in others if key_of(word) in PRESETS])
    known = groups.known(found, tuple(presets))
    checker.known_groups = list(known)
    chosen = [word for word in others if word.lstrip("+").startswith(f"{NULLABLE}=")] or [f"={known.get(NULLABLE)}"]
    checker.kd_teacher = chosen[-1].partition("=")[2] not in ("null", "None")
    return Session(found, checker.checked(others), _searching(places), checker)


def anywhere(overrides: Sequence[str]) -> list[str]:
    """The same words for another working directory and environment: with the folders of configurations that they find
    here.

    Raises:
        SprigError: a folder to search does not exist.
    """
    others = [override for override in overrides if not override.startswith(f"{SEARCHPATH}=")]
    return [*_searching(_places(overrides)), *others]


def _searching(places: Sequence[str]) -> list[str]:
    written = ",".join(place if re.fullmatch(r"[\w:/.-]+", place, re.ASCII) else f"'{place}'" for place in places)
    return [f"{SEARCHPATH}=[{written}]"] if places else []


def _places(overrides: Sequence[str]) -> list[str]:
    """The folders that are searched after Sprig's own: those of the command, of SPRIG_CONF, and ./conf."""
    named: list[str] = []
    for word in overrides:
        if not word.startswith(f"{SEARCHPATH}="):
            continue
        value = OverridesParser.create().parse_overrides([quoted_parts(word)])[0].value()
        named += value if isinstance(value, list) else [str(value)]
    named += [each for each in os.environ.get("SPRIG_CONF", "").split(os.pathsep) if each]
    if Path(OWN_CONF).is_dir():
        named.append(OWN_CONF)
    places = []
    for each in named:
        if each.startswith("pkg://"):
            places.append(each)
            continue
        folder = Path(absolute(each.removeprefix("file://")))
        if not folder.is_dir():
            raise SprigError(
                f"The configuration folder {folder} does not exist: name a folder of groups, such as bin/mine.yaml."
            )
        if not folder.samefile(CONF):
            places.append(f"file://{folder}")
    return list(dict.fromkeys(places))


def _reopen(overrides: list[str]) -> DictConfig:
    from pipeline.artifacts.runs import (  # numpy and asyncio, which other commands start without
        OUTPUTS,
        SAVED,
        run_folder,
    )

    with session([]) as opened, read_as_written():
        named = [override for override in overrides if key_of(override) == "run"]
        values = opened.checker.values([each for each in overrides if key_of(each) in ("run", "outputs")])
        outputs = OmegaConf.create(values).get("outputs")
        folder = run_folder(values["run"], Path(outputs) if isinstance(outputs, str) else OUTPUTS, key="run=")
        saved = folder / SAVED
        defaults = OmegaConf.structured(Config)
        try:
            config = OmegaConf.merge(defaults, OmegaConf.create(recorded(saved)))
        except OmegaConfBaseException as error:
            raise unreadable(saved, str(error).splitlines()[0]) from None
        assert isinstance(config, DictConfig)
        if missing := OmegaConf.missing_keys(config):
            raise unreadable(saved, f"it has no {min(missing)}")
        for key in OF_ONE_COMMAND:
            config[key] = defaults[key]
        config.run, config.outputs = str(folder.resolve()), str(folder.resolve().parents[1])
        others = [override for override in overrides if override not in named]
        opened.checker.kd_teacher = config.kd_teacher is not None
        for key, override in opened.checker.changes(others).items():
            known = keys.find(key)
            assert known is not None  # the words are checked
            try:
                OmegaConf.update(config, key, override.value(), force_add=known.name != key)
            except OmegaConfBaseException as error:  # as Hydra says it of a new run
                raise HydraException(f"Error merging override {override.input_line}") from error
        if "stages" not in map(key_of, others):
            config.stages = all_stages(_root_=config)
        return config
