"""One run: all groups together, and the way from what Hydra composed to typed objects."""

import difflib
from dataclasses import Field, dataclass, field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from pipeline.config.checks import BLOCKS, LARGEST_SEED, folder_name, immaterial, label, location, real, require, whole
from pipeline.config.choices import (
    ON_REQUEST,
    STAGES,
    Device,
    Dtype,
    ExportForm,
    GGUFKind,
    Init,
    Precision,
    Strategy,
    TrackerKind,
)
from pipeline.config.derived import register_resolvers
from pipeline.config.distill import DeepSpeedConfig, DistillConfig
from pipeline.config.inputs import DataConfig, TeacherConfig
from pipeline.config.launching import register_launcher
from pipeline.config.own import is_own
from pipeline.config.paths import make_absolute
from pipeline.config.search import SearchConfig
from pipeline.config.study import StudyConfig
from pipeline.config.subnetworks import BinConfig, OrderingConfig, RecoverConfig, SpaceConfig
from pipeline.config.typed import section_type, to_typed
from pipeline.errors import SprigError


@dataclass
class SpeedConfig:
    """How teacher and student are timed, on the machine that evaluates them."""

    prefill: int | None = whole(None)  # tokens of the prompt; null: a block, or what the context leaves after `decode`
    decode: int = whole(16)  # tokens generated after the prompt, one at a time
    repetitions: int = whole(5, high=1_000)  # repetitions whose median is reported; the models take turns


@dataclass
class EvaluateConfig:
    blocks: int = whole(32, high=BLOCKS)  # validation blocks, evenly spaced over the validation split
    batch: int = whole(8)  # blocks per forward pass
    prompt: str = "The purpose of education is"  # the prompt that every model continues in the report
    sample_tokens: int = whole(32, low=0)  # maximum tokens generated after the prompt
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    tasks: list[str] = field(default_factory=list)  # downstream tasks, by lm-eval's names
    limit: int | None = whole(None)  # uses only the first examples of each task; null: all

    def __post_init__(self) -> None:
        require(
            len(set(self.tasks)) == len(self.tasks),
            f"evaluate.tasks={list(self.tasks)} names a task twice: name it once.",
        )
        require(bool(self.prompt.strip()), "evaluate.prompt is blank: give the models a few words to continue.")


@dataclass
class ExportConfig:
    """The student as a Hugging Face folder. Nothing here changes a run, so nothing here is in a fingerprint."""

    to: str | None = location(None)  # the folder to make
    # stock: the family's transformers class; padded: the same class, with layers padded with zeros; own: a modelling
    # file in the folder; auto: the first of these that can hold the student
    form: ExportForm = ExportForm.auto
    dtype: Dtype = Dtype.fp32  # type of the exported weights; bf16 halves the files and rounds
    gguf: GGUFKind = GGUFKind.none  # also writes a GGUF file for llama.cpp, with matrices of this type

    def __post_init__(self) -> None:
        require(
            self.gguf == GGUFKind.none or self.form != ExportForm.own,
            f"export.gguf={self.gguf} needs a stock or padded student, but export.form=own: leave one of them out.",
        )


@dataclass
class SampleConfig:
    """How a run's models continue `prompt` and answer in a chat. Nothing here changes a run, so nothing here is in a
    fingerprint."""

    tokens: int = whole(64)  # maximum number of tokens; fewer if the model ends its text
    temperature: float = real(0.0, high=100)  # 0: always the most probable token; above 0: tokens are sampled
    seed: int = whole(0, low=0, high=LARGEST_SEED)  # seed of the sampling, separate from the run's seed

    def __post_init__(self) -> None:
        require(
            self.temperature == 0 or self.temperature >= 0.01,
            f"sample.temperature={self.temperature} must be 0, which takes the most probable token, or at least 0.01.",
        )


