"""The commands that come after a plan."""

import shlex

from pipeline.config import Config


def commands(config: Config, overrides: list[str]) -> list[tuple[str, str]]:
    """Rows of purpose and command, from the words of the plan; none for a plan from Python."""
    processes = config.deepspeed.world_size or 1
    words = [word for word in overrides if word.partition("=")[0] not in ("plan", "debug")]
    started = [word for word in words if not word.startswith("deepspeed.world_size=")]
    run = ["sprig", *words] if processes == 1 else ["python", "-m", "launchers.torchrun", str(processes), *started]
    rows = [("run it: a line for each step, then a table of perplexities and the report", shlex.join(run))]
    if config.plan is True:
        rows.append(("time a few steps on this device first", shlex.join(["sprig", *words, "plan=measure"])))
    return rows if words else []
