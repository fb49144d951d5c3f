"""README and docs: their commands work, their links lead somewhere, and the configuration's page is the schema's."""

import json
import re
import runpy
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import transcripts
from covering import slow
from runs import write_llama, write_texts

from launchers.sweep import launcher
from pipeline import cli, commands, compose
from pipeline.command_line.arguments import parse
from pipeline.command_line.composition import composed, starts_jobs
from pipeline.config import unread
from pipeline.config.reference import page
from pipeline.evaluation import tasks_data

ROOT = Path(__file__).parent.parent
COMMAND_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*COMMAND_PAGES, ROOT / "CONTRIBUTING.md"]
FENCE = re.compile(r"^ *```\w*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)  # indented in a numbered step
BY_HAND = re.findall(r"^\| `(.+?)`", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
TEXTS = [path.read_text() for path in COMMAND_PAGES]


def lines_and_spans(texts: list[str]) -> tuple[list[str], list[str]]:
    """What stands in blocks of code, line by line, and what stands between backticks."""
    lines = [line.strip() for text in texts for fence in FENCE.findall(text) for line in fence.splitlines()]
    spans = [" ".join(span.split()) for text in texts for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]
    return lines, spans


LINES, SPANS = lines_and_spans(TEXTS)
STARTS = re.compile(r"(sprig|make|pip|source|python -m (launch|pipeline|pytest)\S*) \S")
COMMANDS = sorted({each for each in LINES + SPANS if STARTS.match(each) and "..." not in each})
ABOUT_RUNS = [command for command in COMMANDS if commands.named(shlex.split(command)[1:])]
SPRIG = [command for command in COMMANDS if command.startswith("sprig ") and command not in ABOUT_RUNS]
# By which results were measured.
MEASURED = sorted(
    {
        command
        for each in lines_and_spans([path.read_text() for path in sorted((ROOT / "results").rglob("README.md"))])
        for command in each
        if command.startswith("sprig ") and "..." not in command and not re.search(r"(sweep|run)=", command)
    }
)
AT_ONCE = [command for command in SPRIG if "plan=true" in command and "run=" not in command]
# Run, some with other arguments, by tests/launchers, which has stand-ins for machines, tests/test_twins.py,
# tests/test_lab.py, tests/test_cli.py and tests/stages/test_product.py.
ELSEWHERE = ("launcher=slurm", "sweep=", "experiment=twin/", "experiment=lab/p", "experiment=product", "--help")
AT_LENGTH = [
    command
    for command in COMMANDS
    if ("experiment=" in command or "run=" in command)
    and "plan=true" not in command
    and not any(other in command for other in ELSEWHERE)
]
# What a sentence names as `key=value`, one or several. tests/test_presets.py has the presets.
SETTINGS = sorted(
    span
    for span in set(SPANS)
    if all(re.fullmatch(r"\+?(?!hydra|experiment|dry|sweep)[a-z_.]+=[^|]+", word) for word in span.split())
    and "..." not in span
)


def readmes_first(spans: list[str]) -> list:
    """Those of README in `make test`, all in `make test-all`."""
    return [*(each for each in spans if each in TEXTS[0]), *slow([each] for each in spans if each not in TEXTS[0])]


def arguments(command: str) -> list[str]:
    return shlex.split(command)[1:]


def test_the_page_of_the_configuration_is_made_from_the_schema():
    assert (ROOT / "docs/config.md").read_text() == page(), "rewrite docs/config.md: python -m pipeline.config"


def test_the_page_of_the_api_is_made_from_its_docstrings():
    made = runpy.run_path(str(ROOT / "docs/api.py"))["page"]()
    assert (ROOT / "docs/api.md").read_text() == made, "rewrite docs/api.md: python docs/api.py"


def test_the_support_matrix_is_what_tests_prove():
    made = runpy.run_path(str(ROOT / "docs/support.py"))["page"]()
    assert (ROOT / "docs/support.md").read_text() == made, "rewrite docs/support.md: python docs/support.py"


def test_there_are_commands_of_every_kind():
    assert len(SPRIG) >= 15 and len(AT_ONCE) >= 5 and len(AT_LENGTH) >= 8 and len(SETTINGS) >= 20


def test_every_command_is_run_by_tests_or_was_run_by_hand():
    by_tests = {command for command in COMMANDS if any(other in command for other in ELSEWHERE)}
    by_tests |= {*AT_ONCE, *AT_LENGTH, *ABOUT_RUNS}
    assert set(COMMANDS) == by_tests | set(BY_HAND)
    assert not by_tests & set(BY_HAND), "a test runs it by now"


@pytest.mark.parametrize("setting", readmes_first(SETTINGS))
def test_every_setting_that_a_sentence_names_composes(setting):
    compose(["experiment=smoke", *shlex.split(setting)])


@pytest.mark.parametrize(
    "command", readmes_first([each for each in SPRIG if " -" not in each and "sweep=" not in each])
)
def test_every_command_composes(command, smoke_outputs):
    overrides = arguments(command)
    if any(override.startswith("run=") for override in overrides):
        overrides = [f"run={smoke_outputs / 'smoke/latest'}" if each.startswith("run=") else each for each in overrides]
    if starts_jobs(overrides):
        overrides = [each for each in overrides if "hydra" not in each]
        assert unread(compose([*overrides, "hydra.mode=RUN"]), overrides) == []
    else:
        assert unread(compose(overrides), overrides) == []


@pytest.mark.parametrize("command", slow([command] for command in MEASURED))
def test_every_command_of_the_results_composes(command):
    composed([word for word in arguments(command) if word != "-m"], sweeps=True)


@pytest.mark.parametrize("command", readmes_first(AT_ONCE))
def test_every_plan_is_made(command, capsys, tmp_path):
    cli.main([*arguments(command), f"outputs={tmp_path}"])
    assert "would do" in capsys.readouterr().out


@pytest.mark.parametrize("command", ABOUT_RUNS)
def test_every_command_about_runs_finds_none_here(command, tmp_path, monkeypatch):
    """Its words are right, and tests/commands has runs for it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments(command))
    assert re.search("is not a run|has no runs|is not a subnetwork.json", stopped.value.code)


def test_the_pages_own_configuration_is_a_sweep_of_three_runs(tmp_path, monkeypatch):
    """The files of docs/extend.md, written where it says."""
    first, second = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/extend.md").read_text(), re.DOTALL)
    for name, text in (("bin/small", first), ("experiment/mine", second)):
        (file := tmp_path / f"my-conf/{name}.yaml").parent.mkdir(parents=True)
        file.write_text(textwrap.dedent(text))
    monkeypatch.chdir(tmp_path)
    words = parse(["--config-dir", "my-conf", "experiment=mine"]).words
    assert starts_jobs(words)
    commands: list[list[str]] = []
    monkeypatch.setattr(launcher.SweepLauncher, "launch", lambda sweep, *_: commands.append(sweep.command))
    launcher.start(words)
    monkeypatch.chdir("/")
    config = compose([*commands[0][2:], "hydra.mode=RUN"])  # what the sweep's report gives, elsewhere
    assert (config.preset, config.bin.center, config.distill.tokens) == ("mine", 60_000_000, 10_240)


@pytest.mark.slow
@pytest.mark.parametrize("command", AT_LENGTH)
def test_every_command_runs_at_the_size_of_the_smoke_preset(command, smoke_outputs, tmp_path):
    """A preset's own size takes from minutes to days; tests/stages/test_quickstart.py runs the quickstart's."""
    if "evaluate.tasks" in command and tasks_data.installed() is None:
        pytest.skip("the tasks' data is not here: make tasks")
    command = re.sub(r"experiment=[\w/-]+", "experiment=smoke", command)
    command = re.sub(r"run=\S+", f"run={(smoke_outputs / 'smoke/latest').resolve()}", command)
    command = re.sub(r"export\.to=\S+", f"export.to={tmp_path / 'model'}", command)
    command = re.sub(r"^sprig", "python -m pipeline", command).replace("python", sys.executable, 1)
    if "run=" not in command:
        command += f" outputs={tmp_path}"
    if "evaluate.tasks" in command and "evaluate.limit" not in command:
        command += " evaluate.limit=10"
    done = subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_the_transcripts_show_what_their_commands_print(tmp_path):
    """Where they do not any more: python tests/transcripts.py."""
    write_llama(tmp_path / "my-model")
    write_texts(tmp_path / "my-texts")
    printed, shown = transcripts.page(tmp_path), transcripts.PAGE.read_text()
    assert shown.count("$ sprig ") >= 6
    assert transcripts.same_anywhere(printed) == transcripts.same_anywhere(shown)
    model = json.loads((tmp_path / "my-student/config.json").read_text())
    assert model["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_there(path):
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    for link in links:
        assert "://" in link or (path.parent / link).exists(), link
