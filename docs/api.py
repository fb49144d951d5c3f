"""The Python API as a page, made from its signatures and docstrings: `python docs/api.py` writes docs/api.md."""

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

The method on models in memory, importable from `pipeline`. [one_page.py](../examples/one_page.py) uses all of it in
order, and [notebook.ipynb](../examples/notebook.ipynb) adds plots. Models are litgpt GPTs; blocks are int64 tensors
(n, T + 1) of tokens, of which the first T predict the last T. Bad input raises `pipeline.SprigError`, with the sentence
that the command line prints.

This page is made from the docstrings: to rewrite it, run `python docs/api.py`.
"""

METHOD = ("load_teacher", "load_text", "importance", "SearchSpace", "find", "extract", "recover", "distill")
OTHERS = ("perplexity", "export", "compose", "run")
MEMBERS = ("contains", "sample", "mutate", "crossover")  # of a search space
TYPES = (api.Teacher, api.Text, api.Found, api.Report)


def page() -> str:
    """docs/api.md: every name of `pipeline.__all__`, then the types that they return."""
    assert {*METHOD, *OTHERS, "SprigError"} == set(pipeline.__all__)
    names = [_entry(f"pipeline.{name}", getattr(pipeline, name)) for name in (*METHOD, *OTHERS)]
    members = [_entry(f"SearchSpace.{name}", getattr(Space, name)) for name in MEMBERS]
    types = [_entry(each.__name__, each) for each in TYPES]
    return "\n".join([HEAD, *names, "## Members of a search space\n", *members, "## What is returned\n", *types])


def _entry(title: str, named: Any) -> str:
    name = title.rpartition(".")[2]
    return f"### {title}\n\n```python\n{name}{_signature(named)}\n```\n\n{inspect.getdoc(named)}\n"


def _signature(named: Any) -> str:
    """As the source has it; of a class, as it is made."""
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
