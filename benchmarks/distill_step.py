"""A distillation step from the logits cache against a cross-entropy step of the same student, and the online step
against the plain dense loop.

Half of a SmolLM2-135M under a whole one, random weights, fp32 on a CPU and bf16 autocast on a GPU; torch's AdamW. A
cached step reads and checks its blocks' records from disk. The dense loop is plain PyTorch with both logits whole.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from litgpt import Config
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import alternate, arguments, report, synchronize
from pipeline.config import CacheConfig, DistillConfig
from pipeline.models.precision import autocast
from pipeline.models.student import build, initialize
from pipeline.training.batch import Batch
from pipeline.training.cache import LogitsCache
from pipeline.training.losses import distillation_loss

VOCABULARY, LENGTH, STORED = 49_152, 256, 16
REPETITIONS = 3
SLOTS = {"sampled": 16, "topk": 48}


class RandomBlocks:
    block_size = LENGTH
    tokens = torch.randint(VOCABULARY, (STORED, LENGTH + 1), generator=torch.Generator().manual_seed(0))

    def take(self, numbers: np.ndarray) -> Tensor:
        return self.tokens[torch.as_tensor(np.asarray(numbers, np.int64))]


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision, micro_batch = ("bf16-mixed", 16) if device.type == "cuda" else ("fp32", 1)

    def model(layers: int):
        made = build(Config.from_name("SmolLM2-135M", n_layer=layers), None, tied=True, device=device)
        initialize(made, seed=layers)
        return made

    student, teacher, blocks = model(15), model(30).requires_grad_(False), RandomBlocks()
    filler = model(1)  # what a cache holds does not change what reading it costs
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5)
    numbers = np.arange(micro_batch)

    def step(loss: Callable[[], Tensor]) -> float:
        started = perf_counter()
        with autocast(precision, device):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize(device)
        return perf_counter() - started

    def ours(config: DistillConfig, cache: LogitsCache | None = None) -> Tensor:
        batch = Batch(blocks.take(numbers), cache and cache.take(numbers)).to(device)
        return distillation_loss(student, teacher, batch, config)[0]

    def dense() -> Tensor:
        tokens = blocks.take(numbers).to(device)
        with torch.no_grad():
            theirs = F.log_softmax(teacher(tokens[:, :-1]).flatten(0, 1).float(), dim=-1)
        logits = F.log_softmax(student(tokens[:, :-1]).flatten(0, 1).float(), dim=-1)
        return F.kl_div(logits, theirs, log_target=True, reduction="batchmean")

    with tempfile.TemporaryDirectory() as folder:
        losses = {"ce": partial(ours, DistillConfig(tokens=1, loss="ce"))}
        bytes_a_token = {}
        for kind, slots in SLOTS.items():
            config = DistillConfig(tokens=1, cache=CacheConfig(kind=kind, slots=slots))
            place = Path(folder) / kind
            place.mkdir()
            cache = LogitsCache(place, kind, blocks, VOCABULARY, config)
            cache.fill(np.arange(STORED), lambda: filler, precision)
            # With the checksum and number of each block.
            stored = sum(file.stat().st_size for file in (place / "records").iterdir())
            bytes_a_token[kind] = stored / (STORED * LENGTH)
            losses[kind] = partial(ours, config, cache)
        losses |= {"online": partial(ours, DistillConfig(tokens=1)), "dense loop": dense}
        methods = {name: partial(step, loss) for name, loss in losses.items()}
        for method in methods.values():
            method()  # warm-up
        seconds = alternate(methods, REPETITIONS)
    tokens = micro_batch * LENGTH
    rows = [
        [
            name,
            f"{tokens / each:,.0f}",
            f"{each / seconds['ce']:.3f}",
            f"{each / seconds['dense loop']:.3f}",
            f"{bytes_a_token[name]:.2f}" if name in bytes_a_token else "",
        ]
        for name, each in seconds.items()
    ]
    figures = {f"{name}_tokens_per_second": tokens / each for name, each in seconds.items()}
    figures |= {f"{name}_to_ce": each / seconds["ce"] for name, each in seconds.items()}
    figures |= {"online_to_dense": seconds["online"] / seconds["dense loop"]}
    figures |= {f"{kind}_bytes_a_token": size for kind, size in bytes_a_token.items()}
    report(
        f"A step of {micro_batch} x {LENGTH} tokens, {precision} on {device.type}, medians of {REPETITIONS}",
        ["step", "tokens/s", "time to CE", "time to dense", "bytes per token"],
        rows,
        figures,
        options.json,
    )


if __name__ == "__main__":
    main()