@dataclass
class TrackerConfig:
    kind: TrackerKind = TrackerKind.none  # the run's metrics file is complete without a tracker
    project: str = label("sprig")  # where the runs appear
    mode: str | None = None  # online or offline; null: WANDB_MODE, or offline if there is no key
    timeout: float = real(30.0, high=86_400, open_low=True)  # seconds to wait for its server

    def __post_init__(self) -> None:
        require(self.mode in (None, "online", "offline"), f"tracker.mode={self.mode} must be online or offline.")


@dataclass
class Config:
    """One run."""

    preset: str = "custom"  # set by experiment=
    run_name: str | None = immaterial(None)  # the name of the folder of the run or sweep, instead of the preset's
    run: str | None = immaterial(location(None))  # reopens this run (its folder or name) with its own configuration
    prompt: str | None = immaterial(None)  # the text that stage sample continues
    # The stages to run. chat, score and cache run only if they are named here; without this key, export also runs if
    # `export.to` is set, and sample if `prompt` is.
    stages: list[str] = immaterial(field(default_factory=lambda: list(STAGES)))
    seed: int = whole(0, low=0, high=LARGEST_SEED)  # every random draw depends on it; the split of the text does not
    device: Device = immaterial(Device.auto)  # auto: a GPU if there is one
    precision: Precision = Precision.auto  # auto: bf16-mixed if the device supports bf16, else fp32
    # the same command on the same GPUs gives the same bits; slower. On a CPU, it does so without this.
    deterministic: bool = immaterial(False)
    # true: prints what the run would do and cost, and runs nothing; measure: also times a few steps on this device
    plan: bool | str = immaterial(False)
    debug: bool = immaterial(False)  # shows tracebacks
    outputs: str = immaterial(location("outputs"))  # the folder of artifacts and runs
    teacher: TeacherConfig = MISSING
    kd_teacher: TeacherConfig | None = None  # null: the same teacher
    data: DataConfig = MISSING
    space: SpaceConfig = field(default_factory=SpaceConfig)
    bin: BinConfig = MISSING
    ordering: OrderingConfig = field(default_factory=OrderingConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    recover: RecoverConfig = field(default_factory=RecoverConfig)
    distill: DistillConfig = MISSING
    deepspeed: DeepSpeedConfig = immaterial(field(default_factory=DeepSpeedConfig))
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    export: ExportConfig = immaterial(field(default_factory=ExportConfig))
    sample: SampleConfig = immaterial(field(default_factory=SampleConfig))
    tracker: TrackerConfig = immaterial(field(default_factory=TrackerConfig))

    def __post_init__(self) -> None:
        folder_name("preset", self.preset)
        if self.run_name is not None:
            folder_name("run_name", self.run_name)
        require(
            isinstance(self.plan, bool) or self.plan == "measure", f"plan={self.plan} must be true, false or measure."
        )
        require(bool(self.stages), "stages=[] names no stage: name one, or leave it out for all.")
        known = STAGES + ON_REQUEST
        for stage in self.stages:
            near = difflib.get_close_matches(stage, known, n=1)
            hint = f": did you mean {near[0]}?" if near else f"; the stages are {', '.join(known)}."
            require(stage in known, f"stages names {stage!r}{hint}")
        require(
            "export" not in self.stages or self.export.to is not None,
            "stages names export, but export.to is null: name the folder to make, export.to=FOLDER.",
        )
        require(
            "sample" not in self.stages or bool((self.prompt or "").strip()),
            f"stages names sample, but prompt is {'null' if self.prompt is None else 'blank'}: give the text to "
            'continue, prompt="Once upon a time".',
        )
        require(
            "score" not in self.stages or bool(self.evaluate.tasks),
            "stages names score, but evaluate.tasks is empty: name the tasks, evaluate.tasks=[arc_easy,piqa].",
        )

    @property
    def searches(self) -> bool:
        """Whether a student, a control or the study uses what a search finds."""
        return self.study.searched > 0 or any(map(self.distill.takes_searched_shape, self.distill.inits))

    @property
    def draws(self) -> bool:
        """Whether anything chooses among the members of the space: a file or a finished run has just one shape."""
        chosen = self.searches and (self.search.strategy != Strategy.given or self.search.random_baseline)
        return chosen or self.study.subnetworks > 0 or Init.random_subnetwork in self.distill.inits


@cache
def register() -> None:
    """Makes the schema known to Hydra, as the base that conf/config.yaml builds on."""
    ConfigStore.instance().store(name="schema", node=Config)
    register_launcher()
    register_resolvers()


def to_objects(composed: DictConfig) -> Config:
    """The composed configuration as typed objects, ranges checked and paths absolute.

    Raises:
        SprigError: a value is missing (`???`), of a wrong type, unknown, or out of range.
    """
    config = to_typed(Config, composed)
    make_absolute(config)
    return config


def checked(config: Config) -> Config:
    """A configuration whose attributes may have been set since it was composed, held against the schema once more.

    Raises:
        SprigError: as `to_objects`.
    """
    _check_attributes(config, "")
    return to_objects(OmegaConf.create(_literal(to_plain(config))))


def _check_attributes(section: Any, prefix: str) -> None:
    known = [each.name for each in fields(section)]
    if unknown := [name for name in vars(section) if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {prefix}{near[0]}" if near else f"its section has {', '.join(known)}"
        raise SprigError(f"There is no configuration key {prefix}{unknown[0]}: {hint}{'?' if near else '.'}")
    for name in known:
        if is_dataclass(inner := getattr(section, name)):
            _check_attributes(inner, f"{prefix}{name}.")


def _literal(value: Any) -> Any:
    """Texts that hold ${ are no longer references."""
    if isinstance(value, dict):
        return {key: _literal(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_literal(each) for each in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def is_material(key: str) -> bool:
    """Whether a result can depend on a key such as distill.lr, or on the choice of a group such as init."""
    kind: type | None = Config
    for name in key.lstrip("+~").partition("@")[0].replace("/", ".").split("."):
        declared = {each.name: each for each in fields(kind)} if kind is not None else {}
        if name not in declared:
            return True
        if declared[name].metadata.get("immaterial"):
            return False
        kind = section_type(kind, declared[name]) if kind is not None else None
    return True


def material(config: Any, *without: str) -> dict[str, Any]:
    """A section of the configuration for a recipe: what its schema declares to determine a result, less the keys that
    the recipe states in another form."""
    return {
        each.name: _material_value(getattr(config, each.name))
        for each in fields(config)
        if each.name not in without and not each.metadata.get("immaterial") and not _is_absent(config, each)
    }


def walk(config: SearchConfig) -> dict[str, Any]:
    """What determines which candidates a search asks for: the keys that its strategy reads."""
    read = readers(config)
    return {
        each.name: _material_value(getattr(config, each.name))
        for each in fields(config)
        if each.name in read and reads(config.strategy, read[each.name]) and not _is_absent(config, each)
    }


def readers(config: SearchConfig) -> dict[str, tuple[str, ...]]:
    """The strategies that read a key, of each key that not all of them read."""
    return {each.name: each.metadata["strategies"] for each in fields(config) if "strategies" in each.metadata}


def reads(strategy: str, readers: tuple[str, ...]) -> bool:
    return strategy in readers or is_own(strategy)  # a class of the user's may read all keys


def _is_absent(config: Any, key: Field[Any]) -> bool:
    return bool(key.metadata.get("later")) and getattr(config, key.name) == key.default


def _material_value(value: Any) -> Any:
    return material(value) if is_dataclass(value) else to_plain(value)


def to_plain(config: Any) -> Any:
    """A configuration, or a part of it, as JSON-ready dictionaries, lists, strings and numbers.

    What OmegaConf makes of it, in a hundredth of the time: every fingerprint asks for it.
    """
    if is_dataclass(config):
        return {each.name: to_plain(getattr(config, each.name)) for each in fields(config)}
    if isinstance(config, dict):
        return {key: to_plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_plain(each) for each in config]
    return config.name if isinstance(config, Enum) else config
