"""What to write instead of an argument that is not KEY=VALUE, and so sets nothing."""

import difflib

from pipeline.command_line.group_choices import Choices
from pipeline.config import ON_REQUEST, STAGES, keys
from pipeline.config.derived import tokens_of
from pipeline.config.values import count
from pipeline.errors import SprigError

# What people write for the commands about runs and about the store, and what takes its place.
INSTEAD = {
    **dict.fromkeys(("runs", "list", "ls", "ps", "status", "jobs"), "sprig runs"),
    **dict.fromkeys(("rm", "delete", "del", "remove"), "sprig rm RUN"),
    **dict.fromkeys(("describe", "info", "show", "inspect"), "sprig describe RUN"),
    **dict.fromkeys(("compare", "diff"), "sprig compare RUN RUN"),
    **dict.fromkeys(("clean", "cleanup", "prune", "gc"), "python -m pipeline.artifacts clean"),
    **dict.fromkeys(("verify", "check", "fsck"), "python -m pipeline.artifacts verify"),
    **dict.fromkeys(("artifacts", "store", "du"), "python -m pipeline.artifacts list"),
}
EMPTY = "An argument is empty: leave it out, or check the shell variable in its place."
STARTS = ("run", "start", "train", "launch")  # a word that a run does without


def command(word: str) -> str | None:
    """What to write instead of a word that looks like a command; None if it does not."""
    if word in INSTEAD:
        return f"{word!r} sets nothing: write {INSTEAD[word]}."
    return None


def instead(word: str, before: str, choices: Choices) -> str:
    """One sentence; `before` is the argument before the word."""
    key, given, value = before.partition("=")
    text = keys.find(key.lstrip("+"))
    if not word.strip():
        return EMPTY
    if word.strip() in ("help", "version"):
        return f"{word} is an option: sprig --{word.strip()}."
    if meant := command(word):
        return meant
    if word in STARTS:
        return f"Leave {word} out: sprig starts a run without it. To reopen a run, write run=FOLDER."
    if word in (*STAGES, *ON_REQUEST):
        return f"{word} is a stage: sprig run=FOLDER stages=[{word}], or add stages=[{word}] to a command."
    if meant := keys.ELSEWHERE.get(word):
        return f"{word} needs a value: write {meant}=VALUE."
    if word == keys.BUDGET or keys.find(word) is not None or choices.repository.group_exists(word):
        value = "true" if word == "plan" else "VALUE"
        return f"{word} needs a value: write {word}={value}, without spaces around the = sign."
    if given and _is_count(key, f"{value}{word}"):
        return f"{word!r} sets nothing: write {key}={value}{word}, without a space."
    if given and text is not None and (text.is_text or text.is_path):
        return f"{word!r} sets nothing: a value with spaces needs quotes, {key}={f'{value} {word}'!r}."
    if found := [f"{group}={word}" for group in choices.groups() if word in choices.options(group)]:
        return f"{word} is a choice of a group: write {' or '.join(found)}."
    hint = f"did you mean {meant}?" if (meant := _nearest(word, choices)) else "`sprig --help` lists the choices."
    return f"{word!r} sets nothing, as arguments are KEY=VALUE: {hint}"


def _nearest(word: str, choices: Choices) -> str | None:
    """A command or a stage that was probably meant, else the choice of a group."""
    if near := difflib.get_close_matches(word, (*INSTEAD, *STAGES, *ON_REQUEST), n=1, cutoff=0.75):
        return INSTEAD.get(near[0]) or f"stages=[{near[0]}]"
    every = {option: group for group in reversed(choices.groups()) for option in choices.options(group)}
    near = difflib.get_close_matches(word, every, n=1)
    return f"{every[near[0]]}={near[0]}" if near else None


def _is_count(key: str, value: str) -> bool:
    """Whether a key takes this as a number: 2B, or 8h@210k for a budget."""
    found = keys.find(key.lstrip("+"))
    try:
        if key == keys.BUDGET:
            tokens_of(value)
        else:
            count(value if found is not None and found.hint is int else None)
    except (SprigError, ValueError):
        return False
    return True
