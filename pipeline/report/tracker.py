"""Where metrics go while they come: the run folder always, Weights & Biases when asked."""

import json
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, cast

from pipeline.config import STAGES, Config, TrackerKind, to_plain
from pipeline.errors import reason
from pipeline.ranks import rank
from pipeline.report import plots, sentences, tables
from pipeline.report.material import Material
from pipeline.report.schema import Candidate, Summary, random_weights, trained_models
from pipeline.training.metrics import METRICS

TRACKED = "metrics of"  # in wandb's summary: the roles whose metrics it has

log = logging.getLogger("sprig")


class Tracker:
    """Takes lines {"role": which model or search, name: value, ...}; quiet before `start` and on ranks other than 0."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._run: Any = None
        self._defined: set[str] = set()  # roles whose metrics wandb knows how to draw
        self._sent: set[tuple[Any, ...]] = set()  # the lines that this command has sent

    def start(self, config: Config, folder: Path) -> None:
        """wandb resumes under the run's own id, in the group of its sweep or preset. Without a key, with a wrong one,
        or with a server that does not answer, it keeps its files in the run folder: one folder a command, of which the
        newest has everything."""
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
                mode=cast(Literal["online", "offline"], mode),
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
                "wandb cannot be reached (%s): the run is logged offline; `wandb sync` uploads it later.",
                reason(error),
            )
            wandb.teardown()  # its service would still hold the run's id
            self._run = begin("offline")
        if self._run.offline:
            self._send_again()

    def _send_again(self) -> None:
        """What earlier commands of the run have logged. Offline, wandb cannot append to what it has of a run, and
        begins a new folder: this way, the newest one is complete, and the only one to sync."""
        if self._path is None or not self._path.exists():
            return
        for line in self._path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # a kill can cut a line short
                self._track(json.loads(line))

    def log(self, line: dict[str, Any]) -> None:
        """A new metric. At the end of the stage the file is rewritten from the artifacts."""
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        self._track(line)

    def found(self, role: str, lines: list[dict[str, Any]]) -> None:
        """To wandb alone: metrics that an earlier run has made, where this one's has none of the role yet."""
        if self._run is not None and role not in self._tracked():
            for line in lines:
                self._track(line)

    def _tracked(self) -> list[str]:
        """Roles whose metrics wandb has, those of earlier commands included."""
        return str(self._run.summary.get(TRACKED) or "").split()

    def _track(self, line: dict[str, Any]) -> None:
        if self._run is None:
            return
        role = line["role"]
        # Steps after the last checkpoint come a second time when a training resumes.
        what = (role, line.get("step"), line.get("key"), "validation_nll" in line)
        if what in self._sent:
            return
        self._sent.add(what)
        if role not in self._defined:
            self._defined.add(role)
            # Else the last value of every metric would bury the result in the run's summary.
            step = {"step_metric": f"{role}/tokens"} if "tokens" in line else {}
            self._run.define_metric(f"{role}/*", summary="none", **step)
            self._run.summary[TRACKED] = " ".join(dict.fromkeys([*self._tracked(), role]))
        self._run.log({f"{role}/{name}": value for name, value in line.items() if isinstance(value, int | float)})

    def report(self, material: Material, folder: Path) -> None:
        """Summary, tables, plots, and the artifacts as references to where they lie."""
        if self._run is None:
            return
        import wandb

        self._run.summary.update(results(material.summary))
        shown: dict[str, Any] = {
            name: wandb.Table(columns=[*columns], data=rows) for name, (columns, rows) in _tables(material).items()
        }
        for plot in plots.of(material):
            shown[f"plots/{plot.name}"] = wandb.Html(str(folder / plot.file), inject=False)
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


def results(summary: Summary) -> dict[str, Any]:
    """What wandb's overview and its table of runs show: the few numbers that a run is made for. All others are in
    summary.json, which the report's artifact refers to."""
    found: dict[str, Any] = {"status": summary["status"], "result": sentences.result(summary)}
    found["teacher perplexity"] = summary["teacher"]["perplexity"]
    found["teacher bits per byte"] = summary["teacher"].get("bits_per_byte")
    for role, model in trained_models(summary).items():
        found[f"{role} perplexity"] = model["final_perplexity"]
        found[f"{role} bits per byte"] = model.get("final_bits_per_byte")
    found["untrained perplexity"] = summary["student"]["untrained_perplexity"]
    found["recovered perplexity"] = summary["student"].get("recovered_perplexity")
    found["student parameters"] = summary["student"]["parameters"]
    if (saving := summary["saving"]) is not None and not random_weights(summary):
        found |= {"saving, tokens": saving["tokens"], "saving, total FLOPs": saving["total_flops"]}
    return {name: value for name, value in found.items() if value is not None}


def _tables(material: Material) -> dict[str, tuple[list[str], list[Any]]]:
    """Header and rows by name."""
    summary = material.summary
    found: dict[str, tuple[list[str], list[Any]]] = {"models": (tables.HEADER, tables.rows(summary))}
    found |= {title.lower(): (header, body) for title, header, body, _ in tables.further(summary)}
    for role, candidates in material.candidates.items():
        found[f"{role}/candidates"] = (CANDIDATE, [_candidate(line) for line in candidates])
    return found


CANDIDATE = ["sub-network", "tokens", "parameters", "layers", "width", "blocks", "fitness"]


def _candidate(line: Candidate) -> list[Any]:
    """A candidate's last evaluation; a fitness that is not finite is left empty."""
    sub, fitness = line["subnetwork"], line["fitness"] if line["fitness"] < float("inf") else None
    return [sub.key, line["tokens"], line["parameters"], sub.n_layer, sub.n_embd, line["blocks"], fitness]
