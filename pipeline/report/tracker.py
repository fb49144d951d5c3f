"""Where metrics go while they come: the run folder always, Weights & Biases when asked."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from pipeline.config import STAGES, Config, TrackerKind, to_plain
from pipeline.models.checkpoint import reason
from pipeline.ranks import rank
from pipeline.report import markdown
from pipeline.report.material import Material
from pipeline.training.metrics import METRICS

log = logging.getLogger("sprig")


class Tracker:
    """Takes lines {"role": which model or search, name: value, ...}; quiet before `start` and on ranks other than 0."""

    def __init__(self):
        self._path, self._run = None, None
        self._over_tokens: set[str] = set()  # roles whose metrics wandb draws over tokens

    def start(self, config: Config, folder: Path) -> None:
        """wandb resumes under the run's own id, in the group of its sweep or preset. Without a key, with a wrong one,
        or with a server that does not answer, it keeps its files in the run folder."""
        if rank() != 0:
            return
        self._path = folder / METRICS
        if config.tracker.kind == TrackerKind.none or not set(config.stages) & set(STAGES):
            return
        import wandb

        def begin(mode: str) -> Any:
            return wandb.init(
                project=config.tracker.project,
                id=f"{folder.parent.name}-{folder.name}",
                resume="allow",
                group=folder.parent.name,  # a sweep's jobs share it
                tags=[config.preset],
                dir=str(folder),
                mode=mode,
                config=to_plain(config),
                settings=wandb.Settings(
                    console="off",
                    init_timeout=config.tracker.timeout,
                    # What is not sent by then stays in the run folder, for `wandb sync`.
                    finish_timeout=10 * config.tracker.timeout,
                ),
            )

        mode = config.tracker.mode or os.environ.get("WANDB_MODE")
        try:
            self._run = begin(mode or ("online" if wandb.login(prompt=False, verify=False) else "offline"))
        except Exception as error:  # of many kinds, and none is worth a run
            if mode == "offline":
                raise
            log.warning(
                "wandb cannot be reached (%s): the run goes on offline; `wandb sync` sends it later.",
                reason(error),
            )
            wandb.teardown()  # its service would still hold the run's id
            self._run = begin("offline")

    def log(self, line: dict) -> None:
        """A metric that has just come. The stage's end writes the file anew, from the artifacts."""
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        self._track(line)

    def found(self, role: str, lines: list[dict]) -> None:
        """To wandb alone: metrics that an earlier run has made, where this one's has none of the role yet."""
        if self._run is not None and not any(key.startswith(f"{role}/") for key in self._run.summary.keys()):  # noqa: SIM118
            for line in lines:
                self._track(line)

    def _track(self, line: dict) -> None:
        if self._run is not None:
            role = line["role"]
            if "tokens" in line and role not in self._over_tokens:
                self._over_tokens.add(role)
                self._run.define_metric(f"{role}/*", step_metric=f"{role}/tokens")
            self._run.log({f"{role}/{name}": value for name, value in line.items() if isinstance(value, int | float)})

    def report(self, material: Material, folder: Path) -> None:
        """Summary, tables, plots, and the artifacts as references to where they lie."""
        if self._run is None:
            return
        import wandb

        summary = material.summary
        self._run.summary.update(summary)
        tables = {"models": (markdown.HEADER, markdown.rows(summary))}
        tables |= {title.lower(): (header, body) for title, header, body, _ in markdown.tables(summary)}
        for role, candidates in material.candidates.items():
            tables[f"{role}/candidates"] = (CANDIDATE, [_candidate(line) for line in candidates])
        shown = {name: wandb.Table(columns=columns, data=rows) for name, (columns, rows) in tables.items()}
        shown |= {f"plots/{plot.stem}": wandb.Image(str(plot)) for plot in sorted(folder.glob("*.png"))}
        self._run.log(shown)
        for role, place in material.done.items():
            name = f"{role}-{place.name}".replace("/", "-")  # of downstream/MODEL/TASK; wandb allows no slash
            artifact = wandb.Artifact(name, type=place.parent.name)
            artifact.add_reference(place.resolve().as_uri(), checksum=False)
            self._run.log_artifact(artifact)

    def finish(self) -> None:
        if self._run is not None:
            failing = sys.exc_info()[0] is not None  # called while an error passes through
            self._run.finish(exit_code=int(failing))


CANDIDATE = ["sub-network", "tokens", "parameters", "layers", "width", "blocks", "fitness"]


def _candidate(line: dict) -> list:
    """A candidate's last evaluation, on so many blocks; a fitness that is not finite is left empty."""
    sub, fitness = line["subnetwork"], line["fitness"] if line["fitness"] < float("inf") else None
    return [sub.key, line["tokens"], line["parameters"], sub.n_layer, sub.n_embd, line["blocks"], fitness]
