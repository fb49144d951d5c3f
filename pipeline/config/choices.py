"""The words that configuration keys take where only some words make sense."""

from enum import Enum, StrEnum

STAGES = (
    "prepare",
    "order",
    "reconstruct",
    "search",
    "rerank",
    "extract",
    "recover",
    "distill",
    "evaluate",
    "study",
    "report",
)
ON_REQUEST = ("cache", "export", "sample", "chat", "score")  # stages that only run when they are named


class Source(StrEnum):
    gguf = "gguf"
    hf = "hf"
    litgpt = "litgpt"
    random = "random"


class Dtype(StrEnum):
    fp32 = "fp32"
    bf16 = "bf16"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


# The functional form, because "bf16-mixed" is not a Python identifier.
Precision = Enum("Precision", {"auto": "auto", "fp32": "fp32", "bf16-mixed": "bf16-mixed", "bf16": "bf16"}, type=str)


class DataSource(StrEnum):
    text = "text"
    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"
    hub = "hub"


class SampleBy(StrEnum):
    document = "document"
    paragraph = "paragraph"
    line = "line"


class Granularity(StrEnum):
    coarse = "coarse"
    fine = "fine"


class Sharing(StrEnum):
    uniform = "uniform"
    layerwise = "layerwise"


class Layers(StrEnum):
    prefix = "prefix"
    rank = "rank"
    subset = "subset"


class Exportable(StrEnum):
    any = "any"
    stock = "stock"


class HeadPairs(StrEnum):
    last = "last"
    strided = "strided"
    first = "first"
    plain = "plain"


class AttentionScale(StrEnum):
    teacher = "teacher"
    own = "own"


class Count(StrEnum):
    total = "total"
    non_embedding = "non_embedding"
    exported = "exported"
    active = "active"


class OrderingKind(StrEnum):
    none = "none"
    importance = "importance"


class Strategy(StrEnum):
    evolution = "evolution"
    one_plus_lambda = "one_plus_lambda"
    local = "local"
    random = "random"
    uniform = "uniform"
    first_layers = "first_layers"
    importance = "importance"
    allocation = "allocation"
    given = "given"


class Fitness(StrEnum):
    perplexity = "perplexity"
    kl = "kl"


class Start(StrEnum):
    uniform = "uniform"
    first_layers = "first_layers"
    importance = "importance"
    allocation = "allocation"


class Init(StrEnum):
    searched = "searched"
    random_subnetwork = "random_subnetwork"
    random_weights = "random_weights"
    trained = "trained"


class Loss(StrEnum):
    forward_kl = "forward_kl"
    reverse_kl = "reverse_kl"
    js = "js"
    ce = "ce"


class CacheKind(StrEnum):
    off = "off"
    sampled = "sampled"
    topk = "topk"


class CacheMode(StrEnum):
    fill = "fill"
    read = "read"


class ScheduleKind(StrEnum):
    cosine = "cosine"
    linear = "linear"
    wsd = "wsd"


class Cluster(StrEnum):
    local = "local"
    slurm = "slurm"


class ExportForm(StrEnum):
    auto = "auto"
    stock = "stock"
    padded = "padded"
    own = "own"


class GGUFKind(StrEnum):
    none = "none"
    f16 = "f16"
    f32 = "f32"


class TrackerKind(StrEnum):
    none = "none"
    wandb = "wandb"
