"""What recovery costs, in closed form: FLOPs and bytes."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.models.recovery.mixture import SWEEPS
from pipeline.models.recovery.recover import Settings, held_out_count
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.counting import flops_per_token, layers_flops
from pipeline.subnetwork.value import LayerGenes, SubNetwork


@dataclass(frozen=True)
class _Regression:
    """Features and outputs of one regression; `constant` is 1 where it fits a bias. `reads` marks an input projection,
    whose targets the teacher puts out from its whole width. There are `count` alike, of experts, and together they read
    every token `passed` times; each is solved `times` times."""

    features: int
    outputs: int
    constant: int
    reads: bool
    count: int = 1
    passed: int = 1
    times: int = 1

    @property
    def rows(self) -> int:
        return self.features + self.constant


def _regressions(a: Architecture, sub: SubNetwork, gene: LayerGenes) -> Iterator[_Regression]:
    """Those of one layer."""
    width, bias = sub.n_embd, int(a.bias)
    queries, neurons = gene.n_head * gene.head_size, gene.intermediate_size
    if gene.n_expert is not None:
        yield from _mixture(a, sub, gene)
        return
    for features in [queries + neurons] if a.parallel_residual else [queries, neurons]:
        yield _Regression(features, width, bias, reads=False)
    if width < a.n_embd:
        keys_and_values = 2 * gene.n_query_groups * gene.head_size
        yield _Regression(width, queries + keys_and_values, int(a.attention_bias), reads=True)
        yield _Regression(width, (2 if a.gated_mlp else 1) * neurons, bias, reads=True)


def _mixture(a: Architecture, sub: SubNetwork, gene: LayerGenes) -> Iterator[_Regression]:
    """Those of one layer with experts."""
    width, queries, keys = sub.n_embd, gene.n_head * gene.head_size, 2 * gene.n_query_groups * gene.head_size
    assert gene.n_expert is not None and gene.n_expert_per_token is not None
    experts = gene.n_expert, gene.n_expert_per_token
    yield _Regression(queries, width, 0, reads=False)
    yield _Regression(gene.intermediate_size, width, 0, False, *experts, times=SWEEPS)
    if width < a.n_embd:
        yield _Regression(width, queries + keys, 0, reads=True)
        yield _Regression(width, gene.n_expert, 0, reads=True)
        yield _Regression(width, 2 * gene.intermediate_size, 0, True, *experts)


def _all_regressions(a: Architecture, sub: SubNetwork) -> list[_Regression]:
    return [each for gene in sub.genes for each in _regressions(a, sub, gene)]


def flops(architecture: Architecture, sub: SubNetwork, blocks: int, length: int, settings: Settings) -> int:
    """FLOPs of recovering a sub-network on `blocks` blocks of `length` tokens; a multiplication and an addition each
    count. All ridges are taken to be tried, and a Cholesky factor to cost n**3 / 3.

    Both models run once up to the final norm, the projections that write to the stream a second time with their new
    weights, mixtures as a whole, and their projections also with each change alone; routers once more for each kind of
    projection. The student scores the held-out blocks before and after.
    """
    student = flops_per_token(architecture, sub, length=length)
    forward = layers_flops(architecture, length=length) + layers_flops(architecture, sub, length=length)
    held_out = held_out_count(blocks, settings.held_out) * length
    tokens, ridges = blocks * length, len(settings.ridges)
    routed = 3 if sub.n_embd < architecture.n_embd else 2
    mixtures = sum(
        routed * gene.n_expert + 2 * gene.n_expert_per_token * gene.intermediate_size
        for gene in sub.genes
        if gene.n_expert and gene.n_expert_per_token
    )
    total = tokens * (forward + 2 * sub.n_embd * mixtures) + 2 * held_out * student
    for each in _all_regressions(architecture, sub):
        again = architecture.n_embd + sub.n_embd if each.reads else each.features
        again *= 2 * each.times if each.times > 1 else 1
        total += each.passed * tokens * 2 * again * each.outputs
        total += each.times * each.passed * (tokens - held_out) * 2 * each.rows * (each.rows + each.outputs)
        total += each.times * each.passed * ridges * held_out * 2 * each.rows * each.outputs
        total += each.times * each.count * ridges * (each.rows**3 // 3 + 2 * each.rows**2 * each.outputs)
        if architecture.norms_after and not each.reads:  # the stream's own error, and what the norm's weights fit
            total += (held_out * (3 + ridges) + tokens - held_out) * 2 * each.features * each.outputs
    return total


def memory(architecture: Architecture, sub: SubNetwork, blocks: int, length: int, settings: Settings) -> int:
    """Bytes that recovery holds at most beyond both models and a forward pass' own, activations in fp32.

    Two residual streams; of the largest regression the features of all tokens, Gram matrix and factor, cross terms,
    candidate and best correction in fp64, and the errors of the held-out tokens; of experts, the features of all and
    the errors of all tokens.
    """
    held_out = held_out_count(blocks, settings.held_out) * length
    streams = 4 * blocks * length * (architecture.n_embd + sub.n_embd)

    def needs(each: _Regression) -> int:
        features = 0 if each.reads else 4 * blocks * length * each.features * each.passed
        left = 4 * blocks * length * each.outputs if each.times > 1 else 0
        solve = 8 * (2 * each.rows**2 + 3 * each.rows * each.outputs)
        return features + left + solve + 4 * held_out * each.passed // each.count * (each.rows + each.outputs)

    return streams + max(needs(each) for each in _all_regressions(architecture, sub))
