"""What a sub-network is: a frozen value that names its teacher layers, its width, and the genes of every kept layer."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from typing import Any

from pipeline.config import AttentionScale, HeadPairs
from pipeline.errors import SprigError
from pipeline.subnetwork.architecture import Architecture

GENES = ("n_query_groups", "heads_per_group", "head_size", "intermediate_size")
EXPERT_GENES = ("n_expert", "n_expert_per_token")
HEAD_PAIRS, ATTENTION_SCALES = (tuple(map(str, choices)) for choices in (HeadPairs, AttentionScale))
_CURE = "give one as `subnetwork.json` of a student has it"
ABOUT = "about"  # in a JSON file: notes for people, see pipeline.subnetwork.about
# A layer's genes, as people read them.
SIZES = {
    "n_query_groups": "query groups",
    "heads_per_group": "heads per group",
    "head_size": "head size",
    "intermediate_size": "MLP width",
    "n_expert": "experts",
    "n_expert_per_token": "experts per token",
}


@dataclass(frozen=True)
class LayerGenes:
    """The sizes of one kept layer, and in fine spaces the seed that its index sets are drawn from.

    In a mixture of experts, a token passes `n_expert_per_token` of `n_expert` MLPs; both are None where a layer has one
    MLP.
    """

    n_query_groups: int
    heads_per_group: int
    head_size: int
    intermediate_size: int
    index_seed: int | None = None
    n_expert: int | None = None
    n_expert_per_token: int | None = None

    @classmethod
    def of(cls, sizes: Sequence[int], index_seed: int | None = None) -> "LayerGenes":
        """The genes with these sizes, in the order of `genes_of`."""
        return cls(**dict(zip(GENES + EXPERT_GENES, sizes, strict=False)), index_seed=index_seed)

    @property
    def sizes(self) -> tuple[int, ...]:
        """In the order of `genes_of`."""
        return tuple(size for name in GENES + EXPERT_GENES if (size := getattr(self, name)) is not None)

    @property
    def n_head(self) -> int:
        return self.n_query_groups * self.heads_per_group


@dataclass(frozen=True)
class SubNetwork:
    """A choice of a teacher's entries.

    `layers` are teacher layer numbers, ascending; `genes` has one entry per kept layer. `ordering` is the fingerprint
    of the ordering that says which entries come first ("none": the teacher's own). Coarse sub-networks keep the first
    entries and have no seeds; fine ones keep subsets drawn from `index_seed` (width) and the genes' seeds.
    """

    layers: tuple[int, ...]
    n_embd: int
    genes: tuple[LayerGenes, ...]
    head_pairs: str = "strided"
    attention_scale: str = "teacher"
    ordering: str = "none"
    index_seed: int | None = None

    @property
    def n_layer(self) -> int:
        return len(self.layers)

    @property
    def uniform(self) -> bool:
        """Whether all layers have the same sizes (their index sets may differ)."""
        return len({gene.sizes for gene in self.genes}) == 1

    @property
    def key(self) -> str:
        """A hash of the value, the same in every process."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict:
        genes = [
            {name: size for name, size in asdict(gene).items() if size is not None or name not in EXPERT_GENES}
            for gene in self.genes
        ]
        return asdict(self) | {"layers": list(self.layers), "genes": genes}

    @classmethod
    def from_dict(cls, plain: dict) -> "SubNetwork":
        """Without what the file says about it. Raises SprigError where keys are missing or unknown, a value is of the
        wrong type, or layers and genes do not fit together."""
        if isinstance(plain, dict):
            plain = {key: value for key, value in plain.items() if key != ABOUT}
        _check_keys("Sub-network", plain, cls)
        for name in ("layers", "genes"):
            if not isinstance(plain[name], list | tuple):
                raise SprigError(f"Sub-network's {name}={plain[name]!r} is not a list: {_CURE}.")
        for place, gene in enumerate(plain["genes"]):
            _check_keys(f"Sub-network's genes[{place}]", gene, LayerGenes)
        genes = tuple(LayerGenes(**gene) for gene in plain["genes"])
        sub = cls(**plain | {"layers": tuple(plain["layers"]), "genes": genes})
        _check_parts(sub)
        return sub


def genes_of(architecture: Architecture) -> tuple[str, ...]:
    """The names of a layer's sizes."""
    return GENES + EXPERT_GENES if architecture.n_expert else GENES


def whole(architecture: Architecture) -> SubNetwork:
    """The sub-network that keeps everything."""
    genes = LayerGenes.of([getattr(architecture, name) for name in genes_of(architecture)])
    layers = tuple(range(architecture.n_layer))
    return SubNetwork(layers, architecture.n_embd, (genes,) * architecture.n_layer)


@cache
def head_size_unit(architecture: Architecture) -> int:
    """The smallest step of a head size that keeps whole rotary pairs: 2 for full rotary, 8 for Pythia's 25 %.

    The rotary entries are the same share at every step, and what litgpt truncates `rotary_percentage` of them to.
    """
    rotary, whole = architecture.rope_entries, architecture.head_size

    def keeps_pairs(size: int) -> bool:
        kept = int(architecture.rotary_percentage * size)
        return kept % 2 == 0 and kept * whole == rotary * size

    steps = (step for step in range(1, whole) if whole % step == 0)
    return next((step for step in steps if all(map(keeps_pairs, range(step, whole, step)))), whole)


def _check_keys(what: str, plain: Any, kind: type[SubNetwork] | type[LayerGenes]) -> None:
    if not isinstance(plain, dict):
        raise SprigError(f"{what} is not a JSON object: {_CURE}.")
    names = {each.name: each.default is MISSING for each in fields(kind)}
    for name, needed in names.items():
        if needed and name not in plain:
            raise SprigError(f"{what} has no {name}: {_CURE}.")
    if unknown := plain.keys() - names.keys():
        raise SprigError(f"{what} has the unknown key {min(unknown)}: remove it; the keys are {', '.join(names)}.")


def _check_parts(sub: SubNetwork) -> None:
    """What no teacher has to be known for."""
    numbers = {f"layers[{place}]": layer for place, layer in enumerate(sub.layers)} | {"n_embd": sub.n_embd}
    seeds = {"index_seed": sub.index_seed}
    for place, gene in enumerate(sub.genes):
        for name, value in vars(gene).items():
            optional = name == "index_seed" or (name in EXPERT_GENES and value is None)
            (seeds if optional else numbers)[f"genes[{place}].{name}"] = value
    numbers |= {name: seed for name, seed in seeds.items() if seed is not None}
    for name, value in numbers.items():
        if type(value) is not int:  # a bool would pass for 0 or 1
            raise SprigError(f"Sub-network's {name}={value!r} is not a whole number: give one.")
    for name in ("head_pairs", "attention_scale", "ordering"):
        if not isinstance(getattr(sub, name), str):
            raise SprigError(f"Sub-network's {name}={getattr(sub, name)!r} is not a string: give one.")
    if len(sub.layers) != len(sub.genes) or not sub.layers:
        raise SprigError(f"Sub-network names {len(sub.layers)} layers but has genes for {len(sub.genes)}.")
    if list(sub.layers) != sorted(set(sub.layers)):
        raise SprigError(f"Sub-network's layers {list(sub.layers)} must ascend without repetition.")


def check(sub: SubNetwork, architecture: Architecture) -> None:
    """Rejects a sub-network that this architecture does not contain; nothing is repaired.

    Raises:
        SprigError: names the gene, its value and the teacher's.
    """
    _check_parts(sub)

    def within(name: str, value: int, most: int) -> None:
        if not 1 <= value <= most:
            raise SprigError(f"Sub-network's {name}={value} is outside 1..{most} of teacher {architecture.name}.")

    if sub.layers[0] < 0 or sub.layers[-1] >= architecture.n_layer:
        raise SprigError(
            f"Sub-network's layers {list(sub.layers)} reach outside 0..{architecture.n_layer - 1} of "
            f"teacher {architecture.name}."
        )
    within("n_embd", sub.n_embd, architecture.n_embd)
    unit, names = head_size_unit(architecture), genes_of(architecture)
    for layer, gene in zip(sub.layers, sub.genes, strict=True):
        if len(gene.sizes) != len(names):
            raise SprigError(
                f"Sub-network has n_expert={gene.n_expert} and n_expert_per_token={gene.n_expert_per_token} at layer "
                f"{layer}, but teacher {architecture.name} has {architecture.n_expert or 'no'} experts: use "
                "the teacher's numbers."
            )
        for name, size in zip(names, gene.sizes, strict=True):
            within(f"{name} at layer {layer}", size, getattr(architecture, name))
        experts, passed = gene.n_expert, gene.n_expert_per_token
        if experts is not None and passed is not None and experts < passed:
            raise SprigError(
                f"Sub-network's n_expert={experts} at layer {layer} is below its n_expert_per_token={passed}: a token "
                "passes different experts."
            )
        if gene.head_size % unit:
            raise SprigError(
                f"Sub-network's head_size={gene.head_size} at layer {layer} breaks a rotary pair of teacher "
                f"{architecture.name}: it must be a multiple of {unit}."
            )
    seeds = [sub.index_seed, *(gene.index_seed for gene in sub.genes)]
    given = [seed for seed in seeds if seed is not None]
    if 0 < len(given) < len(seeds):
        raise SprigError(
            f"Sub-network has index_seed={sub.index_seed} for its width and {seeds[1:]} for its layers: give every one "
            "a seed (fine) or none (coarse)."
        )
    if given and min(given) < 0:
        raise SprigError(f"Sub-network's lowest index_seed={min(given)} must not be negative.")
    if sub.head_pairs not in HEAD_PAIRS or sub.attention_scale not in ATTENTION_SCALES:
        raise SprigError(
            f"Sub-network's head_pairs={sub.head_pairs!r} must be one of {HEAD_PAIRS} and attention_scale="
            f"{sub.attention_scale!r} one of {ATTENTION_SCALES}."
        )
