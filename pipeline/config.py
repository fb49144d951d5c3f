"""The typed schema of every configuration key: types and ranges. Imports no torch, so that `--help` is quick.

Unknown keys and wrong types fail when Hydra composes; ranges fail in `__post_init__`, when the composed configuration
becomes objects. What needs a teacher or a text to be judged is checked in the stages' plans.
"""

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pipeline.errors import SprigError

STAGES = ("prepare", "order", "search", "extract", "distill", "evaluate", "report")
ON_REQUEST = ("export",)  # stages that only run when they are named


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


# The functional form, because "bf16-mixed" is no Python identifier.
Precision = Enum("Precision", {name: name for name in ("auto", "fp32", "bf16-mixed", "bf16")}, type=str)


class DataSource(StrEnum):
    text = "text"
    jsonl = "jsonl"
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


class OrderingKind(StrEnum):
    none = "none"
    importance = "importance"


class Strategy(StrEnum):
    evolution = "evolution"
    one_plus_lambda = "one_plus_lambda"
    regularized_evolution = "regularized_evolution"
    local = "local"
    random = "random"
    uniform = "uniform"
    first_layers = "first_layers"
    importance = "importance"
    given = "given"


class Start(StrEnum):
    uniform = "uniform"
    first_layers = "first_layers"
    importance = "importance"


class Init(StrEnum):
    searched = "searched"
    random_subnetwork = "random_subnetwork"
    random_weights = "random_weights"


class ScheduleKind(StrEnum):
    cosine = "cosine"
    wsd = "wsd"


class ExportForm(StrEnum):
    auto = "auto"
    stock = "stock"
    padded = "padded"
    own = "own"


class TrackerKind(StrEnum):
    none = "none"
    wandb = "wandb"


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise SprigError(message)


