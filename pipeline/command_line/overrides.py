"""Checks the words of a command line before Hydra composes them, so that nothing is ignored and nothing is guessed.

Hydra passes over a misspelt choice of an optional group, creates any key behind a +, and explains its grammar rather
than the mistake. Here every argument becomes one that Hydra reads as it was meant, or one sentence with the fix.
"""

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from hydra._internal.config_repository import IConfigRepository
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from pipeline.command_line.bare_words import instead
from pipeline.command_line.group_choices import Choices
from pipeline.command_line.quoting import quoted, quoted_parts
from pipeline.config import Cluster, keys
from pipeline.config.derived import tokens_of
from pipeline.config.keys import Key
from pipeline.errors import SprigError

SEARCHPATH = "hydra.searchpath"
TOKENS = "distill.tokens"  # the key that a budget sets
PROMPTS = ("prompt", "evaluate.prompt")  # texts of any characters
FOLDERS = ("run", "sweep")  # keys that decide what kind of command it is
HONOURED = ("hydra.mode", SEARCHPATH, "hydra.launcher", "hydra.sweeper")  # of Hydra's own keys
PARTS_OF_A_NEW_RUN = ("experiment", "size", "teacher", "data")  # whose choices are more than a few values
NULLABLE = "teacher@kd_teacher"  # the one group where null is a choice: the same teacher
_WORD = re.compile(r"(?P<prefix>~|\+\+|\+)?(?P<key>[^=~+][^=]*?)(?P<given>=(?P<value>.*))?", re.DOTALL)
_SEPARATED = re.compile(r"-?\d{1,3}([.,]\d{3})+")  # thousands, or a decimal fraction
_HOME = re.compile(r"(^|[\[,]\s*)(~[^/,\]\s]*)(?=[/,\]]|$)")


def key_of(word: str) -> str:
    """The key or group that a word KEY=VALUE sets, without Hydra's prefix."""
    return word.lstrip("+").partition("=")[0].strip()


def set_by(word: str) -> str:
    """The key that a word sets or removes; of a budget, that of the tokens."""
    key = key_of(word.lstrip("+~"))
    return TOKENS if key == keys.BUDGET else key


def given_by(words: Iterable[str]) -> dict[str, str]:
    """What the words set, by key, as it is written."""
    return {set_by(word): word.partition("=")[2] for word in words}


def refuse_hydra(key: str) -> NoReturn:
    raise SprigError(
        f"{key} has no effect, as Sprig lays out its own folders and logs: set outputs=FOLDER and run_name=NAME for "
        "where results go."
    )


