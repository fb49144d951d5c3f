"""The commands of docs/transcripts.md with what they print. `python tests/transcripts.py` writes the page again."""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/transcripts.md"
SAID = "The house\n/exit\n"  # in the chat


def page(folder: Path) -> str:
    """As the commands print it now: run in their order in `folder`, which has my-model and my-texts."""
    return re.sub(
        r"(?<=```\n)\$ sprig (.+)\n(?s:.*?)(?=```)",
        lambda block: f"$ sprig {block[1]}\n{_printed(shlex.split(block[1]), folder)}",
        PAGE.read_text(encoding="utf-8"),
    )


def _printed(words: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"},
        input=SAID,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=900,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"sprig {shlex.join(words)} ended with {done.returncode}:\n{done.stdout}")
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def same_anywhere(text: str) -> str:
    """Without what differs between machines: figures, identifiers, time estimates, sampled text, and line breaks."""
    text = re.sub(r"^( *(?:teacher|untrained|student)[:>] ).*$", r"\1", text, flags=re.MULTILINE)
    text = re.sub(r"\b[0-9a-f]{8,}\b|[\d][\d.,:e+-]*", "#", text)
    text = " ".join(re.sub("[━─┳┬┴┼╇├┤┏┓┡┩└┘┌┐│┃]", " ", text).split())
    text = re.sub(r"(# query groups .+? MLP width # of # )+", r"\1", text)  # a search can end elsewhere
    return re.sub(r", about # \w+ left in all|about # \w+(?=, if)", "", text)


def main() -> None:
    from runs import write_llama, write_texts

    with tempfile.TemporaryDirectory() as folder:
        write_llama(Path(folder) / "my-model")
        write_texts(Path(folder) / "my-texts")
        text = page(Path(folder))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
