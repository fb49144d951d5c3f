"""The search's journal: one JSON line an evaluation, in ask order. An interrupted search resumes from it."""

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

from pipeline.artifacts import digest, json_lines
from pipeline.errors import SprigError
from pipeline.subnetwork.value import SubNetwork

SUM = "sum"  # a line's checksum

log = logging.getLogger("sprig")


class Journal:
    """Evaluations of one search, on disk and in memory: `losses` has the loss of every block by a sub-network's key.

    The first line names the search by its fingerprint. From the first line on that a kill cut short or that is damaged,
    all are dropped, with a warning.

    Raises:
        SprigError: the journal belongs to another search.
    """

    def __init__(self, path: Path, fingerprint: str):
        self.path = path
        self.losses: dict[str, list[float]] = {}
        lines = self._intact_lines() if path.exists() else []
        if lines and lines[0].get("search") != fingerprint:
            raise SprigError(
                f"{path} belongs to search {lines[0].get('search')}, not to {fingerprint}: remove it to start again."
            )
        for line in lines[1:]:
            self.losses[line["key"]] = [*map(_from_json, line["losses"])]
        self._file = path.open("a", encoding="utf-8")
        if not lines:
            self._write({"search": fingerprint})

    def _intact_lines(self) -> list[dict]:
        lines, end = _intact(self.path)
        if end < self.path.stat().st_size:
            log.warning(
                "%s: line %d was cut short by a kill or is damaged; what was evaluated from there on is repeated.",
                self.path.name,
                len(lines) + 1,
            )
            os.truncate(self.path, end)
        return lines

    def add(self, sub: SubNetwork, losses: list[float], fitness: float, **facts: Any) -> dict:
        """Appends one evaluation, durably; the line without the sub-network and the losses."""
        self.losses[sub.key] = losses
        line = {"key": sub.key, "blocks": len(losses), "fitness": _to_json(fitness), **facts}
        self._write(line | {"losses": [*map(_to_json, losses)], "subnetwork": sub.to_dict()})
        return line

    def _write(self, line: dict) -> None:
        self._file.write(json.dumps(line | {SUM: digest(line)}, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> list[dict]:
    """The evaluations of a search so far, in ask order; a loss that was not finite reads as inf."""
    lines, _ = _intact(path)
    return [
        line
        | {
            "fitness": _from_json(line["fitness"]),
            "losses": [*map(_from_json, line["losses"])],
            "subnetwork": SubNetwork.from_dict(line["subnetwork"]),
        }
        for line in lines[1:]
    ]


def _intact(path: Path) -> tuple[list[dict], int]:
    """The lines up to the first that is not one of a journal, the one that names the search included, and their bytes
    in all."""
    lines, ends = json_lines(path)
    wrong = (
        number for number, line in enumerate(lines) if not _is_as_written(line) or (number and not _is_evaluation(line))
    )
    intact = next(wrong, len(lines))
    return lines[:intact], ends[intact - 1] if intact else 0


def _is_as_written(line: dict) -> bool:
    """Takes the checksum out, which lines of earlier versions do not have."""
    try:
        return line.pop(SUM, None) in (None, digest(line))
    except ValueError:  # a NaN, which is never written
        return False


def _is_evaluation(line: dict) -> bool:
    try:
        sub, numbers = SubNetwork.from_dict(line["subnetwork"]), [*line["losses"], line["fitness"]]
        return sub.key == line["key"] and all(isinstance(number, float | int | None) for number in numbers)
    except (SprigError, LookupError, TypeError, ValueError, AttributeError):
        return False


def _to_json(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _from_json(value: float | None) -> float:
    return math.inf if value is None else value
