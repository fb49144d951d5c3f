"""Generates docs/api.md, the reference of the Python API, from signatures and docstrings: `python docs/api.py`."""

import ast
import inspect
import re
import textwrap
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pipeline
from pipeline import api
from pipeline.subnetwork.space import Space

HEAD = """# Python API

The steps of the method, for models in memory. Import them from `pipeline`. [one_page.py](../examples/one_page.py) calls
them in order, and [notebook.ipynb](../examples/notebook.ipynb) adds plots. Models are litgpt GPTs. Blocks are int64
tensors (n, T + 1) of tokens; in each row, the first T predict the last T. Bad input raises `pipeline.SprigError`, with
the sentence that the command line prints.

This page is generated from the docstrings. To update it, run `python docs/api.py`.
"""

METHOD = ("load_teacher", "load_text", "importance", "SearchSpace", "find", "extract", "recover", "distill")
OTHERS = ("perplexity", "export", "compose", "run")
MEMBERS = ("contains", "sample", "mutate", "crossover")  # of a search space
TYPES = (api.Teacher, api.Text, api.Found, api.Report)


def page() -> str:
    """docs/api.md: every name in `pipeline.__all__`, then the types that these return."""
    assert {*METHOD, *OTHERS, "SprigError"} == set(pipeline.__all__)
    names = [_entry(f"pipeline.{name}", getattr(pipeline, name)) for name in (*METHOD, *OTHERS)]
    members = [_entry(f"SearchSpace.{name}", getattr(Space, name)) for name in MEMBERS]
    types = [_entry(each.__name__, each) for each in TYPES]
    return "\n".join([HEAD, *names, "## Members of a search space\n", *members, "## What is returned\n", *types])


def _entry(title: str, named: Any) -> str:
    name = title.rpartition(".")[2]
    return f"### {title}\n\n```python\n{name}{_signature(named)}\n```\n\n{inspect.getdoc(named)}\n"


def _signature(named: Any) -> str:
    """The signature as in the source; for a class, that of its constructor."""
    if is_dataclass(named):
        return re.sub(r"(?:\w+\.)+(\w+)", r"\1", str(inspect.signature(named))).removesuffix(" -> None")
    if inspect.isclass(named):
        return _signature(named.__init__).removesuffix(" -> None")
    [function] = ast.parse(textwrap.dedent(inspect.getsource(named))).body
    assert isinstance(function, ast.FunctionDef) and function.returns is not None
    arguments = re.sub(r"^self(, )?", "", ast.unparse(function.args))
    return f"({arguments}) -> {ast.unparse(function.returns)}".replace("'", '"')


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
