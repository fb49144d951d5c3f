"""The options of the command line, apart from the words KEY=VALUE, and what to write instead of others."""

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from pipeline.command_line.bare_words import command
from pipeline.command_line.overrides import SEARCHPATH
from pipeline.config import keys
from pipeline.config.paths import absolute
from pipeline.errors import SprigError

SHOWN = ("job", "hydra", "all")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
ACTIONS = {f"{action}={shell}" for action in ("install", "uninstall", "query") for shell in ("bash", "fish", "zsh")}
NOT_OURS = {
    "--config-path": "Sprig has one configuration; --config-dir DIR adds a folder of your own choices to it",
    "--config-name": "Sprig has one configuration; --config-dir DIR adds a folder of your own choices to it",
    "--experimental-rerun": "the same command again, or run=FOLDER, resumes a run",
}
SHORT = {"-cp": "--config-path", "-cn": "--config-name"}


@dataclass(frozen=True)
class Command:
    """A command line: its words, and the options that stood among them.

    `show`: which part of the configuration is printed instead of a run. `hydra`: Hydra's own pages are asked for.
    """

    words: list[str]
    multirun: bool = False
    help: bool = False
    version: bool = False
    show: str | None = None
    package: str | None = None
    resolve: bool = False
    hydra: bool = False


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SprigError(f"{message}: `sprig --help` lists the options.")


def parse(arguments: Sequence[str]) -> Command:
    """Splits a command line into options and words.

    Raises:
        SprigError: an option is unknown, or they contradict one another; what to write instead is named.
    """
    if arguments and (meant := command(arguments[0])):
        raise SprigError(meant)
    parser = _options()
    for name in [each.partition("=")[0] for each in arguments]:
        if name in SHORT or name in NOT_OURS:
            raise SprigError(_instead(name, parser))
    given, rest = parser.parse_known_intermixed_args(list(arguments))
    words = list(given.words)
    if unknown := [each for each in rest if each.startswith("-")]:
        raise SprigError(_instead(unknown[0], parser))
    words += rest
    if given.config_dir:
        folders = ",".join(f"'{absolute(each)}'" for each in given.config_dir)
        words.insert(0, f"{SEARCHPATH}=[{folders}]")
    if given.run:
        words.append("hydra.mode=RUN")
    if given.run and given.multirun:
        raise SprigError("--run asks for one run and --multirun for a sweep: leave one of them out.")
    if given.shell_completion and sum(word in ACTIONS for word in words) != 1:
        raise SprigError("--shell-completion needs one action: install=SHELL or uninstall=SHELL, of bash, fish or zsh.")
    pages = {"--hydra-help": given.hydra_help, "--info": given.info, "--shell-completion": given.shell_completion}
    others = {"--cfg": given.cfg, "--multirun": given.multirun, "--run": given.run}
    hydra = any(pages.values())
    if hydra and len(both := [name for name, value in {**pages, **others}.items() if value]) > 1:
        raise SprigError(f"{' and '.join(both)} cannot be given together: leave all but one of them out.")
    help_asked = given.help or not {word for word in words if not word.startswith((SEARCHPATH, "plan="))}
    return Command(
        words, given.multirun, help_asked and not (given.cfg or given.version or hydra), given.version, given.cfg,
        given.package, given.resolve, hydra,
    )  # fmt: skip


def _options() -> _Parser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-r", "--run", action="store_true")
    parser.add_argument("-c", "--cfg", choices=SHOWN)
    parser.add_argument("-p", "--package")
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("-cd", "--config-dir", action="append")
    parser.add_argument("--hydra-help", action="store_true")
    parser.add_argument("-i", "--info", nargs="?", const="all", choices=INFO)
    parser.add_argument("-sc", "--shell-completion", action="store_true")
    return parser


def _instead(option: str, parser: _Parser) -> str:
    name, given, value = option.partition("=")
    name = SHORT.get(name, name)
    if name in NOT_OURS:
        return f"{name} is an option of Hydra that Sprig does not support: {NOT_OURS[name]}."
    key = name.lstrip("-").replace("-", "_")
    found = keys.find(key)
    if found is not None and not found.is_section:
        switch = "true" if found.hint is bool else "VALUE"
        return f"{option} is not an option: write {key}={value if given else switch}, without dashes."
    if meant := keys.ELSEWHERE.get(key):
        return f"{option} is not an option: write {meant}=VALUE, without dashes."
    known = [each for action in parser._actions for each in action.option_strings]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    hint = (
        f"did you mean {near[0]}?"
        if near
        else f"values are set without dashes, {key or 'key'}=VALUE; see `sprig --help`."
    )
    return f"{option} is not an option: {hint}"
