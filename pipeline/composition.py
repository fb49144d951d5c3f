"""From overrides to a checked configuration: Hydra's groups over the typed schema, or a run folder's own."""

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline import config
from pipeline.config import Config, register, to_objects
from pipeline.errors import SprigError

# What a reopened run does not take over.
OF_ONE_COMMAND = ("stages", "plan", "debug", "device", "export", "prompt", "sample")
CONF = Path(__file__).resolve().parent.parent / "conf"


def compose(overrides: list[str]) -> Config:
    """The configuration of a command line, such as ["experiment=quickstart", "distill.tokens=50_000"].

    `run=FOLDER` among them reopens that run with its own configuration; the others then change single values, not
    groups. `prompt=TEXT` is taken as it stands: its commas, colons and brackets are no grammar.

    Raises:
        SprigError: a key is unknown, mistyped or missing, a value is of a wrong type or out of range, or a group has no
            such choice.
    """
    reopened = [override.removeprefix("run=") for override in overrides if override.startswith("run=")]
    prompts = [override.removeprefix("prompt=") for override in overrides if override.startswith("prompt=")]
    overrides = [override for override in overrides if not override.startswith("prompt=")]
    with hydra_session():
        composed = _reopen(Path(reopened[-1]), overrides) if reopened else hydra_compose("config", overrides)
    if prompts:
        composed.prompt = prompts[-1]
    return to_objects(composed)


@contextmanager
def hydra_session() -> Iterator[GlobalHydra]:
    """Hydra over conf/ and the schema; what it rejects becomes a SprigError of one sentence."""
    register()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield GlobalHydra.instance()
    except (HydraException, OmegaConfBaseException) as error:
        raise SprigError(_sentence(error)) from None


def declares_sweep(overrides: list[str]) -> bool:
    """Whether the preset among the overrides is a sweep of its own (hydra.mode=MULTIRUN)."""
    with hydra_session() as session:
        return session.hydra.get_mode("config", list(overrides)) == RunMode.MULTIRUN


def _reopen(folder: Path, overrides: list[str]) -> DictConfig:
    saved = folder / ".hydra" / "config.yaml"
    if not saved.exists():
        raise SprigError(f"run={folder} is no run folder ({saved} is not there): name one of outputs/<preset>/<id>.")
    values = [override for override in overrides if not override.startswith("run=")]
    config = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(saved))
    for key in OF_ONE_COMMAND:
        config[key] = OmegaConf.structured(Config)[key]
    config.run, config.outputs = str(folder.resolve()), str(folder.resolve().parents[1])
    return OmegaConf.merge(config, OmegaConf.from_dotlist(values))


def _sentence(error: Exception) -> str:
    """What Hydra says over several lines, in one sentence with a cure."""
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    if match := re.search(r"Key '(\w+)' (?:is )?not in", text):
        full = re.search(r"full_key: ([\w.]+)", text)
        near = difflib.get_close_matches(match[1], _KEYS, n=1)
        hint = f"did you mean {near[0]}?" if near else "`sprig --cfg job` prints all keys."
        return f"There is no configuration key {full[1] if full else match[1]}: {hint}"
    text = re.split(r" full_key:| Config search path:", text)[0]
    text = text.removeprefix("Error merging override ").removeprefix("In 'config': ")
    return f"{text.strip().rstrip('.')}. `sprig --help` lists the choices."


# Every key of the schema, at any depth, by its last name.
_KEYS = [key.name for node in vars(config).values() if is_dataclass(node) for key in fields(node)]
