"""The answers to a task's requests, on disk as they come: an interrupted task resumes from them."""

import json
import os
from collections import defaultdict
from pathlib import Path

from pipeline.artifacts import json_lines

Answer = tuple[float, bool]  # log-likelihood in nats, whether greedy decoding gives this continuation


class Answers:
    """One JSON line a batch: the call that asked (a task may make several), and [place of the request, answer] pairs.

    Of an earlier process, what follows the first line that a kill cut short or that is damaged is dropped.
    """

    def __init__(self, path: Path):
        self.path = path
        self._calls: dict[int, dict[int, Answer]] = defaultdict(dict)
        intact = 0
        for line, end in zip(*json_lines(path), strict=True):
            try:
                answers = {int(place): (float(value), bool(greedy)) for place, value, greedy in line["answers"]}
                self._calls[int(line["call"])] |= answers
            except (LookupError, TypeError, ValueError):
                break
            intact = end
        if path.exists():
            os.truncate(path, intact)

    def of_call(self, call: int) -> dict[int, Answer]:
        return self._calls[call]

    def add(self, call: int, answers: dict[int, Answer]) -> None:
        self._calls[call] |= answers
        line = {"call": call, "answers": [[place, *answer] for place, answer in answers.items()]}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
