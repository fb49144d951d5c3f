"""What of the teacher a student has kept, and how different the best candidates of its search are."""

from pipeline.report.schema import Anatomy, Candidate, Diversity, KeptLayer, LayerSizes
from pipeline.stages.context import Context
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.diversity import diversity
from pipeline.subnetwork.value import LayerGenes, SubNetwork


def anatomy(context: Context, sub: SubNetwork) -> Anatomy:
    """The teacher's sizes, and the student's for every layer that it keeps."""
    teacher = context.architecture
    return {
        "n_layer": [teacher.n_layer, sub.n_layer],
        "n_embd": [teacher.n_embd, sub.n_embd],
        "teacher": _sizes(teacher),
        "student": [_kept(layer, gene) for layer, gene in zip(sub.layers, sub.genes, strict=True)],
    }


def _sizes(layer: LayerGenes | Architecture) -> LayerSizes:
    sizes: LayerSizes = {
        "n_query_groups": layer.n_query_groups,
        "heads_per_group": layer.heads_per_group,
        "head_size": layer.head_size,
        "intermediate_size": layer.intermediate_size,
    }
    if layer.n_expert and layer.n_expert_per_token:
        sizes |= {"n_expert": layer.n_expert, "n_expert_per_token": layer.n_expert_per_token}
    return sizes


def _kept(layer: int, gene: LayerGenes) -> KeptLayer:
    return {"layer": layer, **_sizes(gene)}


def diversity_of(context: Context, candidates: list[Candidate]) -> Diversity | None:
    """Of as many candidates as the first generation has, the first asked for and the last; None where they
    overlap."""
    count = context.config.search.population
    if len(candidates) < 2 * count:
        return None
    found = [line["subnetwork"] for line in candidates]
    return {"candidates": count, "first": diversity(found[:count]), "last": diversity(found[-count:])}
