"""Where metrics go beside the run folder: nowhere, or Weights & Biases."""

import os
from pathlib import Path

from pipeline.config import Config, TrackerKind, to_plain
from pipeline.ranks import rank


class Tracker:
    """`log(values)` takes flat dictionaries of numbers; off by default and on ranks other than 0."""

    def __init__(self):
        self._run = None

    def start(self, config: Config, folder: Path) -> None:
        """wandb resumes under the run's own id; without a key it keeps its files in the run folder."""
        if config.tracker.kind == TrackerKind.none or rank() != 0:
            return
        import wandb

        keyed = os.environ.get("WANDB_API_KEY") or wandb.api.api_key
        self._run = wandb.init(
            project=config.tracker.project,
            id=f"{folder.parent.name}-{folder.name}",
            resume="allow",
            group=config.preset,
            dir=str(folder),
            mode=config.tracker.mode or ("online" if keyed else "offline"),
            config=to_plain(config),
        )

    def log(self, values: dict) -> None:
        if self._run is not None:
            self._run.log(values)

    def finish(self, summary: dict | None) -> None:
        if self._run is not None:
            self._run.summary.update(summary or {})
            self._run.finish()
