"""Refits one layer after another, on the residual streams of teacher and student."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from litgpt import GPT
from litgpt.model import Block
from torch import Tensor, nn

from pipeline.models.extraction import cut
from pipeline.models.precision import autocast
from pipeline.models.recovery import normed
from pipeline.models.recovery.residual import Chunk, attention, captured, mlp, through
from pipeline.models.recovery.ridge import Reduce, Regression, at_least_fp32, correct, token_weights
from pipeline.subnetwork.selection import Selection
from pipeline.subnetwork.value import SubNetwork


@dataclass(frozen=True)
class Refit:
    """The result for one projection, or for several refitted jointly, in the student's layer `layer`.

    `ridge` is the chosen strength in tokens, or None if the cut weights were kept because no ridge lowered the error.
    `before` and `after` are the weighted squared errors per held-out token.
    """

    layer: int
    projection: str
    ridge: float | None
    before: float
    after: float


@dataclass(frozen=True)
class Write:
    """One addition to the residual stream, by attention, the MLP, or both in parallel. `writers` are the projections
    that write it and `readers` those that read its input, by their names in the block. `ours` and `theirs` advance the
    student's and the teacher's stream past it."""

    writers: tuple[str, ...]
    readers: dict[str, tuple[str, ...]]  # by the norm that they read
    ours: Callable[[Tensor], Tensor]
    theirs: Callable[[Tensor], Tensor]
    norm: str | None = None  # what the written passes before it is added


class Layers:
    """Refits a student's layers in order. `chunks` hold the streams that enter the next layer, and advance in place.

    Projections that write to the stream are refitted so that the student's stream matches the teacher's after the
    addition, on the kept embedding entries. Each token is weighted by the inverse mean square of this target. If the
    width is cut, projections that read the stream are refitted first, towards the teacher's pre-activations on the kept
    rows. All tokens then have the same weight, because a norm has already scaled them alike. Without such a norm, each
    token is weighted by the inverse mean square of the teacher's stream. normed.py is for norms between a projection
    and the stream.
    """

    def __init__(
        self,
        teacher: GPT,
        student: GPT,
        sub: SubNetwork,
        selection: Selection,
        chunks: list[Chunk],
        ridges: Sequence[float],
        precision: str,
        reduce: Reduce | None,
    ):
        self.teacher, self.student, self.sub, self.selection = teacher, student, sub, selection
        self.chunks, self.ridges, self.reduce = chunks, ridges, reduce
        self.device = student.transformer.wte.weight.device
        self.autocast = partial(autocast, precision, self.device)
        self.kept = torch.from_numpy(selection.embedding).to(self.device)
        self.refit_inputs = sub.n_embd < teacher.config.n_embd
        with self.autocast():
            for chunk in chunks:
                chunk.theirs = self._dropped(0, sub.layers[0], chunk.theirs)

    def skip(self, number: int) -> None:
        """Advances both streams through an already refitted layer, with the same arithmetic as its refit."""
        with self.autocast():
            for write in self._writes(number):
                for chunk in self.chunks:
                    chunk.theirs, chunk.ours = write.theirs(chunk.theirs), write.ours(chunk.ours)

    def refit(self, number: int) -> tuple[Refit, ...]:
        """Refits a layer and advances both streams through it."""
        refits = []
        for write in self._writes(number):
            if self.refit_inputs:
                rows = self._rows(number)
                refits += [self._refit_readers(number, rows, norm, names) for norm, names in write.readers.items()]
            refits += self._refit_writers(number, write) if write.norm is None else self._refit_normed(number, write)
        return tuple(refits)

    def _writes(self, number: int) -> list[Write]:
        """A layer's additions to the stream: attention and MLP, or both at once if they are parallel.

        The last one also advances the teacher's stream through the dropped layers that follow, so that the student's
        layer learns to stand in for them.
        """
        student, teacher, layer = self.student, self.teacher, self.sub.layers[number]
        after = (*self.sub.layers[1:], teacher.config.n_layer)[number]
        mlp_readers = ("mlp.fc_1", "mlp.fc_2") if hasattr(student.transformer.h[number].mlp, "fc_1") else ("mlp.fc",)
        if teacher.config.parallel_residual:
            return [
                Write(
                    ("attn.proj", "mlp.proj"),
                    {"norm_1": ("attn.qkv",), "norm_2": mlp_readers},
                    lambda x: through(student, number, x),
                    lambda x: self._dropped(layer, after, x),
                )
            ]
        config = teacher.config
        return [
            Write(
                ("attn.proj",),
                {"norm_1": ("attn.qkv",)},
                lambda x: x + attention(student, number, x),
                lambda x: x + attention(teacher, layer, x),
                "post_attention_norm" if config.post_attention_norm else None,
            ),
            Write(
                ("mlp.proj",),
                {"norm_2": mlp_readers},
                lambda x: x + mlp(student, number, x),
                lambda x: self._dropped(layer + 1, after, x + mlp(teacher, layer, x)),
                "post_mlp_norm" if config.post_mlp_norm else None,
            ),
        ]

    def _dropped(self, first: int, after: int, x: Tensor) -> Tensor:
        """The teacher's stream after its layers first, ..., after - 1."""
        for layer in range(first, after):
            x = through(self.teacher, layer, x)
        return x

    def _rows(self, number: int) -> Block:
        """The teacher's block for a student's layer, with rows cut as in the student but at full width. Its input
        projections compute what the student's should, including the attention scale."""
        layers, genes = (self.sub.layers[number],), (self.sub.genes[number],)
        width = self.teacher.config.n_embd
        sub = replace(self.sub, layers=layers, genes=genes, n_embd=width)
        selection = Selection(np.arange(width), (self.selection.layers[number],))
        return cut(self.teacher, sub, selection, own=False).transformer.h[0]

    def _refit_readers(self, number: int, rows: Block, norm: str, names: tuple[str, ...]) -> Refit:
        """Refits the projections that read one norm towards the teacher's pre-activations."""
        block = self.student.transformer.h[number]
        ours, theirs = ([each.get_submodule(name) for name in names] for each in (block, rows))
        regression = self._regression(ours[0].in_features, sum(each.out_features for each in ours), ours[0])
        for chunk in self.chunks:
            with self.autocast():
                x, y = block.get_submodule(norm)(chunk.ours), rows.get_submodule(norm)(chunk.theirs)
                target = torch.cat([each(y) for each in theirs], dim=-1)
                errors = target - torch.cat([each(x) for each in ours], dim=-1)
            before = self.teacher.config.norm_1
            weights = torch.ones_like(errors[..., 0]) if before else token_weights(y, self.teacher.config.norm_eps)
            regression.add(x, errors, weights, chunk.held_out)
        correction, refit = self._solved(number, "+".join(names), regression)
        if correction is not None:
            for each, delta in zip(ours, correction.split([each.out_features for each in ours], dim=1), strict=True):
                correct([each], delta)
        return refit

    def _refit_writers(self, number: int, write: Write) -> list[Refit]:
        """Refits the projections of one addition jointly, towards the teacher's stream after it."""
        block = self.student.transformer.h[number]
        writers = [block.get_submodule(name) for name in write.writers]
        regression = self._regression(sum(each.in_features for each in writers), self.sub.n_embd, writers[0])
        for chunk in self.chunks:
            with self.autocast():
                with captured(writers) as chunk.features:
                    stream = write.ours(chunk.ours)
                chunk.theirs = write.theirs(chunk.theirs)
            target = at_least_fp32(chunk.theirs[..., self.kept])
            weights = token_weights(target, self.teacher.config.norm_eps)
            regression.add(torch.cat(chunk.features, dim=-1), target - stream, weights, chunk.held_out)
        correction, refit = self._solved(number, "+".join(write.writers), regression)
        if correction is not None:
            correct(writers, correction)
        for chunk in self.chunks:
            with self.autocast():
                for writer, features in zip(writers, chunk.features, strict=True):
                    chunk.ours = chunk.ours + writer(features)
            chunk.features = []
        return [refit]

    def _refit_normed(self, number: int, write: Write) -> list[Refit]:
        """Refits a projection in front of a norm, then the norm. Each change is kept only if it lowers the error of the
        stream on the held-out tokens."""
        assert write.norm is not None
        block, eps = self.student.transformer.h[number], self.teacher.config.norm_eps
        writer, norm = block.get_submodule(write.writers[0]), block.get_submodule(write.norm)
        theirs_norm = self.teacher.transformer.h[self.sub.layers[number]].get_submodule(write.norm)
        gain = at_least_fp32(theirs_norm.weight[self.kept])
        regression = self._regression(writer.in_features, self.sub.n_embd, writer)
        for chunk in self.chunks:
            with self.autocast(), captured([writer, norm]) as ours, captured([theirs_norm]) as inside:
                write.ours(chunk.ours)
                chunk.theirs = write.theirs(chunk.theirs)
            chunk.features, target = ours[:1], at_least_fp32(chunk.theirs[..., self.kept])
            aim = normed.wanted(inside[0], self.kept, gain, chunk.ours, target, eps)
            regression.add(ours[0], aim - ours[1], normed.weights(inside[0], target, eps), chunk.held_out)
        site = normed.Site(writer, norm, self._tokens, eps, self.reduce, self.autocast)
        what = self._what(number, write.writers[0])
        refits = [
            Refit(number, write.writers[0], *site.refit_projection(regression.solve(self.ridges, what))),
            Refit(number, write.norm, *site.refit_gain(self.ridges)),
        ]
        for chunk in self.chunks:
            with self.autocast():
                chunk.ours = chunk.ours + norm(writer(chunk.features[0]))
            chunk.features = []
        return refits

    def _tokens(self) -> Iterator[normed.Tokens]:
        for chunk in self.chunks:
            target = at_least_fp32(chunk.theirs[..., self.kept])
            yield normed.Tokens(chunk.features[0], chunk.ours, target, chunk.held_out)

    def _what(self, number: int, names: str) -> str:
        return f"{names} of layer {number} (teacher layer {self.sub.layers[number]})"

    def _regression(self, features: int, outputs: int, projection: nn.Linear) -> Regression:
        return Regression(features, outputs, projection.bias is not None, self.device, self.reduce)

    def _solved(self, number: int, names: str, regression: Regression) -> tuple[Tensor | None, Refit]:
        found = regression.solve(self.ridges, self._what(number, names))
        refit = Refit(number, names, None if found.delta is None else found.ridge, found.before, found.after)
        return found.delta, refit
