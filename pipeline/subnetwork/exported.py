"""What a student becomes in transformers: the sizes that its family's stock class gives all layers, and how many
parameters its files then hold. Exact: equal to what transformers counts."""

import math
from dataclasses import dataclass, replace

from pipeline.config import ExportForm
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.counting import layer_parameters, outer_parameters, parameters
from pipeline.subnetwork.selection import rotary_run
from pipeline.subnetwork.value import LayerGenes, SubNetwork

# Families whose stock class has no head size of its own: it is width / heads.
SPLIT = ("gpt_neox", "olmoe")


@dataclass(frozen=True)
class Exported:
    """The form that export.form=auto takes, and the parameters of its files; a tied head counts once."""

    form: ExportForm
    parameters: int


def exported(architecture: Architecture, sub: SubNetwork, form: ExportForm = ExportForm.auto) -> Exported:
    """What a sub-network of a teacher is exported as, if export.form asks for `form` and the form can hold it."""
    outer = outer_parameters(architecture, sub.n_embd, "exported")
    common = None if form == ExportForm.own else _stock(architecture, sub)
    if common is None:
        return Exported(ExportForm.own, outer + sum(_layer(architecture, sub.n_embd, gene) for gene in sub.genes))
    fits = all(replace(gene, index_seed=None) == common for gene in sub.genes)
    form = ExportForm.stock if fits else ExportForm.padded
    return Exported(form, outer + sub.n_layer * _layer(architecture, sub.n_embd, common))


def counted(architecture: Architecture, sub: SubNetwork, count: str) -> int:
    """Parameters of any sub-network, as a bin of this `count` counts them."""
    return exported(architecture, sub).parameters if count == "exported" else parameters(architecture, sub, count)


def shortest_run(held: list[range]) -> tuple[int, int, int]:
    """The shortest arithmetic run (first, step, count) that holds the rotary pairs of every block."""
    first, last = min(run[0] for run in held), max(run[-1] for run in held)
    step = math.gcd(*(place - first for run in held for place in run)) or 1
    return first, step, (last - first) // step + 1


def neox_heads(groups: int, heads: int, head_size: int, width: int) -> tuple[int, int] | None:
    """Number and size of the heads of the stock GPT-NeoX of this width that holds `groups` groups of `heads` heads;
    None if there is none. The class has no head size of its own: it is width / heads."""
    fits = next((size for size in range(head_size, width // groups + 1) if width % size == 0), None)
    return None if heads > 1 or fits is None else (width // fits, fits)


def lacks_stock_class(architecture: Architecture) -> bool:
    """Whether no stock class has this model's parts: a bias in its head, or rotary positions for a part of each
    attention head, which only GPT-NeoX has."""
    return architecture.lm_head_bias or (architecture.family != "gpt_neox" and architecture.rotary_percentage != 1)


def refuses_heads(architecture: Architecture, heads: int, width: int) -> bool:
    """Whether transformers, from 5.9 on, refuses this number of heads in the stock class: it must divide the width."""
    return architecture.family in ("gemma2", "gemma3") and width % heads > 0


def _layer(architecture: Architecture, n_embd: int, gene: LayerGenes) -> int:
    return layer_parameters(architecture, n_embd, *gene.sizes)


def _stock(architecture: Architecture, sub: SubNetwork) -> LayerGenes | None:
    """The sizes of every layer in the stock class; None if it cannot hold the sub-network."""
    genes = sub.genes
    if lacks_stock_class(architecture):
        return None
    if len({(gene.n_expert, gene.n_expert_per_token) for gene in genes}) > 1:  # no zeros keep tokens from an expert
        return None
    common = LayerGenes.of([max(sizes) for sizes in zip(*(gene.sizes for gene in genes), strict=True)])
    head_size = _common_head_size(architecture, sub)
    if head_size is None:
        return None
    if architecture.qk_norm_over_heads and len({(gene.n_query_groups, gene.heads_per_group) for gene in genes}) > 1:
        return None
    common = replace(common, head_size=head_size)
    if architecture.family == "gpt_neox":
        fits = neox_heads(common.n_query_groups, common.heads_per_group, common.head_size, sub.n_embd)
        return None if fits is None else replace(common, n_query_groups=fits[0], head_size=fits[1])
    if architecture.family in SPLIT and common.n_head * common.head_size != sub.n_embd:
        return None  # norms over all heads keep zeros out
    if refuses_heads(architecture, common.n_head, sub.n_embd):
        return None
    becomes_mistral = architecture.family == "llama" and sub.n_embd % common.n_head
    return None if becomes_mistral and architecture.bias else common


def _common_head_size(architecture: Architecture, sub: SubNetwork) -> int | None:
    """The size of the heads that hold every layer's rotary pairs, each in the place of its own frequency."""
    sizes = {gene.head_size for gene in sub.genes}
    if sub.head_pairs == "plain":
        return sizes.pop() if len(sizes) == 1 else None
    kept = {size: rotary_run(architecture, size, sub.head_pairs) for size in sizes}
    pairs = architecture.rope_entries // 2
    # Adjusted frequencies do not follow a power law, so a stock class has all or none of them.
    if not architecture.rope_adjusted:
        pairs = shortest_run([range(o, o + step * count, step) for o, step, count in kept.values()])[2]
    head_size = 2 * pairs + max(size - 2 * count for size, (_, _, count) in kept.items())
    return None if architecture.qk_norm and sizes != {head_size} else head_size
