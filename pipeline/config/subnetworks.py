"""Which sub-networks a run may choose: space, bin and ordering."""

from dataclasses import dataclass, field

from pipeline.config.checks import BLOCKS, TOKENS, label, later, real, require, share, whole
from pipeline.config.choices import (
    AttentionScale,
    Count,
    Exportable,
    Granularity,
    HeadPairs,
    Layers,
    OrderingKind,
    Sharing,
)

PARAMETERS = 10**13  # more than any model has


@dataclass
class Sizes:
    """One value for each dimension that a sub-network chooses; null leaves the default."""

    n_layer: int | None = whole(None)
    n_embd: int | None = whole(None)
    n_query_groups: int | None = whole(None)
    heads_per_group: int | None = whole(None)
    head_size: int | None = whole(None)
    intermediate_size: int | None = whole(None)  # of an expert, in a mixture
    n_expert: int | None = later(whole(None))
    n_expert_per_token: int | None = later(whole(None))


@dataclass
class SpaceConfig:
    """Which sub-networks may be chosen (paper, method 3)."""

    granularity: Granularity = Granularity.coarse  # coarse: the first entries; fine: any
    sharing: Sharing = Sharing.layerwise  # uniform: the same sizes in all layers
    layers: Layers = Layers.prefix  # prefix: the first; rank: the most influential; subset: any
    # The RoPE pairs that a cut head keeps: evenly spaced, the last, or the first; plain breaks pairs, as in the paper.
    head_pairs: HeadPairs = HeadPairs.strided
    attention_scale: AttentionScale = AttentionScale.teacher  # own: 1/sqrt of the cut head size
    step: Sizes = field(default_factory=Sizes)  # steps between the sizes that may be chosen
    min: Sizes = field(default_factory=Sizes)  # smallest sizes
    max: Sizes = field(default_factory=Sizes)  # largest sizes
    hold: list[str] = field(default_factory=list)  # dimensions kept at the teacher's size
    # Keeps this many tokens of the teacher's tokenizer, the most used in the training text; null: all.
    vocabulary: int | None = whole(None, high=10**8)
    type: str | None = later(label(None))  # the import path of your own subclass of pipeline.subnetwork.space.Space
    exportable: Exportable = Exportable.any  # stock: only shapes that the family's transformers class can hold
    max_flops_per_token: int | None = whole(None, high=10**18)  # limit on a forward pass over data.block_size tokens
    max_kv_bytes_per_token: int | None = whole(None, high=10**12)  # limit on the KV cache in the run's precision

    def __post_init__(self) -> None:
        for name in self.hold:
            require(
                name in Sizes.__dataclass_fields__,
                f"space.hold names {name!r}; the dimensions are {', '.join(Sizes.__dataclass_fields__)}.",
            )


@dataclass
class BinConfig:
    """The parameter bin: centre and tolerance, or low and high."""

    center: int | None = whole(None, high=PARAMETERS)  # parameters
    tolerance: float = share(0.05)  # share of the centre
    low: int | None = whole(None, high=PARAMETERS)  # parameters, instead of a centre
    high: int | None = whole(None, high=PARAMETERS)  # parameters
    # Which parameters are counted; exported: what transformers counts, which needs space.exportable=stock; active: of a
    # mixture's experts, only as many as each token uses.
    count: Count = Count.total

    def __post_init__(self) -> None:
        edges = (self.low is not None) + (self.high is not None)
        require(
            self.center is not None or edges > 0,
            "No parameter bin is given: set bin.center=60M, for example, or bin.low and bin.high.",
        )
        require(
            (self.center is not None and edges == 0) or (self.center is None and edges == 2),
            f"bin.center={self.center}, bin.low={self.low}, bin.high={self.high}: give either the centre (with "
            "bin.tolerance, and bin.low=null bin.high=null) or both low and high (and bin.center=null).",
        )


@dataclass
class RecoverConfig:
    """Closed-form recovery: refits a cut student's projections to the teacher's activations by ridge regression."""

    # null: on, unless the student starts from random weights; true: on, and an error for random weights; false: off.
    enabled: bool | None = None
    tokens: int = whole(65_536, high=TOKENS)  # training tokens that it reads, rounded down to whole blocks
    # Candidates for the strength of the pull towards the cut weights, in tokens; held-out blocks decide between them.
    ridges: list[float] = real([3_000.0], high=1e12, open_low=True)
    batch: int = whole(8)  # blocks per forward pass

    def __post_init__(self) -> None:
        require(bool(self.ridges), "recover.ridges=[] has no candidate: name at least one.")


@dataclass
class OrderingConfig:
    """How layers and entries are ranked. Coarse spaces keep the first entries of this order."""

    kind: OrderingKind = OrderingKind.importance  # none: the teacher's own order; importance: by activations
    blocks: int = whole(16, high=BLOCKS)  # calibration blocks on which activations are measured
    batch: int = whole(8)  # blocks per forward pass
