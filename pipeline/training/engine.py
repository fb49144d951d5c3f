"""The student under DeepSpeed: how a global batch is divided, the optimizer, and one optimizer step."""

import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from litgpt import GPT
from torch import Tensor, distributed, nn
from torch.utils.checkpoint import checkpoint

from pipeline.config import DeepSpeedConfig, DistillConfig, Dtype
from pipeline.errors import SprigError
from pipeline.models.precision import autocast, tf32
from pipeline.progress import counted
from pipeline.training.distributed import import_deepspeed


@dataclass(frozen=True)
class Batching:
    """A global batch in blocks: micro_batch * accumulation * ranks."""

    micro_batch: int
    accumulation: int
    ranks: int

    @property
    def global_batch(self) -> int:
        return self.micro_batch * self.accumulation * self.ranks

    def share(self, numbers: np.ndarray, rank: int) -> list[np.ndarray]:
        """A rank's micro-batches (micro_batch,) of a global batch of block numbers (global_batch,)."""
        return np.split(np.split(numbers, self.ranks)[rank], self.accumulation)


def batching(config: DistillConfig, ranks: int) -> Batching:
    """Without a micro-batch, each rank takes its share in one pass.

    Raises:
        SprigError: micro-batches and ranks do not divide the global batch.
    """
    wanted = config.global_batch
    micro_batch = config.micro_batch or max(wanted // ranks, 1)
    at_once = micro_batch * ranks
    numbers = f"distill.global_batch={wanted}, distill.micro_batch={micro_batch} and {counted(ranks, 'process')}"
    if at_once > wanted:
        share = wanted // ranks
        whole = "" if wanted == share * ranks else f"distill.global_batch={share * ranks} and "
        cure = f"set {whole}distill.micro_batch={share}" if share else "use fewer processes"
        raise SprigError(f"{numbers} do not fit together: one forward pass would take {at_once} blocks: {cure}.")
    if wanted % at_once:
        raise SprigError(
            f"{numbers} do not fit together: the global batch must be a multiple of {micro_batch} x {ranks} = "
            f"{at_once}; the nearest is {wanted // at_once * at_once}."
        )
    return Batching(micro_batch, wanted // at_once, ranks)


def check_compile(config: DistillConfig, device: torch.device) -> None:
    """Raises SprigError where torch.compile would lack what it needs."""
    if config.compile and (lacking := _lacking(device)):
        raise SprigError(f"distill.compile=true needs {lacking}, or set distill.compile=false.")


def _lacking(device: torch.device) -> str | None:
    """What torch.compile would not find on this machine; nothing, where the device is another machine's."""
    if device.type == "cpu":
        compiler = os.environ.get("CXX", "g++")
        missing = f"a C++ compiler on a CPU, and {compiler} is not there: install one"
        return None if shutil.which(compiler) else missing
    if not torch.cuda.is_available():
        return None
    if find_spec("triton") is None:
        return "Triton on a GPU, and it is not there: pip install triton"
    compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]  # as Triton looks for one
    missing = f"a C compiler on a GPU, and {' or '.join(compilers)} is not there: install one"
    return None if any(map(shutil.which, compilers)) else missing


def check_precision(precision: str, deepspeed: DeepSpeedConfig) -> None:
    """Raises SprigError for bf16 without ZeRO."""
    if precision == "bf16" and deepspeed.zero_stage == 0:
        raise SprigError(
            "precision=bf16 with deepspeed.zero_stage=0 keeps no fp32 weights that a checkpoint could hold: "
            "set deepspeed.zero_stage=1, or precision=bf16-mixed."
        )


class _Student(nn.Module):
    """What DeepSpeed wraps: any function of the student runs inside its forward, so that ZeRO-3's hooks fire.

    Autocast is entered here because DeepSpeed switches off one that was entered outside.
    """

    def __init__(self, student: GPT, precision: str, device: torch.device):
        super().__init__()
        self.student, self.precision, self.device = student, precision, device

    def forward(self, function: Callable[[GPT], Any]) -> Any:
        with autocast(self.precision, self.device):
            return function(self.student)


def _optimizer(student: GPT, config: DistillConfig) -> torch.optim.AdamW:
    """AdamW whose weight decay falls on matrices, the embedding among them, and not on norms and biases."""
    matrices = [parameter for parameter in student.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in student.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    first, second = config.betas
    return torch.optim.AdamW(groups, lr=0.0, betas=(first, second), eps=config.eps, fused=True)


def _make_moments(optimizer: torch.optim.AdamW) -> None:
    """AdamW would make them in its first step. ZeRO 1 and 2 step one group after another and link all groups' moments
    to the parameters after the first one, when those of the second would not be there yet."""
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }


def _recompute(student: GPT) -> None:
    """Activation checkpointing (Chen et al. 2016): a block keeps its input and is computed again going back."""
    for block in student.transformer.h:
        # Reentrant checkpointing dies under ZeRO 2 and 3 ("already been reduced"). No block draws random numbers.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def compile_blocks(model: GPT) -> None:
    """Compiles the blocks one by one; blocks of the same sizes share what is compiled."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * len(model.transformer.h))
    for block in model.transformer.h:
        if hasattr(block.mlp, "experts"):  # how many tokens pass each differs from batch to batch
            block.mlp.forward = torch.compiler.disable(block.mlp.forward)
        block.compile(dynamic=False)


def deepspeed_settings(
    config: DistillConfig, deepspeed: DeepSpeedConfig, batches: Batching, precision: str
) -> dict[str, Any]:
    """DeepSpeed's configuration."""
    settings = {
        "train_batch_size": batches.global_batch,
        "train_micro_batch_size_per_gpu": batches.micro_batch,
        "gradient_accumulation_steps": batches.accumulation,
        "gradient_clipping": config.clip,
        "zero_optimization": {"stage": deepspeed.zero_stage, **deepspeed.zero_optimization},
        "bf16": {"enabled": precision == "bf16"},
    }
    if deepspeed.communication == Dtype.bf16 and precision == "bf16-mixed" and batches.ranks > 1:
        settings["communication_data_type"] = "bf16"  # DeepSpeed would round the gradients of one rank too
    return settings


class Engine:
    """A student that trains. Every method is called by all ranks together."""

    def __init__(
        self,
        student: GPT,
        config: DistillConfig,
        deepspeed: DeepSpeedConfig,
        batches: Batching,
        precision: str,
        device: torch.device,
    ):
        """Takes the student over: at ZeRO-3 it no longer holds its weights whole.

        Raises:
            SprigError: bf16 without ZeRO.
        """
        check_precision(precision, deepspeed)
        if config.activation_checkpointing:
            _recompute(student)
        if config.compile:
            compile_blocks(student)
        rope = student.cos, student.sin
        self.student, self.device, self.batches, self.stage = student, device, batches, deepspeed.zero_stage
        self.precision, self.skip = precision, False
        settings = deepspeed_settings(config, deepspeed, batches, precision)
        self.optimizer = _optimizer(student, config)
        self._linear = nn.functional.linear
        with self._own_linear():
            self.module, *_ = import_deepspeed(device).initialize(
                model=_Student(student, precision, device), optimizer=self.optimizer, config=settings
            )
        _make_moments(self.optimizer)
        # torch calls what the instance holds; its hooks cannot leave a step out.
        self.optimizer.step = self._unless_skipped(self.optimizer.step)  # type: ignore[method-assign]
        # DeepSpeed's bf16 casts them too, and far positions would share their angles.
        student.cos, student.sin = rope

    def evaluate(self, function: Callable[[GPT], float]) -> float:
        """`function(student)` without gradients and in evaluation mode."""
        self.module.eval()
        with torch.no_grad():
            # ZeRO-3's hooks look for tensors in what a forward returns, and fail on a float.
            result = self.module(lambda student: torch.tensor(function(student), dtype=torch.float64)).item()
        self.module.train()
        return result

    def step(self, batches: list[Any], loss: Callable[[GPT, Any], tuple[Tensor, ...]], lr: float) -> dict:
        """One optimizer step on this rank's micro-batches; loss, ce, kl and grad_norm (before clipping) of the whole
        global batch. A loss or gradient that is not finite leaves weights and moments as they were, on all ranks."""
        with tf32(self.precision, self.device), self._own_linear():
            return self._step(batches, loss, lr)

    def _step(self, batches: list[Any], loss: Callable[[GPT, Any], tuple[Tensor, ...]], lr: float) -> dict:
        for group in self.module.optimizer.param_groups:
            group["lr"] = lr
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)
        for number, tokens in enumerate(batches, start=1):
            tokens = tokens.to(self.device, non_blocking=True)
            parts = self.module(lambda student, tokens=tokens: loss(student, tokens))
            self.module.backward(parts[0])
            totals += torch.stack(parts).detach()
            if number < len(batches):
                self.module.step()  # counts the micro-batch; the weights move in the last one
        distributed.all_reduce(totals)
        values = dict(zip(("loss", "ce", "kl"), (totals / len(batches) / self.batches.ranks).tolist(), strict=True))
        # Stage 0 clips without keeping the norm, and steps whatever it is; its gradients are averaged over the ranks by
        # now. The other stages leave out a step whose norm is not finite, and then call it infinite.
        norm = float(nn.utils.get_total_norm([p.grad for p in self.student.parameters()])) if self.stage == 0 else 0.0
        self.skip = not (math.isfinite(values["loss"]) and math.isfinite(norm))
        self.module.step()
        return values | {"grad_norm": norm if self.stage == 0 else float(self.module.get_global_grad_norm())}

    @contextmanager
    def _own_linear(self) -> Iterator[None]:
        """ZeRO-3 replaces torch's linear for the rest of the process: its own keeps no gathered weight for the backward
        pass, but rounds before it adds a bias. All that does not train computes as in any other process."""
        before = nn.functional.linear
        nn.functional.linear = self._linear
        try:
            yield
        finally:
            self._linear, nn.functional.linear = nn.functional.linear, before

    def _unless_skipped(self, step: Callable[..., None]) -> Callable[..., None]:
        """The optimizer's step as DeepSpeed calls it: one that is skipped still ends as any other, so that the
        gradients are dropped and the micro-batches counted at every ZeRO stage."""
        return lambda *arguments, **options: None if self.skip else step(*arguments, **options)

    def close(self) -> None:
        self.module.destroy()
