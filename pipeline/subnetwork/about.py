"""What `subnetwork.json` says about its sub-network: for people, and never read back as a part of the value."""

from typing import TypedDict

from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.value import SubNetwork, whole


class FoundFitness(TypedDict):
    """How well the sub-network did in its search, on calibration text and before any training. Lower is better."""

    measure: str
    value: float


class About(TypedDict):
    """`teacher_sizes` is the whole teacher as a sub-network of itself; `fitness` is null where nothing was searched."""

    teacher: str
    teacher_parameters: int
    teacher_sizes: dict[str, int]
    parameters: int
    fitness: FoundFitness | None


def about(teacher: str, architecture: Architecture, sub: SubNetwork, fitness: FoundFitness | None) -> About:
    everything = whole(architecture)
    genes = {name: size for name, size in vars(everything.genes[0]).items() if size is not None}
    return {
        "teacher": teacher,
        "teacher_parameters": parameters(architecture),
        "teacher_sizes": {"n_layer": everything.n_layer, "n_embd": everything.n_embd} | genes,
        "parameters": parameters(architecture, sub),
        "fitness": fitness,
    }
