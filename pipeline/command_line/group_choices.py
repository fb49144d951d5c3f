"""The choices of the configuration groups, and what to write instead of one that does not exist."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.config_repository import IConfigRepository
from hydra.core.object_type import ObjectType

from pipeline.config.paths import expanded
from pipeline.errors import SprigError

SEARCHED = "searched"  # Hydra's sources that are folders of the user's
PARTS = ("size/axes",)  # groups that presets choose from
# Groups that a number is given to, and the key that it was meant for; and those that a path is given to.
SIZED = {"bin": "bin.center", "size": "bin.center", "distill": "distill.tokens", "search": "search.generations"}
SWITCHED = {("none", "null", "false", "no", "off"): ("off", "none"), ("true", "yes", "on"): ("on",)}
OWN = {"teacher": "local {0}.source=hf {0}.path", "data": "text {0}.path"}


class Choices:
    """`repository` is Hydra's, over all folders that are searched."""

    def __init__(self, repository: IConfigRepository):
        self.repository = repository

    def groups(self) -> list[str]:
        """The groups of the configuration, Hydra's own apart from the launcher left out."""
        tops = [name for name in self.repository.get_group_options("", ObjectType.GROUP) if name != "hydra"]
        tops.sort(key=lambda name: name != "experiment")
        inner = [f"{top}/{name}" for top in tops for name in self.repository.get_group_options(top, ObjectType.GROUP)]
        return [*tops, *(each for each in inner if not each.startswith("experiment/") and each not in PARTS)]

    def options(self, group: str) -> list[str]:
        """The choices of a group, those of its folders by their path: experiment has twin/p1-bins."""
        found = [name for name in self.repository.get_group_options(group, ObjectType.CONFIG) if name != "schema"]
        folders = self.repository.get_group_options(group, ObjectType.GROUP)
        for folder in (each for each in folders if f"{group}/{each}" not in PARTS):
            found += [f"{folder}/{each}" for each in self.options(f"{group}/{folder}")]
        return found

    def check(self, key: str, chosen: Sequence[str]) -> None:
        """
        Raises:
            SprigError: the group of `key` has no such choice, or two different ones of one name.
        """
        group = key.partition("@")[0]
        for each in chosen:
            exists = self.repository.config_exists(f"{group}/{each}")
            if not exists or each == "schema" or str(each).endswith(".yaml"):
                raise SprigError(self._unknown_choice(key, group, str(each)))
            self._check_unique(group, each)

    def _unknown_choice(self, key: str, group: str, choice: str) -> str:
        if key in SIZED and re.fullmatch(r"[\d._]+[kKmMbBtT]?", choice):
            return f"{key}={choice} chooses no file of conf/{group}: for a number write {SIZED[key]}={choice}."
        if group in OWN and expanded(choice).exists():
            own = OWN[group].format(key.rpartition("@")[2])
            return f"{key}={choice} chooses no file of conf/{group}: for a path write {key}={own}={choice}."
        options = self.options(group)
        switched = [each for word, names in SWITCHED.items() if choice.lower() in word for each in names]
        near = [each for each in switched if each in options] or [each for each in options if each.startswith(choice)]
        near = near or difflib.get_close_matches(choice.removesuffix(".yaml"), options, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"{self.listed(group)}."
        return f"There is no {key}={choice}: {hint}"

    def _check_unique(self, group: str, choice: str) -> None:
        texts: dict[str, Path] = {}
        for source in self.repository.get_sources():
            if (
                source.provider in ("main", SEARCHED)
                and source.scheme() == "file"
                and source.is_config(f"{group}/{choice}")
            ):
                path = Path(source.path.removeprefix("file://"), group, f"{choice}.yaml")
                texts.setdefault(path.read_text(encoding="utf-8"), path)
        if len(texts) > 1:
            raise SprigError(f"{' and '.join(map(str, texts.values()))} are both {group}={choice}: rename your own.")

    def listed(self, group: str) -> str:
        return f"the choices are {', '.join(self.options(group))}"
