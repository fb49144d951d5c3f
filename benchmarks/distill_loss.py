"""Memory of every distillation loss, time against the dense one, and what a distillation step spends its time on.

Memory is the peak above the models, their inputs and their gradients, in units of one (tokens x vocabulary) tensor of
fp32 logits. The dense loss is plain PyTorch: both logits whole, log-softmax, kl_div. With liger-kernel installed (`pip
install --no-deps liger-kernel`), its fused loss is measured too, compiled on a GPU. The step is a plain AdamW step of
half of a SmolLM2-135M under a whole one, random weights: teacher and student are their layers, loss is both heads. On a
CPU its parts are in processor time, which other work on the machine leaves alone.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from time import perf_counter, process_time

import torch
from litgpt import Config
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness import alternate, arguments, peak_memory, report, synchronize
from pipeline.config import DistillConfig, Loss
from pipeline.models.student import build, hidden_states, initialize
from pipeline.training.losses import chunked_loss, head_reference

LENGTH, WIDTH = 512, 576
REPETITIONS, STEPS = 3, 2

Method = Callable[[nn.Linear, Tensor, Tensor, nn.Linear, Tensor], Tensor]


def dense(head: nn.Linear, hidden: Tensor, targets: Tensor, teacher_head: nn.Linear, teacher_hidden: Tensor) -> Tensor:
    with torch.no_grad():
        theirs = F.log_softmax(teacher_head(teacher_hidden).float(), dim=-1)
    ours = F.log_softmax(head(hidden).float(), dim=-1)
    return F.kl_div(ours, theirs, log_target=True, reduction="sum") / len(targets)


def chunked(
    head: nn.Linear,
    hidden: Tensor,
    targets: Tensor,
    teacher_head: nn.Linear,
    teacher_hidden: Tensor,
    loss: Loss = Loss.forward_kl,
) -> Tensor:
    config = DistillConfig(tokens=1, loss=loss)
    vocabulary = head.out_features
    reference = head_reference(teacher_head, teacher_hidden, vocabulary, config) if config.distils else None
    return chunked_loss(head, hidden, targets, vocabulary, config, reference)[0]


def liger(head: nn.Linear, hidden: Tensor, targets: Tensor, teacher_head: nn.Linear, teacher_hidden: Tensor) -> Tensor:
    """The forward KL, which Liger has as the end of its generalised Jensen-Shannon divergence."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    compiled = hidden.device.type == "cuda"
    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=compiled)
    value: Tensor = loss(hidden, head.weight, teacher_hidden, teacher_head.weight, targets)
    return value


def losses(device: torch.device, tokens: int, vocabulary: int) -> tuple[dict[str, float], dict[str, float], float]:
    """Seconds of the dense, our and Liger's forward KL with its backward pass, peak memory of every loss in logits
    tensors, largest relative difference of their values from the dense one."""
    torch.manual_seed(0)
    with device:
        heads = [nn.Linear(WIDTH, vocabulary, bias=False) for _ in range(2)]
        states = [torch.randn(tokens, WIDTH) for _ in range(2)]
        targets = torch.randint(vocabulary, (tokens,))
    heads[1].requires_grad_(False)
    hidden = states[0].requires_grad_()
    values = {}

    def once(name: str, method: Method) -> None:
        heads[0].weight.grad = hidden.grad = None
        result = method(heads[0], hidden, targets, heads[1], states[1])
        result.backward()
        values[name] = result.item()

    methods: dict[str, Method] = {"dense": dense, **{str(loss): partial(chunked, loss=loss) for loss in Loss}}
    alike = ["dense", str(Loss.forward_kl)]
    if find_spec("liger_kernel") is not None:
        methods["liger"] = liger
        alike.append("liger")
    gradients, logits = 4 * WIDTH * (tokens + vocabulary), 4 * tokens * vocabulary  # bytes
    memory = {}
    for name, method in methods.items():  # also the warm-up
        heads[0].weight.grad = hidden.grad = None
        memory[name] = (peak_memory(partial(once, name, method), device) - gradients) / logits

    def timed(name: str) -> float:
        started = perf_counter()
        once(name, methods[name])
        synchronize(device)
        return perf_counter() - started

    seconds = alternate({name: partial(timed, name) for name in alike}, REPETITIONS)
    return seconds, memory, max(abs(values["dense"] - values[name]) for name in alike) / values["dense"]


def step_shares(device: torch.device, blocks: int, vocabulary: int) -> dict[str, float]:
    """Seconds of the parts of an online distillation step."""
    clock = process_time if device.type == "cpu" else perf_counter

    def model(layers: int):
        config = Config.from_name("SmolLM2-135M", n_layer=layers, padded_vocab_size=vocabulary, vocab_size=vocabulary)
        made = build(config, None, tied=True, device=device)
        initialize(made, seed=layers)
        return made

    student, teacher = model(15), model(30).requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    tokens = torch.randint(vocabulary, (blocks, LENGTH + 1), device=device)
    inputs, targets = tokens[:, :-1], tokens[:, 1:].flatten()
    spent: dict[str, float] = {}

    def part(name: str, work: Callable):
        started = clock()
        result = work()
        synchronize(device)
        spent[name] = spent.get(name, 0) + clock() - started
        return result

    def step() -> None:
        with torch.no_grad():
            theirs = part("teacher", lambda: hidden_states(teacher, inputs).flatten(0, 1))
        hidden = part("student", lambda: hidden_states(student, inputs).flatten(0, 1))
        leaf = hidden.detach().requires_grad_()
        part("loss", lambda: chunked(student.lm_head, leaf, targets, teacher.lm_head, theirs).backward())
        part("student", lambda: hidden.backward(leaf.grad))
        part("optimizer", lambda: (optimizer.step(), optimizer.zero_grad()))

    step()  # warm-up
    spent.clear()
    for _ in range(STEPS):
        step()
    return spent


def main() -> None:
    options = arguments(__doc__.splitlines()[0], vocabulary=50_304, blocks=4)
    blocks, vocabulary = options.blocks, options.vocabulary
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seconds, memory, apart = losses(device, blocks * LENGTH, vocabulary)
    rows = [
        [name, f"{used:.2f}"]
        + ([f"{seconds[name]:.2f}", f"{seconds[name] / seconds['dense']:.2f}"] if name in seconds else ["", ""])
        for name, used in memory.items()
    ]
    figures = {f"{name}_seconds": value for name, value in seconds.items()}
    figures |= {f"{name}_logits_tensors": value for name, value in memory.items()}
    figures |= {"time_ratio": seconds["forward_kl"] / seconds["dense"], "relative_difference": apart}
    figures |= {"chunk_tokens": DistillConfig(tokens=1).chunk_tokens}
    report(
        f"Loss and its gradients, {blocks} x {LENGTH} tokens, vocabulary {vocabulary:,}, width {WIDTH}, fp32, "
        f"{device.type}, medians of {REPETITIONS}; one logits tensor is "
        f"{4 * blocks * LENGTH * vocabulary / 2**20:.0f} MiB",
        ["loss", "peak memory, logits tensors", "seconds", "to dense"],
        rows,
        figures,
        options.json,
    )
    spent = step_shares(device, blocks, vocabulary)
    total = sum(spent.values())
    figures |= {f"share_{name}": value / total for name, value in spent.items()}
    report(
        f"A distillation step on the same tokens, {total / STEPS:.1f} s",
        ["part", "share"],
        [[name, f"{value / total:.0%}"] for name, value in spent.items()],
        figures,
        options.json,
    )


if __name__ == "__main__":
    main()
