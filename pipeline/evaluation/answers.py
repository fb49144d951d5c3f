"""The answers to a task's requests, on disk as they come: an interrupted task resumes from them."""

import json
import os
from collections import defaultdict
from pathlib import Path

Answer = tuple[float, bool]  # log-likelihood in nats, whether greedy decoding gives this continuation


class Answers:
    """One JSON line a batch: the call that asked (a task may make several), and [place of the request, answer] pairs.

    The last line of an earlier process, where a kill cut it short, is dropped.
    """

    def __init__(self, path: Path):
        self.path = path
        self._calls: dict[int, dict[int, Answer]] = defaultdict(dict)
        if path.exists():
            whole = path.read_bytes()
            whole = whole[: whole.rfind(b"\n") + 1]
            os.truncate(path, len(whole))
            for line in map(json.loads, whole.splitlines()):
                self._calls[line["call"]] |= {place: (value, greedy) for place, value, greedy in line["answers"]}

    def of_call(self, call: int) -> dict[int, Answer]:
        return self._calls[call]

    def add(self, call: int, answers: dict[int, Answer]) -> None:
        self._calls[call] |= answers
        line = {"call": call, "answers": [[place, *answer] for place, answer in answers.items()]}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
