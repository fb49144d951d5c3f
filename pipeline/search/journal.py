"""The search's journal: one JSON line an evaluation, in ask order. An interrupted search resumes from it."""

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

from pipeline.errors import SprigError
from pipeline.subnetwork.value import SubNetwork

log = logging.getLogger("sprig")


class Journal:
    """Evaluations of one search, on disk and in memory: `losses` has the loss of every block by a sub-network's key.

    The first line names the search by its fingerprint. A line that a kill cut short is dropped, with a warning.

    Raises:
        SprigError: the journal belongs to another search.
    """

    def __init__(self, path: Path, fingerprint: str):
        self.path = path
        self.losses: dict[str, list[float]] = {}
        lines = self._whole_lines() if path.exists() else []
        if lines and lines[0].get("search") != fingerprint:
            raise SprigError(
                f"{path} belongs to search {lines[0].get('search')}, not to {fingerprint}: remove it to start again."
            )
        for line in lines[1:]:
            self.losses[line["key"]] = [*map(_from_json, line["losses"])]
        self._file = path.open("a", encoding="utf-8")
        if not lines:
            self._write({"search": fingerprint})

    def _whole_lines(self) -> list[dict]:
        text = self.path.read_bytes()
        end = text.rfind(b"\n") + 1
        if end < len(text):
            log.warning("%s: the last line was cut short by a kill; that evaluation is repeated.", self.path.name)
            with self.path.open("r+b") as file:
                file.truncate(end)
        return [json.loads(line) for line in text[:end].splitlines()]

    def add(self, sub: SubNetwork, losses: list[float], fitness: float, **facts: Any) -> dict:
        """Appends one evaluation, durably; the line without the sub-network and the losses."""
        self.losses[sub.key] = losses
        line = {"key": sub.key, "blocks": len(losses), "fitness": _to_json(fitness), **facts}
        self._write(line | {"losses": [*map(_to_json, losses)], "subnetwork": sub.to_dict()})
        return line

    def _write(self, line: dict) -> None:
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> list[dict]:
    """The evaluations of a search so far, in ask order; a loss that was not finite reads as inf."""
    text = path.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()][1:]
    return [
        line
        | {
            "fitness": _from_json(line["fitness"]),
            "losses": [*map(_from_json, line["losses"])],
            "subnetwork": SubNetwork.from_dict(line["subnetwork"]),
        }
        for line in lines
    ]


def _to_json(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _from_json(value: float | None) -> float:
    return math.inf if value is None else value
