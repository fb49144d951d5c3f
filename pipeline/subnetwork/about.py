"""What `subnetwork.json` says about its sub-network: for people, and never read back as a part of the value."""

from typing import NotRequired, TypedDict

from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.value import SubNetwork, whole


class FoundFitness(TypedDict):
    """How well the sub-network did in its search, on calibration text and before any training. Lower is better."""

    measure: str
    value: float


class KeptVocabulary(TypedDict):
    """How many tokens are kept, and how many the teacher has."""

    kept: int
    teacher: int


class About(TypedDict):
    """`teacher_sizes` is the whole teacher as a sub-network of itself; `fitness` is null where nothing was searched.
    With space.vocabulary, `vocabulary` is there, and all parameters are counted with the kept tokens."""

    teacher: str
    teacher_parameters: int
    teacher_sizes: dict[str, int]
    parameters: int
    fitness: FoundFitness | None
    vocabulary: NotRequired[KeptVocabulary]


def about(
    teacher: str,
    architecture: Architecture,
    sub: SubNetwork,
    fitness: FoundFitness | None,
    uncut_vocabulary: int | None = None,
) -> About:
    """`uncut_vocabulary`: tokens of the teacher's whole vocabulary, where the architecture has a part of them."""
    everything = whole(architecture)
    genes = {name: size for name, size in vars(everything.genes[0]).items() if size is not None}
    noted: About = {
        "teacher": teacher,
        "teacher_parameters": parameters(architecture),
        "teacher_sizes": {"n_layer": everything.n_layer, "n_embd": everything.n_embd} | genes,
        "parameters": parameters(architecture, sub),
        "fitness": fitness,
    }
    if uncut_vocabulary is not None:
        noted["vocabulary"] = {"kept": architecture.vocab_size, "teacher": uncut_vocabulary}
    return noted