class Words:
    """The words of one command line, checked against the schema and the files of the configuration groups.

    `repository` is Hydra's, over all folders that are searched. `sweeps`: values with commas are axes.
    """

    def __init__(
        self, repository: IConfigRepository, parser: OverridesParser, known_groups: Sequence[str], sweeps: bool
    ):
        self.repository, self.parser, self.known_groups, self.sweeps = repository, parser, known_groups, sweeps
        self.choices = Choices(repository)
        self.kd_teacher = True  # whether the run has a teacher of its own for the distillation

    def checked(self, words: Sequence[str]) -> list[str]:
        """The same words as Hydra should read them, each once.

        Raises:
            SprigError: an argument is not KEY=VALUE, names an unknown key or choice, has no value, or cannot be parsed;
                or two of them contradict each other.
        """
        self._check_once(words)
        found = (self._checked(word, before) for before, word in zip(["", *words], words, strict=False))
        return list(dict.fromkeys(found))

    def _check_once(self, words: Sequence[str]) -> None:
        """Of two values of one key, or two choices of one group, the first would have no effect."""
        given: dict[str, str] = {}
        for word in words:
            match = _WORD.fullmatch(word)
            if match is None or (key := match["key"].strip()) == SEARCHPATH:  # whose folders are all searched
                continue
            first = given.setdefault(set_by(word), word)
            if first.lstrip("+") != word.lstrip("+"):
                what = "choose from one group" if self._is_group(key) else "set the same key"
                raise SprigError(f"{first} and {word} {what}: leave one of them out.")

    def _is_group(self, key: str) -> bool:
        name = key.partition("@")[0]
        return bool(name.strip("/. ")) and self.repository.group_exists(name)  # no name is the folder of all groups

    def _checked(self, word: str, before: str = "") -> str:
        match = _WORD.fullmatch(word)
        if match is None or (match["given"] is None and match["prefix"] != "~"):
            raise SprigError(instead(word, before, self.choices))
        prefix, key, value = match["prefix"] or "", match["key"].strip(), (match["value"] or "").strip()
        if prefix == "~":
            return self._deletion(word, key)
        if key.startswith("hydra"):
            return self._of_hydra(word, prefix, key, value)
        if self._is_group(key):
            return self._choice(prefix, key, value)
        if key == keys.BUDGET:
            values = value.split(",")
            if len(values) > 1 and not self.sweeps:
                raise SprigError(f"{word} names several values: add --multirun to sweep over them.")
            key, value = TOKENS, ",".join(tokens_of(each.strip()) for each in values)
        return self._value(key, value)

    def values(self, words: Sequence[str]) -> dict[str, Any]:
        """The values of words that change a finished run, by their keys. Raises SprigError as `changes`."""
        return {key: each.value() for key, each in self.changes(words).items()}

    def changes(self, words: Sequence[str]) -> dict[str, Override]:
        """The words that change a finished run, by their keys: single keys, not groups.

        Raises:
            SprigError: as `checked`; or an argument chooses from a group.
        """
        self._check_once(words)
        given = {}
        for before, word in zip(["", *words], words, strict=False):
            match = _WORD.fullmatch(word)
            if match and (match["prefix"] == "~" or match["key"].startswith("hydra") or self._is_group(match["key"])):
                raise SprigError(f"{word}: a reopened run keeps its groups; change single values{self._inside(match)}.")
            override = self._parse(self._checked(word, before))
            given[override.key_or_group] = override
        return given

    def _inside(self, match: re.Match) -> str:
        """The values that a choice stands for."""
        group, value = match["key"].partition("@")[0], match["value"]
        if not value or group in PARTS_OF_A_NEW_RUN or not self.repository.config_exists(f"{group}/{value}"):
            return ", such as seed=1"
        loaded = self.repository.load_config(f"{group}/{value}")
        assert loaded is not None
        content: Any = OmegaConf.to_container(loaded.config)
        section = loaded.header["package"] or group
        prefix = "" if section == "_global_" else f"{section}."
        single = {key: each for key, each in content.items() if not isinstance(each, dict | list)}
        flat = [f"{prefix}{key}={each}" for key, each in single.items() if "${" not in str(each)]
        return f", such as {' '.join(flat[:4])}" if flat else ""

    def _deletion(self, word: str, key: str) -> str:
        found = keys.find(key)
        declared = key.startswith("hydra.sweeper.params.")
        if key in self.known_groups or declared or (found is not None and found.name != key):
            return word
        raise SprigError(
            f"{word}: only a chosen group or an axis of a preset can be removed. Leave {key.partition('=')[0]} out to "
            "keep its default, or set it to another value."
        )

    def _of_hydra(self, word: str, prefix: str, key: str, value: str) -> str:
        if key == "hydra/launcher":
            if "," in value:
                raise SprigError(f"{key}={value} names several choices: one launcher starts all jobs, so name one.")
            self._choice(prefix, key, value)
        elif key == "hydra/sweeper":
            self.choices.check("hydra/sweeper", [value])
        elif key.startswith(f"{keys.LAUNCHER}."):
            return self._value(key, value)
        elif key in (keys.LAUNCHER, "hydra.sweeper") or key.startswith("hydra.sweeper.params"):
            raise SprigError(
                f"{word} is not a single key: give each axis as an argument of its own, seed=1,2, and choose a "
                f"launcher or a sweeper as hydra/launcher={Cluster.local}."
            )
        elif not any(key == name or key.startswith(f"{name}.") for name in HONOURED):
            refuse_hydra(key)
        self._parse(word)
        return word

    def _choice(self, prefix: str, key: str, value: str) -> str:
        group = key.partition("@")[0]
        if group == "hydra/launcher" and value in ("basic", "joblib", "submitit_local", "submitit_slurm"):
            raise SprigError(
                f"hydra/launcher={value}: Sprig's sweeps start their jobs themselves; choose local or slurm."
            )
        if not value:
            raise SprigError(f"{key}= names no choice: {self.choices.listed(group)}.")
        value = quoted_parts(value)
        override = self._parse(f"{key}={value}")
        if override.is_sweep_override() and not self.sweeps:
            raise SprigError(f"{key}={value} names several choices: add --multirun to sweep over them.")
        if override.is_sweep_override():
            chosen = [each.strip("'\"") for each in override.sweep_string_iterator()]
        else:
            given = override.value()
            chosen = given if isinstance(given, list) else ["null" if given is None else str(given)]
        if key != NULLABLE and "null" in chosen:
            raise SprigError(f"{key}=null names no choice: leave it out, or choose one; {self.choices.listed(group)}.")
        self.choices.check(key, [each for each in chosen if each != "null"])
        if chosen == ["null"]:
            return f"~{key}"
        # A group that the command's preset does not use yet is appended: `kd=on` for the quickstart.
        return f"{'' if key in self.known_groups else '+'}{key}={value}"

    def _value(self, key: str, value: str) -> str:
        found = keys.find("run" if key in FOLDERS else key)  # both are folders
        if key in FOLDERS and value in ("", "null"):
            raise SprigError(f"{key}={value} names no folder: give that of a {key}, {key}=FOLDER, or leave it out.")
        if found is None:
            raise SprigError(keys.unknown(key))
        if key.startswith("kd_teacher.") and not self.kd_teacher:
            raise SprigError(
                f"{key}={value} changes a kd_teacher, but this run distils from the teacher that is cut: choose one, "
                f"{NULLABLE}=CHOICE."
            )
        if found.is_section:
            raise SprigError(keys.section(found, value, self.repository.group_exists("teacher")))
        if not value and key not in PROMPTS:
            raise SprigError(f"{key}= has no value: give one{', or null' if found.field.default is None else ''}.")
        if found.hint is int and _SEPARATED.fullmatch(value) and not ("," in value and self.sweeps):
            digits = re.sub("[.,]", "_", value)
            raise SprigError(f"{key}={value} could be read in two ways: write {key}={digits}, or use k, M, B or T.")
        if found.is_list and re.fullmatch(r"[\w.+-]+", value) and value != "null":
            value = f"[{value}]"  # one value of a list needs no brackets
        if found.is_path:
            value = _HOME.sub(lambda each: each[1] + os.path.expanduser(each[2]), value)
        if (found.is_text or found.is_path) and self._is_plain_text(found, value):
            if found.name in PROMPTS:
                value = value.replace("${", "\\${")  # text, not an interpolation
            value = quoted(value)
        # Keys of a dictionary may be new to it.
        is_new = found.is_open and (found.name != key or value.startswith("{"))
        return self._parsed(f"++{key}" if is_new else key, value)

    def _is_plain_text(self, key: Key, value: str) -> bool:
        """Whether a text is taken literally: not quoted, a list, an interpolation, null, or several values."""
        if value == "null" or (len(value) > 1 and value[0] == value[-1] and value[0] in "'\""):
            return False
        interpolated = value.startswith("${") and value.isascii() and key.name not in PROMPTS
        if interpolated or (not key.is_text and value.startswith("[")):
            return False
        return not (
            self.sweeps and ("," in value or re.match(r"(choice|range|glob|shuffle|sort|interval|tag)\(", value))
        )

    def _parsed(self, key: str, value: str) -> str:
        value = quoted_parts(value)
        if self._parse(f"{key}={value}").is_sweep_override() and not self.sweeps:
            raise SprigError(
                f"{key.lstrip('+')}={value} names several values: add --multirun to sweep over them, or write "
                "[a,b] for a list."
            )
        return f"{key}={value}"

    def _parse(self, word: str) -> Override:
        try:
            return self.parser.parse_overrides([word])[0]
        except (HydraException, ValueError):  # the latter of a number with thousands of digits
            key, _, value = word.lstrip("+").partition("=")
            if more := re.search(r"(?:\s|,)([\w.@/]+)=", value):
                raise SprigError(
                    f"{key}={value} holds several arguments: give {more[1]}=VALUE as an argument of its own, with a "
                    "space and without quotes around both."
                ) from None
            raise SprigError(
                f"{key}={value} cannot be read: a list is [a,b], and text with spaces, commas, brackets, = or : "
                f"needs its own quotes inside those of the shell, \"{key}='a, b'\"."
            ) from None
