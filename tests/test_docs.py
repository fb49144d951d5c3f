"""README and docs: their commands work, their links lead somewhere, and the configuration's page is the schema's."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import __main__ as entrypoint
from pipeline import compose
from pipeline.config.reference import page

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCES = re.findall(r"^```\w*\n(.*?)^```", "\n".join(path.read_text() for path in PAGES), re.MULTILINE | re.DOTALL)
COMMANDS = sorted(
    {line for fence in FENCES for line in fence.splitlines() if re.match(r"sprig |python -m launch", line)}
)
SPRIG = [command for command in COMMANDS if command.startswith("sprig ")]
AT_ONCE = [command for command in SPRIG if "plan=true" in command and "run=" not in command]
ELSEWHERE = ("launchers.deepspeed", "launchers.slurm", "launcher=slurm")  # want machines; tests/launchers has stand-ins
AT_LENGTH = [
    command
    for command in COMMANDS
    if ("experiment=" in command or "run=" in command)
    and "plan=true" not in command
    and not any(launcher in command for launcher in ELSEWHERE)
]


def arguments(command: str) -> list[str]:
    return shlex.split(command)[1:]


def test_the_page_of_the_configuration_is_made_from_the_schema():
    assert (ROOT / "docs/config.md").read_text() == page(), "make docs/config.md anew: python -m pipeline.config"


def test_there_are_commands_of_every_kind():
    assert len(SPRIG) >= 15 and len(AT_ONCE) >= 5 and len(AT_LENGTH) >= 8


@pytest.mark.parametrize("command", [command for command in SPRIG if " -" not in command])
def test_every_command_composes(command, smoke_outputs):
    overrides = arguments(command)
    if any(override.startswith("run=") for override in overrides):
        overrides = [f"run={smoke_outputs / 'smoke/latest'}" if each.startswith("run=") else each for each in overrides]
    compose(overrides)


@pytest.mark.parametrize("command", AT_ONCE)
def test_every_plan_is_made(command, capsys, tmp_path):
    entrypoint.main([*arguments(command), f"outputs={tmp_path}"])
    assert "would do" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("command", AT_LENGTH)
def test_every_command_runs_at_the_size_of_the_smoke_preset(command, smoke_outputs, tmp_path):
    """A preset's own size takes from minutes to days; tests/stages/test_quickstart.py runs the quickstart's."""
    command = re.sub(r"experiment=[\w/-]+", "experiment=smoke", command)
    command = re.sub(r"run=\S+", f"run={smoke_outputs / 'smoke/latest'}", command)
    command = re.sub(r"export\.to=\S+", f"export.to={tmp_path / 'model'}", command)
    command = re.sub(r"^sprig", "python -m pipeline", command).replace("python", sys.executable, 1)
    if "run=" not in command:
        command += f" outputs={tmp_path}"
    done = subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_there(path):
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    for link in links:
        assert "://" in link or (path.parent / link).exists(), link
