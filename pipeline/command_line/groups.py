"""The configuration that a command's choices from the groups give, before its single values: Hydra's composition of the
files, done once in a process for the same choices of the same files."""

import os
import pickle
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobRuntime
from hydra.types import RunMode
from omegaconf import DictConfig

from pipeline.command_line.group_choices import SEARCHED

CONF = Path(__file__).resolve().parents[2] / "conf"
KEPT = 32  # compositions that a process keeps


@dataclass(frozen=True)
class Files:
    """Sprig's configuration files and those below `places`, as they are now."""

    places: tuple[str, ...]
    states: tuple[tuple[str, int, int], ...]


def files(places: tuple[str, ...]) -> Files:
    """`places`: folders, as file:// and a path, or packages, as pkg:// and a name."""
    folders = [CONF, *(Path(place.removeprefix("file://")) for place in places if place.startswith("file://"))]
    states = ((path, path.stat()) for folder in folders for path in sorted(folder.rglob("*.yaml")))
    return Files(places, tuple((str(path), state.st_mtime_ns, state.st_size) for path, state in states))


@lru_cache(maxsize=4)
def loader(found: Files) -> ConfigLoaderImpl:
    searchpath = create_config_search_path(str(CONF))
    for place in found.places:
        searchpath.prepend(SEARCHED, place, anchor=SearchPathQuery(provider="schema"))
    JobRuntime.instance().set("name", "sprig")
    made = ConfigLoaderImpl(searchpath)
    vars(made)["repository"] = _ReadOnce(made.repository)  # typed as the class that it delegates to
    return made


@lru_cache(maxsize=KEPT)
def known(found: Files, presets: tuple[str, ...]) -> dict[str, str | None]:
    """The choice of every group that a command with these presets uses."""
    defaults = loader(found).compute_defaults_list("config", list(presets), RunMode.MULTIRUN)
    return defaults.overrides.known_choices


def compose(found: Files, words: list[str], mode: RunMode) -> DictConfig:
    """What Hydra's `load_configuration` gives for `words`."""
    made = loader(found)
    overrides = OverridesParser.create().parse_overrides(words)
    made.validate_sweep_overrides_legal(overrides, mode, from_shell=True)
    values = [each for each in overrides if not made.repository.group_exists(each.key_or_group)]
    chosen = tuple(str(each.input_line) for each in overrides if each not in values)
    config: DictConfig = pickle.loads(_chosen(found, chosen, mode))
    made._apply_overrides_to_config([each for each in values if not each.is_sweep_override()], config)
    config.hydra.overrides.hydra = [each.input_line for each in overrides if each.is_hydra_override()]
    config.hydra.overrides.task = [each.input_line for each in overrides if not each.is_hydra_override()]
    config.hydra.runtime.cwd = os.getcwd()
    return config


@lru_cache(maxsize=KEPT)
def _chosen(found: Files, words: tuple[str, ...], mode: RunMode) -> bytes:
    """Pickled, of which a copy is made in a seventh of the time that a copy of the objects takes."""
    made = loader(found)
    try:
        return pickle.dumps(made.load_configuration("config", list(words), mode))
    finally:
        vars(made.repository)["cache"].clear()  # Hydra changes what it composes


class _ReadOnce(CachingConfigRepository):
    """Hydra reads every file again for each pass over them; here the one that composes takes what the pass over the
    defaults read. Hydra copies its repository, with the whole schema, before each pass and each listing of choices,
    as a primary configuration may add places to search; Sprig's does not."""

    def __deepcopy__(self, memo: object) -> "_ReadOnce":
        return self
