"""What summary.json and the other records of a report hold.

A key that is not in every run is NotRequired; a null is not known yet, or does not exist for this run.
"""

from typing import Any, NotRequired, TypedDict

from pipeline.evaluation.savings import EqualFlops, Saving
from pipeline.subnetwork.value import SubNetwork

SCHEMA = 2
RUNNING = "running"  # the status of a run that is not completed

Scores = dict[str, dict[str, float]]  # by task and metric


class TeacherSummary(TypedDict):
    name: str
    random_weights: NotRequired[bool]  # drawn, not trained: nothing that is measured against it means anything
    parameters: int
    perplexity: float | None
    bits_per_byte: NotRequired[float | None]
    flops_per_token: int


class UncutSummary(TypedDict):
    """The teacher with its whole vocabulary, on the same text; its perplexity is over fewer tokens."""

    vocabulary: int
    kept: int
    parameters: int
    perplexity: float | None
    bits_per_byte: float | None


class DataSummary(TypedDict):
    name: str
    block_size: int
    validation_blocks: int
    task_examples: NotRequired[int | None]  # a task's first examples that are scored; null: all


class BinSummary(TypedDict):
    """In parameters, counted as `count` says."""

    center: int
    low: int
    high: int
    count: str


class RerankSummary(TypedDict):
    candidates: int
    tokens: int  # of each candidate's short training
    lr: float
    flops: int
    loss: float  # the winner's, nats per token
    rank: int  # the winner's by the search's fitness, from 1


class Diversity(TypedDict):
    """Mean pairwise share of genes that differ, among the first and the last `candidates`."""

    candidates: int
    first: float
    last: float


class SearchSummary(TypedDict):
    strategy: str | None  # null: nothing needs a search
    evaluated: int | None
    tokens: int | None
    seconds: float | None
    best_fitness: float | None
    candidates: NotRequired[int | None]
    fitness: str
    random_best_fitness: float | None
    rerank: NotRequired[RerankSummary | None]
    diversity: NotRequired[Diversity | None]


class ModelFlops(TypedDict):
    student: int  # the model's own, whatever its role
    teacher: int


class ExportedSummary(TypedDict):
    """What export.form=auto makes of the model, and what transformers then counts; `own` of export.form=own."""

    form: str
    parameters: int
    own: int


class ModelSummary(TypedDict):
    """Student or control."""

    init: str
    kd: bool
    parameters: int | None
    active_parameters: NotRequired[int | None]  # of a mixture, those that a token passes
    exported: NotRequired[ExportedSummary | None]
    n_layer: int | None
    untrained_perplexity: float | None
    untrained_bits_per_byte: NotRequired[float | None]
    recovered_perplexity: NotRequired[float | None]  # after recovery, before training
    recovered_bits_per_byte: NotRequired[float | None]
    final_perplexity: float | None
    final_bits_per_byte: NotRequired[float | None]
    tokens: int
    lr: float
    flops: ModelFlops
    artifact: str | None


class RunFlops(TypedDict):
    """What comes before training."""

    order: int
    search: int  # with the rerank
    random_search: int  # the baseline's, which is not the student's cost
    recover: NotRequired[int | None]


class RecoverSummary(TypedDict):
    tokens: int
    seconds: float
    helped: bool  # whether the held-out loss fell; the student is the untrained cut where it did not
    before: float  # the loss on held-out training blocks, in nats per token
    after: float


class ModelEfficiency(TypedDict):
    parameters: int
    flops_per_token: int
    kv_bytes_per_token: int
    prefill_tokens_per_second: float
    decode_tokens_per_second: float


class EfficiencySummary(TypedDict):
    hardware: str
    prefill: int
    decode: int
    repetitions: int
    teacher: ModelEfficiency
    student: ModelEfficiency


class LayerSizes(TypedDict):
    n_query_groups: int
    heads_per_group: int
    head_size: int
    intermediate_size: int
    n_expert: NotRequired[int]  # of mixtures alone
    n_expert_per_token: NotRequired[int]


def queries(sizes: LayerSizes) -> int:
    """Query entries of the attention: heads x head size."""
    return sizes["n_query_groups"] * sizes["heads_per_group"] * sizes["head_size"]


def neurons(sizes: LayerSizes) -> int:
    """Of the MLP, or of all experts together."""
    return sizes["intermediate_size"] * sizes.get("n_expert", 1)


class KeptLayer(LayerSizes):
    layer: int  # of the teacher


class Anatomy(TypedDict):
    """Pairs are the teacher's and the student's."""

    n_layer: list[int]
    n_embd: list[int]
    teacher: LayerSizes
    student: list[KeptLayer]


class Coefficient(TypedDict):
    """With the bounds of its interval; null where all values are equal."""

    value: float | None
    low: float | None
    high: float | None


class Correlation(TypedDict):
    fitness: str
    among: str
    n: int
    spearman: Coefficient
    kendall: Coefficient


class StudySummary(TypedDict):
    random: int
    searched: int
    tokens: int
    flops: int
    confidence: float
    resamples: int
    correlations: list[Correlation]
    points: list[dict[str, Any]]  # a column for each fitness


class Summary(TypedDict):
    """summary.json. Perplexities are over the same fixed validation blocks."""

    schema: int
    status: str
    unfinished: NotRequired[dict[str, str]]  # how far each artifact is that is not finished, by role
    preset: str
    seed: int
    teacher: TeacherSummary
    uncut_teacher: NotRequired[UncutSummary]  # with space.vocabulary, where `teacher` has the kept tokens
    data: DataSummary
    bin: BinSummary
    space: str
    ordering: str
    precision: str
    search: SearchSummary
    recover: NotRequired[RecoverSummary | None]
    student: ModelSummary
    control: ModelSummary | None
    flops: RunFlops
    saving: Saving | None
    equal_flops: NotRequired[EqualFlops | None]
    efficiency: EfficiencySummary | None
    downstream: dict[str, Scores]  # by model
    anatomy: Anatomy | None
    study: NotRequired[StudySummary]


class Continuation(TypedDict):
    nll: float
    perplexity: float
    bits_per_byte: float  # of the targets as UTF-8 text: comparable across tokenizers
    sample: str


class Evaluation(TypedDict):
    """evaluation.json: the prompt, and what each model makes of it."""

    prompt: str
    tokens: int
    bytes: int  # of those tokens as text, ends of documents left out
    models: dict[str, Continuation]


class Candidate(TypedDict):
    """An evaluation in a search's journal."""

    key: str
    blocks: int  # that its candidate is scored on
    fitness: float
    parameters: int
    losses: list[float]
    subnetwork: SubNetwork
    tokens: int  # evaluated up to it, by all


def random_weights(summary: Summary) -> bool:
    """Whether the teacher was never trained."""
    return summary["teacher"].get("random_weights", False)


def trained_models(summary: Summary) -> dict[str, ModelSummary]:
    """Student and, if there is one, control."""
    control = summary["control"]
    return {"student": summary["student"]} | ({} if control is None else {"control": control})
