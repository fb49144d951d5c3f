"""Importance: which neurons, heads, v entries, embedding entries and layers come first, from activations."""

import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from litgpt import GPT
from litgpt.model import LLaMAMoE
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import SprigError
from pipeline.models.experts import routes
from pipeline.models.families import architecture_of, is_tied
from pipeline.models.precision import autocast
from pipeline.models.student import hidden_states
from pipeline.progress import Progress
from pipeline.subnetwork.selection import Ordering

_ARRAYS = ("layers", "embedding", "groups", "heads", "values", "neurons")
_EXPERTS = "experts"  # of mixtures alone


class _Statistics:
    """Sums over tokens of activation magnitudes, in float64, gathered by hooks on a litgpt model.

    After Minitron (arXiv 2407.14679, section 2.2): a neuron or v entry counts by its mean absolute activation, a query
    group by the mean L2 norm of its heads' outputs, an embedding entry by its mean absolute value after every norm;
    where attention and MLP read the stream without a norm, the stream is first divided by its root mean square.
    Heads within a group count by the Frobenius norm of Wanda's scores |W_ij| ||x_j|| (arXiv 2306.11695, section 3) over
    their columns of the output projection: on SmolLM2, one of every three heads dropped, the loss rises by 1.0 instead
    of the plain norm's 2.0, while neurons and groups gain nothing from weights. A layer counts by its block influence,
    1 - cos(input, output) averaged over tokens (ShortGPT, arXiv 2403.03853, section 3.1). An expert counts by what it
    adds: the sum, over the tokens that pass it, of their weight times the L2 norm of its output; its neurons by their
    absolute activation times the same weights.
    """

    def __init__(self, teacher: GPT):
        self.architecture = a = architecture_of(teacher.config, is_tied(teacher))
        device = teacher.transformer.wte.weight.device

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.layers = zeros(a.n_layer)
        self.embedding = zeros(a.n_embd)
        self.groups = zeros(a.n_layer, a.n_query_groups)
        self.heads = zeros(a.n_layer, a.n_query_groups, a.heads_per_group)
        self.values = zeros(a.n_layer, a.n_query_groups, a.head_size)
        mlps = (a.n_expert,) if a.n_expert else ()
        self.neurons = zeros(a.n_layer, *mlps, a.intermediate_size)
        self.experts = zeros(a.n_layer, *mlps)
        self.weights: list[Tensor] = []  # of the tokens that pass each expert of the layer that runs

    def attach(self, teacher: GPT) -> list:
        """Registers the hooks; returns their handles."""
        norms = [norm for block in teacher.transformer.h for norm in (block.norm_1, block.norm_2)]
        handles = [norm.register_forward_hook(self._norm) for norm in (*norms, teacher.transformer.ln_f)]
        for layer, block in enumerate(teacher.transformer.h):
            handles.append(block.register_forward_hook(partial(self._block, layer)))
            handles.append(block.attn.proj.register_forward_hook(partial(self._attention, layer)))
            if not self.architecture.n_expert:
                handles.append(block.mlp.proj.register_forward_hook(partial(self._mlp, layer)))
                continue
            handles.append(block.mlp.register_forward_pre_hook(self._route))
            for number, expert in enumerate(block.mlp.experts):
                handles.append(expert.proj.register_forward_hook(partial(self._expert, layer, number)))
        return handles

    def _norm(self, norm: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if isinstance(norm, nn.Identity):
            output = F.rms_norm(output.float(), output.shape[-1:])
        self.embedding += output.abs().sum((0, 1), dtype=torch.float64)

    def _block(self, layer: int, block: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        cosines = torch.cosine_similarity(inputs[0].float(), output.float(), dim=-1)
        self.layers[layer] += (1 - cosines).sum(dtype=torch.float64)

    def _attention(self, layer: int, proj: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
        a = self.architecture
        x = inputs[0].float().view(-1, a.n_query_groups, a.heads_per_group, a.head_size)
        columns = proj.weight.double().square().sum(0).view(x.shape[1:])
        self.groups[layer] += x.norm(dim=-1).sum((0, 2), dtype=torch.float64)
        self.heads[layer] += (x.square().sum(0, dtype=torch.float64) * columns).sum(-1)
        self.values[layer] += x.abs().sum((0, 2), dtype=torch.float64)

    def _mlp(self, layer: int, proj: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
        self.neurons[layer] += inputs[0].abs().sum((0, 1), dtype=torch.float64)

    def _route(self, mixture: LLaMAMoE, inputs: tuple[Tensor]) -> None:
        self.weights = [weights for _, weights in routes(mixture, inputs[0])]

    def _expert(self, layer: int, number: int, proj: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
        weights = self.weights[number].double()
        self.neurons[layer, number] += weights @ inputs[0].abs().double()
        self.experts[layer, number] += weights @ output.float().norm(dim=-1).double()


def _descending(scores: Tensor) -> np.ndarray:
    if not scores.isfinite().all():
        raise SprigError(
            "The teacher's activations are not finite and cannot be ranked: use precision=fp32, or look for broken "
            "weights."
        )
    # Stable, so that equal scores keep the teacher's order and the result is the same everywhere.
    return np.argsort(-scores.cpu().numpy(), axis=-1, kind="stable")


@torch.no_grad()
def importance(teacher: GPT, blocks: Tensor, precision: str, batch: int, fingerprint: str) -> Ordering:
    """The ordering by activation magnitude on calibration `blocks` (n, T+1), `batch` blocks per forward pass."""
    statistics = _Statistics(teacher)
    device, training = teacher.transformer.wte.weight.device, teacher.training
    handles = statistics.attach(teacher.eval())
    try:
        with autocast(precision, device), Progress("order", total=len(blocks), unit="blocks") as progress:
            for tokens in blocks[:, :-1].split(batch):
                hidden_states(teacher, tokens.to(device))
                progress.advance(len(tokens))
    finally:
        for handle in handles:
            handle.remove()
        teacher.train(training)
    return Ordering(
        fingerprint,
        layers=_descending(statistics.layers),
        embedding=_descending(statistics.embedding),
        groups=_descending(statistics.groups),
        heads=_descending(statistics.heads),
        values=_descending(statistics.values),
        neurons=_descending(statistics.neurons),
        experts=_descending(statistics.experts) if statistics.architecture.n_expert else None,
    )


def save(ordering: Ordering, folder: Path) -> None:
    """Writes ordering.npz."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: array for name in (*_ARRAYS, _EXPERTS) if (array := getattr(ordering, name)) is not None}
    np.savez(folder / "ordering.npz", fingerprint=np.array(ordering.fingerprint), **arrays)


def load(folder: Path) -> Ordering:
    """The ordering that `save` wrote.

    Raises:
        SprigError: the file is missing or unreadable.
    """
    try:
        with np.load(Path(folder) / "ordering.npz", allow_pickle=False) as file:
            names = (*_ARRAYS, _EXPERTS) if _EXPERTS in file else _ARRAYS
            return Ordering(str(file["fingerprint"]), **{name: file[name] for name in names})
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SprigError(f"{folder} is not an ordering that Sprig can read: {error}. Make it again.") from error
