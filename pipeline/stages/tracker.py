"""Where metrics go while they come: the run folder always, Weights & Biases when asked."""

import json
import os
from pathlib import Path

from pipeline.config import Config, TrackerKind, to_plain
from pipeline.ranks import rank
from pipeline.training.metrics import METRICS


class Tracker:
    """Takes lines {"role": which model or search, name: value, ...}; quiet before `start` and on ranks other than 0."""

    def __init__(self):
        self._path, self._run = None, None

    def start(self, config: Config, folder: Path) -> None:
        """wandb resumes under the run's own id; without a key it keeps its files in the run folder."""
        if rank() != 0:
            return
        self._path = folder / METRICS
        if config.tracker.kind == TrackerKind.none:
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

    def log(self, line: dict) -> None:
        """A metric that has just come. The stage's end writes the file anew, from the artifacts."""
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        self.track(line)

    def track(self, line: dict) -> None:
        """To wandb alone: a metric that an earlier run has made."""
        if self._run is not None:
            role = line["role"]
            self._run.log({f"{role}/{name}": value for name, value in line.items() if isinstance(value, int | float)})

    def finish(self, summary: dict | None) -> None:
        if self._run is not None:
            self._run.summary.update(summary or {})
            self._run.finish()
