"""Pretraining with knowledge distillation, and how DeepSpeed lays it out."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from pipeline.config import zero
from pipeline.config.checks import LEARNING_RATE, TEMPERATURE, TOKENS, immaterial, location, real, require, share, whole
from pipeline.config.choices import CacheKind, CacheMode, Dtype, Init, Loss, ScheduleKind


@dataclass
class ScheduleConfig:
    kind: ScheduleKind = ScheduleKind.cosine
    warmup: float = share(0.05)  # share of the token budget
    warmup_tokens: int | None = whole(None, low=0, high=TOKENS)  # tokens, instead of warmup
    decay: float = share(0.2)  # wsd: share of the token budget
    floor: float = share(0.1)  # final learning rate as a share of the peak

    def __post_init__(self) -> None:
        require(
            self.kind != ScheduleKind.wsd or self.warmup_tokens is not None or self.warmup + self.decay <= 1,
            f"distill.schedule.warmup={self.warmup} and distill.schedule.decay={self.decay} overlap: "
            "their sum must be at most 1.",
        )


@dataclass
class ControlConfig:
    """The control: the same shape, budget, loss and schedule, but another start and its own learning rate."""

    enabled: bool = True
    init: Init = Init.random_weights  # any of these but trained
    lr: float = real(1e-3, **LEARNING_RATE)  # its peak learning rate

    def __post_init__(self) -> None:
        require(
            self.init != Init.trained, "distill.control.init=trained, but a control begins a training: choose another."
        )


@dataclass
class CheckpointConfig:
    """How often training is saved, and how many checkpoints are kept."""

    tokens: int | None = whole(None, high=TOKENS)  # tokens between two checkpoints; null: a tenth of the budget
    minutes: float | None = real(30.0, high=525_600, open_low=True)  # minutes between two checkpoints; null: no limit
    keep: int = whole(2, high=10_000)  # number of checkpoints that are kept, the newest


@dataclass
class CacheConfig:
    """The teacher's logits on disk, for every block that a run reads. The first run fills the cache; later ones reuse
    it."""

    kind: CacheKind = CacheKind.off
    slots: int = whole(16, high=10**5)  # token ids kept per token
    # topk: the temperatures at which it can be read; null: distill.temperature. Samples are for one temperature.
    temperatures: list[float] | None = real(None, **TEMPERATURE)
    # fill: missing logits are computed first; read: the teacher is never loaded.
    mode: CacheMode = immaterial(CacheMode.fill)
    path: str | None = immaterial(location(None))  # read: the path of a cache outside the store
    verify: int = immaterial(whole(0, low=0))  # blocks to recompute and compare before training

    def __post_init__(self) -> None:
        require(
            self.temperatures is None or bool(self.temperatures),
            "distill.cache.temperatures=[] is empty: name a temperature, or set it to null.",
        )
        require(
            self.path is None or self.mode == CacheMode.read,
            f"distill.cache.path={self.path} is given with distill.cache.mode={self.mode}: a cache from elsewhere can "
            "only be read, set distill.cache.mode=read.",
        )


@dataclass
class DistillConfig:
    """Pretraining with knowledge distillation: loss = alpha * CE + beta * T^2 * D(teacher, student)."""

    init: Init = Init.searched  # what the student starts as; trained: the student of the finished run `from_run`
    from_run: str | None = location(None)  # the finished run to train further: its folder, or its name in outputs
    tokens: int = whole(MISSING, high=TOKENS)  # token budget, rounded down to whole batches
    lr: float = real(3e-4, **LEARNING_RATE)  # the student's peak learning rate
    # D: forward_kl, KL(teacher || student); reverse_kl, KL(student || teacher); js, the generalised Jensen-Shannon
    # divergence. ce: cross-entropy alone, without a teacher; alpha and beta are ignored.
    loss: Loss = Loss.forward_kl
    # js: the teacher's share in the mixture with which both are compared
    js_weight: float = share(0.5, open_low=True, open_high=True)
    alpha: float = real(0.0, high=1_000)  # weight of CE
    beta: float = real(1.0, high=1_000)  # weight of D
    temperature: float = real(1.0, **TEMPERATURE)  # T: softens both distributions in D
    global_batch: int = whole(8)  # blocks per optimizer step, over all ranks
    # Blocks per forward pass of one rank; null: the most that are sure to fit the device's memory.
    micro_batch: int | None = immaterial(whole(8))
    chunk_tokens: int = immaterial(whole(256, high=10**7))  # tokens whose logits exist at one time
    # Recomputes each transformer block in the backward pass: slower, less memory, the same result.
    activation_checkpointing: bool = immaterial(False)
    # Compiles the blocks of student and teacher and the loss with torch.compile, on a GPU also the search's loss.
    # Rounding changes, so the fingerprint differs.
    compile: bool = False
    weight_decay: float = real(0.1, high=100)
    betas: list[float] = share([0.9, 0.95], open_high=True)  # AdamW's
    eps: float = real(1e-8, low=1e-30, high=1)
    clip: float = real(1.0, low=1e-6, high=1e6)  # maximum norm of the gradient
    # maximum number of steps with a non-finite loss or gradient that are skipped; one more stops the run
    skip_nonfinite: int = whole(0, low=0)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    validations: int = whole(10, high=10**5)  # maximum number of points on the validation curve after the start
    # tokens between two points, instead of validations; the last point is added
    validation_tokens: int | None = whole(None, high=TOKENS)
    checkpoint: CheckpointConfig = immaterial(field(default_factory=CheckpointConfig))

    def __post_init__(self) -> None:
        require(
            self.alpha + self.beta > 0,
            f"distill.alpha={self.alpha} and distill.beta={self.beta} must not both be 0: nothing would be learned.",
        )
        require(
            (self.init == Init.trained) == (self.from_run is not None),
            f"distill.init={self.init} with distill.from_run={self.from_run}: to train the student of a finished run "
            "further, set init=trained and distill.from_run=RUN, and otherwise neither.",
        )
        require(
            self.init != Init.trained or not self.control.enabled,
            "distill.init=trained continues a training, and a control begins one: set distill.control.enabled=false.",
        )
        require(len(self.betas) == 2, f"distill.betas={list(self.betas)} must be AdamW's two.")
        self._check_cache()

    def _check_cache(self) -> None:
        kind, kept = self.cache.kind, self.cache_temperatures
        require(
            kind != CacheKind.sampled or self.loss in (Loss.forward_kl, Loss.ce),
            f"distill.cache.kind=sampled supports only the forward KL, but distill.loss={self.loss}: use "
            "distill.cache.kind=topk, or distill.loss=forward_kl.",
        )
        require(
            kind != CacheKind.sampled or kept == [self.temperature],
            f"distill.cache.temperatures={kept} with distill.cache.kind=sampled, but samples fit one temperature, "
            f"distill.temperature={self.temperature}: leave it null, or use distill.cache.kind=topk.",
        )
        require(
            kind == CacheKind.off or self.temperature in kept,
            f"distill.temperature={self.temperature} is not in distill.cache.temperatures={kept}: name it there.",
        )

    def takes_searched_shape(self, init: Init) -> bool:
        """Whether a model that starts as `init` has the shape that the search found, instead of a random member of the
        bin or that of a finished run. A control with random weights has the student's shape."""
        return init == Init.searched or not {Init.random_subnetwork, Init.trained} & {init, self.init}

    @property
    def inits(self) -> list[Init]:
        """What the student and, if there is one, the control start as."""
        return [self.init, self.control.init] if self.control.enabled else [self.init]

    @property
    def filling(self) -> str:
        """How to have missing logits computed, as overrides: only the store's own cache is ever filled."""
        return f"distill.cache.mode=fill{'' if self.cache.path is None else ' distill.cache.path=null'}"

    @property
    def cache_temperatures(self) -> list[float]:
        """The temperatures that the cache can be read at, ascending."""
        return sorted(set(self.cache.temperatures or [self.temperature]))

    @property
    def cached(self) -> bool:
        """Whether the teacher's logits come from the cache."""
        return self.distils and self.cache.kind != CacheKind.off

    @property
    def distils(self) -> bool:
        """Whether a teacher takes part."""
        return self.loss != Loss.ce and self.beta > 0

    @property
    def online(self) -> bool:
        """Whether the teacher runs along with the training."""
        return self.distils and not self.cached

    @property
    def ce_weight(self) -> float:
        return 1.0 if self.loss == Loss.ce else self.alpha


@dataclass
class DeepSpeedConfig:
    """How DeepSpeed shards. Nothing here changes a result beyond rounding, so nothing here is in a fingerprint."""

    zero_stage: int = whole(0, low=0, high=3)
    # Processes; null: as many as were started. A plan accepts any number; a run requires the number started.
    world_size: int | None = whole(None, high=10**5)
    # What gradients travel in between the processes of precision=bf16-mixed. bf16: half the bytes; sums over
    # micro-batches, weights and moments stay in fp32.
    communication: Dtype = Dtype.fp32
    # Passed on to DeepSpeed's zero_optimization: buckets, overlap, offload of weights. Counts may be written 50M.
    zero_optimization: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.zero_optimization = zero.checked(self.zero_optimization, self.zero_stage)