def _positive(section: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _check(value is None or value > 0, f"{section}.{name}={value} must be above 0.")


def _fraction(section: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _check(0 <= value <= 1, f"{section}.{name}={value} must lie in 0..1.")


@dataclass
class TeacherConfig:
    """Where a pretrained teacher comes from."""

    name: str = MISSING
    source: Source = MISSING
    path: str | None = None  # file or folder; a hub name for `hf`; relative to `package` where that is set
    package: str | None = None  # an installed Python package that holds `path`
    revision: str | None = None  # hub revision
    # A litgpt config name, or an inline litgpt config. `random` builds it; `hf` plans with it before any download.
    litgpt: Any = None
    tokenizer: str | None = None  # null: comes with the source; "bytes"; or a folder or file with a tokenizer.json
    dtype: Dtype = Dtype.fp32  # of the weights in memory and in the converted checkpoint
    tied: bool | None = None  # embedding and head share weights; null: as the files say (`random`: no)
    padded_vocab_size: int | None = None  # trims the embedding's padding rows to this many
    license: str | None = None

    def __post_init__(self):
        _positive("teacher", self, "padded_vocab_size")
        needs = "litgpt" if self.source == Source.random else "path"
        _check(
            getattr(self, needs) is not None,
            f"teacher.source={self.source} needs teacher.{needs}, which is null: set it in the teacher's config.",
        )


@dataclass
class DataConfig:
    """Text, and how it becomes packed token blocks."""

    name: str = MISSING
    source: DataSource = MISSING
    path: Any = None  # a file, a folder, a glob, a list of these, or a hub name
    package: str | None = None  # an installed Python package that `path` is relative to
    subset: str | None = None  # the hub data set's configuration
    split: str = "train"
    text_key: str = "text"
    sample_by: SampleBy = SampleBy.document  # what one document is, in text files
    streaming: bool = False
    max_tokens: int | None = None  # stop reading here; required when streaming
    block_size: int = MISSING  # targets of a block: it holds block_size + 1 tokens
    validation: float = 0.05  # share of the documents
    calibration: float = 0.05
    seed: int = 0
    workers: int = 2

    def __post_init__(self):
        _positive("data", self, "max_tokens", "block_size", "workers")
        _check(
            self.validation > 0 and self.calibration > 0 and self.validation + self.calibration < 1,
            f"data.validation={self.validation} and data.calibration={self.calibration} must be above 0 and leave a "
            "share for training: their sum must be below 1.",
        )
        _check(not self.streaming or self.max_tokens is not None, "data.streaming=true needs data.max_tokens.")
        _check(self.path is not None, "data.path is null: name a file, a folder, a glob, or a hub data set.")


@dataclass
class Sizes:
    """One value for each dimension that a sub-network chooses; null leaves the default."""

    n_layer: int | None = None
    n_embd: int | None = None
    n_query_groups: int | None = None
    heads_per_group: int | None = None
    head_size: int | None = None
    intermediate_size: int | None = None

    def __post_init__(self):
        _positive("space.(step|min|max)", self, *self.__dataclass_fields__)


@dataclass
class SpaceConfig:
    """Which sub-networks may be chosen (paper, method 3)."""

    granularity: Granularity = Granularity.coarse
    sharing: Sharing = Sharing.layerwise
    layers: Layers = Layers.prefix
    head_pairs: HeadPairs = HeadPairs.last
    attention_scale: AttentionScale = AttentionScale.teacher
    step: Sizes = field(default_factory=Sizes)
    min: Sizes = field(default_factory=Sizes)
    max: Sizes = field(default_factory=Sizes)
    hold: list[str] = field(default_factory=list)  # dimensions kept at the teacher's size

    def __post_init__(self):
        for name in self.hold:
            _check(
                name in Sizes.__dataclass_fields__,
                f"space.hold names {name!r}; the dimensions are {', '.join(Sizes.__dataclass_fields__)}.",
            )


@dataclass
class BinConfig:
    """The parameter bin: centre and tolerance, or low and high."""

    center: int | None = None
    tolerance: float = 0.05
    low: int | None = None
    high: int | None = None
    count: Count = Count.total

    def __post_init__(self):
        _positive("bin", self, "center", "low", "high")
        _fraction("bin", self, "tolerance")
        edges = (self.low is not None) + (self.high is not None)
        _check(
            (self.center is not None and edges == 0) or (self.center is None and edges == 2),
            f"bin.center={self.center}, bin.low={self.low}, bin.high={self.high}: give either the centre (with "
            "bin.tolerance) or both low and high, the other null.",
        )


@dataclass
class OrderingConfig:
    """Which entries count as the first ones."""

    kind: OrderingKind = OrderingKind.importance
    blocks: int = 16  # calibration blocks that activations are measured on
    batch: int = 8  # blocks a forward pass

    def __post_init__(self):
        _positive("ordering", self, "blocks", "batch")


@dataclass
class CrossoverConfig:
    offspring: int = 25  # children a generation


@dataclass
class MutationConfig:
    offspring: int = 25  # mutants a generation
    gene_rate: float = 0.2  # chance that a gene of a layer is drawn anew
    global_rate: float = 0.4  # chance that depth, and embedding width, is drawn anew

    def __post_init__(self):
        _fraction("search.mutation", self, "gene_rate", "global_rate")


@dataclass
class SelectionConfig:
    """Multi-step selection: each step scores on a larger share of the blocks what the one before left."""

    blocks: list[float] = field(default_factory=lambda: [1.0])  # share of search.blocks, the last step's being 1
    survivors: list[int] = field(default_factory=list)  # candidates that every step but the last leaves

    def __post_init__(self):
        shares, left = list(self.blocks), list(self.survivors)
        _check(
            bool(shares) and all(0 < share <= 1 for share in shares) and shares[-1] == 1,
            f"search.selection.blocks={shares} must be shares above 0 and at most 1, the last one 1.",
        )
        _check(
            len(left) == len(shares) - 1 and left == sorted(left, reverse=True) and min(left, default=1) > 0,
            f"search.selection.survivors={left} must hold a number for each but the last of search.selection.blocks="
            f"{shares}, above 0 and none above the one before.",
        )


@dataclass
class LimitConfig:
    """What a search may spend; null: whatever the strategy asks for. It ends before the first evaluation beyond."""

    evaluations: int | None = None  # of however many blocks
    tokens: int | None = None  # that evaluations predict
    flops: int | None = None  # of their forward passes

    def __post_init__(self):
        _positive("search.limit", self, "evaluations", "tokens", "flops")


# Strategies that go on from the best of a first generation.
FROM_A_POPULATION = (Strategy.evolution, Strategy.one_plus_lambda, Strategy.regularized_evolution, Strategy.local)


@dataclass
class SearchConfig:
    """Bin-constrained search for the best untrained sub-network."""

    strategy: Strategy = Strategy.evolution
    path: str | None = None  # strategy=given: a sub-network's JSON file
    start: list[Start] = field(default_factory=list)  # members that a first generation begins with, the rest random
    population: int = 50  # candidates of the first generation; regularized_evolution: of every one
    generations: int = 100  # after the first
    offspring: int = 16  # one_plus_lambda, regularized_evolution, local: candidates a generation
    parents: int = 10  # evolution
    crossover: CrossoverConfig = field(default_factory=CrossoverConfig)  # evolution
    mutation: MutationConfig = field(default_factory=MutationConfig)  # evolution; rates: regularized_evolution, too
    swaps: int = 3  # one_plus_lambda: at most so many a mutant
    selection: SelectionConfig = field(default_factory=SelectionConfig)  # one_plus_lambda
    tournament: int = 10  # regularized_evolution: members that compete to be the parent
    evaluations: int = 100  # random: how many candidates
    limit: LimitConfig = field(default_factory=LimitConfig)
    random_baseline: bool = False  # also score best-of-n random on as many tokens
    blocks: int = 8  # calibration blocks a candidate is scored on
    batch: int = 8  # blocks a forward pass

    def __post_init__(self):
        _positive("search", self, "population", "offspring", "parents", "swaps", "tournament", "evaluations")
        _positive("search", self, "blocks", "batch")
        _check(self.generations >= 0, f"search.generations={self.generations} must not be negative.")
        _check(
            self.parents <= self.population or self.strategy != Strategy.evolution,
            f"search.parents={self.parents} exceeds search.population={self.population}: lower it.",
        )
        _check(
            self.tournament <= self.population or self.strategy != Strategy.regularized_evolution,
            f"search.tournament={self.tournament} exceeds search.population={self.population}: lower it.",
        )
        children, mutants = self.crossover.offspring, self.mutation.offspring
        _check(
            min(children, mutants) >= 0 and children + mutants > 0,
            f"search.crossover.offspring={children} and search.mutation.offspring={mutants} must not be negative, nor "
            "both 0.",
        )
        _check(
            (self.strategy == Strategy.given) == (self.path is not None),
            f"search.strategy={self.strategy} with search.path={self.path}: `given` needs a path, no other takes one.",
        )
        starts = [str(start) for start in self.start]
        _check(
            not starts or self.strategy in FROM_A_POPULATION,
            f"search.strategy={self.strategy} takes no search.start={starts}: {', '.join(FROM_A_POPULATION)} do.",
        )
        _check(
            len(set(starts)) == len(starts) <= self.population,
            f"search.start={starts} must name each at most once, and at most search.population={self.population}.",
        )
        counts = self.step_blocks()
        _check(
            counts == sorted(set(counts)),
            f"search.selection.blocks={list(self.selection.blocks)} of search.blocks={self.blocks} are {counts} "
            "blocks; each step needs more than the one before: raise search.blocks, or take fewer steps.",
        )

    def step_blocks(self) -> list[int]:
        """Blocks that each step of the selection scores on."""
        return [max(round(share * self.blocks), 1) for share in self.selection.blocks]


@dataclass
class ScheduleConfig:
    kind: ScheduleKind = ScheduleKind.cosine
    warmup: float = 0.05  # share of the token budget
    decay: float = 0.2  # wsd: share of the token budget
    floor: float = 0.1  # last learning rate as a share of the peak

    def __post_init__(self):
        _fraction("distill.schedule", self, "warmup", "decay", "floor")
        _check(
            self.kind != ScheduleKind.wsd or self.warmup + self.decay <= 1,
            f"distill.schedule.warmup={self.warmup} and distill.schedule.decay={self.decay} overlap: "
            "their sum must be at most 1.",
        )


@dataclass
class ControlConfig:
    """The control: same shape, budget, loss and schedule, another start and its own learning rate."""

    enabled: bool = True
    init: Init = Init.random_weights
    lr: float = 1e-3

    def __post_init__(self):
        _positive("distill.control", self, "lr")


@dataclass
class DistillConfig:
    """Pretraining with knowledge distillation: loss = alpha * CE + beta * T^2 * KL(teacher || student)."""

    init: Init = Init.searched
    tokens: int = MISSING  # token budget, rounded down to whole batches
    lr: float = 3e-4
    alpha: float = 0.0
    beta: float = 1.0
    temperature: float = 1.0
    global_batch: int = 8  # blocks an optimizer step, over all ranks
    micro_batch: int = 8  # blocks a forward pass of one rank
    chunk_tokens: int = 512  # tokens whose logits exist at one time
    weight_decay: float = 0.1
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = 1e-8
    clip: float = 1.0
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    validations: int = 10  # points of the validation curve after the start
    checkpoints: int = 10  # checkpoints over the token budget

    def __post_init__(self):
        _positive("distill", self, "tokens", "lr", "temperature", "global_batch", "micro_batch", "chunk_tokens")
        _positive("distill", self, "eps", "clip", "validations", "checkpoints")
        _check(
            min(self.alpha, self.beta, self.weight_decay) >= 0 and self.alpha + self.beta > 0,
            f"distill.alpha={self.alpha}, distill.beta={self.beta} and distill.weight_decay={self.weight_decay} must "
            "not be negative, nor alpha and beta both 0.",
        )
        _check(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"distill.betas={list(self.betas)} must be AdamW's two, each at least 0 and below 1.",
        )


@dataclass
class DeepSpeedConfig:
    """How DeepSpeed shards; nothing here changes a result beyond rounding, so nothing here is in a fingerprint."""

    zero_stage: int = 0
    # Merged into DeepSpeed's zero_optimization as it is: buckets, overlap, offload.
    zero_optimization: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        _check(self.zero_stage in range(4), f"deepspeed.zero_stage={self.zero_stage} must be 0, 1, 2 or 3.")
        _check(
            "stage" not in self.zero_optimization,
            f"deepspeed.zero_optimization.stage={self.zero_optimization.get('stage')} is set beside "
            f"deepspeed.zero_stage={self.zero_stage}: use deepspeed.zero_stage alone.",
        )


@dataclass
class EvaluateConfig:
    blocks: int = 32  # validation blocks, evenly spaced over the validation split
    batch: int = 8
    prompt: str = "The purpose of education is"
    sample_tokens: int = 32

    def __post_init__(self):
        _positive("evaluate", self, "blocks", "batch")
        _check(self.sample_tokens >= 0, f"evaluate.sample_tokens={self.sample_tokens} must not be negative.")
        _check(bool(self.prompt.strip()), "evaluate.prompt is blank: give the models a few words to continue.")


@dataclass
class ExportConfig:
    """The student as a Hugging Face folder. Nothing here changes a run, so nothing here is in a fingerprint."""

    to: str | None = None  # the folder to make
    # stock: its family's own class; padded: the same with exact zeros; own: a modelling file that travels with it;
    # auto: the first of these that can hold the student
    form: ExportForm = ExportForm.auto


@dataclass
class TrackerConfig:
    kind: TrackerKind = TrackerKind.none
    project: str = "sprig"
    mode: str | None = None  # wandb's own: online, offline; null is offline where there is no key


@dataclass
class Config:
    """One run."""

    preset: str = "custom"
    run_name: str | None = None
    run: str | None = None  # reopens this run folder with its own configuration
    stages: list[str] = field(default_factory=lambda: list(STAGES))
    seed: int = 0
    device: Device = Device.auto
    precision: Precision = Precision.auto
    plan: bool = False
    debug: bool = False
    outputs: str = "outputs"
    teacher: TeacherConfig = MISSING
    kd_teacher: TeacherConfig | None = None  # null: the same teacher
    data: DataConfig = MISSING
    space: SpaceConfig = field(default_factory=SpaceConfig)
    bin: BinConfig = MISSING
    ordering: OrderingConfig = field(default_factory=OrderingConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    distill: DistillConfig = MISSING
    deepspeed: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)

    def __post_init__(self):
        known = STAGES + ON_REQUEST
        for stage in self.stages:
            _check(stage in known, f"stages names {stage!r}; the stages are {', '.join(known)}.")
        _check(
            "export" not in self.stages or self.export.to is not None,
            "stages names export, but export.to is null: name the folder to make, export.to=FOLDER.",
        )


def register() -> None:
    """Makes the schema known to Hydra, as the base that conf/config.yaml builds on."""
    ConfigStore.instance().store(name="schema", node=Config)


def to_objects(composed: DictConfig) -> Config:
    """The composed configuration as typed objects, ranges checked.

    Raises:
        SprigError: a value is missing (`???`), of a wrong type, unknown, or out of range.
    """
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), composed))
    except MissingMandatoryValue as error:
        raise SprigError(f"{error.full_key} has no value (???): set it on the command line or in a preset.") from None
    except OmegaConfBaseException as error:
        raise SprigError(f"{error.full_key}: {str(error).splitlines()[0]}.") from None


def to_plain(config: Any) -> Any:
    """A configuration, or a part of it, as JSON-ready dictionaries, lists, strings and numbers."""
    return OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
