"""Pretraining with knowledge distillation, and how DeepSpeed lays it out."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from pipeline.config.checks import fraction, positive, require
from pipeline.config.choices import CacheKind, CacheMode, Init, Loss, ScheduleKind


@dataclass
class ScheduleConfig:
    kind: ScheduleKind = ScheduleKind.cosine
    warmup: float = 0.05  # share of the token budget
    warmup_tokens: int | None = None  # instead
    decay: float = 0.2  # wsd: share of the token budget
    floor: float = 0.1  # last learning rate as a share of the peak

    def __post_init__(self):
        fraction("distill.schedule", self, "warmup", "decay", "floor")
        require(
            self.warmup_tokens is None or self.warmup_tokens >= 0,
            f"distill.schedule.warmup_tokens={self.warmup_tokens} must not be negative.",
        )
        require(
            self.kind != ScheduleKind.wsd or self.warmup_tokens is not None or self.warmup + self.decay <= 1,
            f"distill.schedule.warmup={self.warmup} and distill.schedule.decay={self.decay} overlap: "
            "their sum must be at most 1.",
        )


@dataclass
class ControlConfig:
    """The control: same shape, budget, loss and schedule, another start and its own learning rate."""

    enabled: bool = True
    init: Init = Init.random_weights
    lr: float = 1e-3  # its peak learning rate

    def __post_init__(self):
        positive("distill.control", self, "lr")


@dataclass
class CheckpointConfig:
    """When a training is saved, and how much is kept. Nothing here changes a result, so none is in a fingerprint."""

    tokens: int | None = None  # one after every so many tokens; null: a tenth of the budget
    minutes: float | None = 30.0  # and after every so many minutes; null: never
    keep: int = 2  # the newest so many

    def __post_init__(self):
        positive("distill.checkpoint", self, "tokens", "minutes", "keep")


@dataclass
class CacheConfig:
    """The teacher's logits, kept for every block that a run reads: the first run pays, later ones reuse."""

    kind: CacheKind = CacheKind.off
    slots: int = 16  # ids kept a token
    # topk: the temperatures that it can be read at; null is distill.temperature alone. Samples fit one temperature.
    temperatures: list[float] | None = None
    mode: CacheMode = CacheMode.fill  # fill: what is missing is computed first; read: the teacher is never loaded
    path: str | None = None  # read: a cache from elsewhere instead of the store's
    verify: int = 0  # blocks to compute again before training, and to compare

    def __post_init__(self):
        positive("distill.cache", self, "slots")
        require(self.verify >= 0, f"distill.cache.verify={self.verify} must not be negative.")
        require(
            self.temperatures is None or (self.temperatures and min(self.temperatures) > 0),
            f"distill.cache.temperatures={self.temperatures} must name temperatures above 0, or be null.",
        )
        require(
            self.path is None or self.mode == CacheMode.read,
            f"distill.cache.path={self.path} is given with distill.cache.mode={self.mode}: a cache from elsewhere can "
            "only be read, set distill.cache.mode=read.",
        )


@dataclass
class DistillConfig:
    """Pretraining with knowledge distillation: loss = alpha * CE + beta * T^2 * D(teacher, student)."""

    init: Init = Init.searched  # what the student starts as
    tokens: int = MISSING  # token budget, rounded down to whole batches
    lr: float = 3e-4  # the student's peak learning rate
    # D: forward_kl, KL(teacher || student); reverse_kl, KL(student || teacher); js, the generalised Jensen-Shannon
    # divergence. ce: cross-entropy alone, without a teacher, whatever alpha and beta are.
    loss: Loss = Loss.forward_kl
    js_weight: float = 0.5  # js: the teacher's share in the mixture that both are compared with
    alpha: float = 0.0  # weight of CE
    beta: float = 1.0  # weight of D
    temperature: float = 1.0  # T: softens both distributions in D
    global_batch: int = 8  # blocks an optimizer step, over all ranks
    micro_batch: int = 8  # blocks a forward pass of one rank
    chunk_tokens: int = 256  # tokens whose logits exist at one time
    activation_checkpointing: bool = False  # runs each block again in the backward pass: less memory, the same result
    compile: bool = False  # torch.compile of each block; rounds otherwise, so it is in the fingerprint
    weight_decay: float = 0.1
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])  # AdamW's
    eps: float = 1e-8
    clip: float = 1.0  # the largest norm of the gradient
    skip_nonfinite: int = 0  # steps left out for a loss or gradient that is not finite before another one stops the run
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    validations: int = 10  # points of the validation curve after the start, at most
    validation_tokens: int | None = None  # instead: a point after every so many tokens, and the last
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self):
        positive("distill", self, "tokens", "lr", "temperature", "global_batch", "micro_batch", "chunk_tokens")
        positive("distill", self, "eps", "clip", "validations", "validation_tokens")
        require(self.skip_nonfinite >= 0, f"distill.skip_nonfinite={self.skip_nonfinite} must not be negative.")
        require(
            min(self.alpha, self.beta, self.weight_decay) >= 0 and self.alpha + self.beta > 0,
            f"distill.alpha={self.alpha}, distill.beta={self.beta} and distill.weight_decay={self.weight_decay} must "
            "not be negative, nor alpha and beta both 0.",
        )
        require(0 < self.js_weight < 1, f"distill.js_weight={self.js_weight} must lie between 0 and 1, both excluded.")
        require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"distill.betas={list(self.betas)} must be AdamW's two, each at least 0 and below 1.",
        )

        self._check_cache()

    def _check_cache(self) -> None:
        kind, kept = self.cache.kind, self.cache_temperatures
        require(
            kind != CacheKind.sampled or self.loss in (Loss.forward_kl, Loss.ce),
            f"distill.cache.kind=sampled gives the forward KL alone, and distill.loss={self.loss}: use "
            "distill.cache.kind=topk, or distill.loss=forward_kl.",
        )
        require(
            kind != CacheKind.sampled or kept == [self.temperature],
            f"distill.cache.temperatures={kept} with distill.cache.kind=sampled, but samples fit one temperature, "
            f"distill.temperature={self.temperature}: leave it null, or use distill.cache.kind=topk.",
        )
        require(
            kind == CacheKind.off or self.temperature in kept,
            f"distill.temperature={self.temperature} is none of distill.cache.temperatures={kept}: name it there.",
        )

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
    def ce_weight(self) -> float:
        return 1.0 if self.loss == Loss.ce else self.alpha


@dataclass
class DeepSpeedConfig:
    """How DeepSpeed shards; nothing here changes a result beyond rounding, so nothing here is in a fingerprint."""

    zero_stage: int = 0
    # Processes; null: as many as were started. With plan=true any number is priced; else it must be the number started.
    world_size: int | None = None
    # Merged into DeepSpeed's zero_optimization as it is: buckets, overlap, offload.
    zero_optimization: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        positive("deepspeed", self, "world_size")
        require(self.zero_stage in range(4), f"deepspeed.zero_stage={self.zero_stage} must be 0, 1, 2 or 3.")
        require(
            "stage" not in self.zero_optimization,
            f"deepspeed.zero_optimization.stage={self.zero_optimization.get('stage')} is set beside "
            f"deepspeed.zero_stage={self.zero_stage}: use deepspeed.zero_stage alone.",
        )
