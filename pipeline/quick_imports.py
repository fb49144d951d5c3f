"""litgpt without lightning, which Sprig does not use: its import of torch._dynamo and torchmetrics takes 3 CPU seconds.

litgpt's own `__init__` imports its inference API, and its model imports one function of a converter; both import
lightning. Here the package starts with GPT and Config; any other name runs its `__init__` first, so that it means the
same to everyone. Packages that import litgpt import this module before.
"""

import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

import torch

CONVERTER = "litgpt.scripts.convert_hf_checkpoint"


def _qkv_reassemble(*arguments: Any) -> torch.Tensor:
    """The converter's; GPT calls it for checkpoints of litgpt before 0.5.4."""
    from litgpt.scripts.convert_hf_checkpoint import qkv_reassemble

    return qkv_reassemble(*arguments)


def _import_litgpt() -> None:
    spec = find_spec("litgpt")
    if spec is None or spec.loader is None:
        raise ImportError("litgpt is not installed.")
    package, loader = module_from_spec(spec), spec.loader
    sys.modules["litgpt"] = package
    sys.modules[CONVERTER] = converter = ModuleType(CONVERTER)
    converter.__dict__["qkv_reassemble"] = _qkv_reassemble
    try:
        from litgpt.config import Config
        from litgpt.model import GPT
    finally:
        del sys.modules[CONVERTER]

    def __getattr__(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        del package.__dict__["__getattr__"]
        loader.exec_module(package)
        return getattr(package, name)

    package.__dict__.update(GPT=GPT, Config=Config, __getattr__=__getattr__)


if "litgpt" not in sys.modules:
    _import_litgpt()
