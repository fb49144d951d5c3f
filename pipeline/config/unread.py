"""Overrides that the rest of a configuration leaves without effect, so that they are not ignored silently."""

from collections.abc import Iterable, Iterator

from pipeline.config.choices import CacheKind, DataSource, Init, Loss, OrderingKind, ScheduleKind, Source, TrackerKind
from pipeline.config.distill import DistillConfig
from pipeline.config.inputs import DataConfig, TeacherConfig
from pipeline.config.run import Config, readers, reads
from pipeline.config.search import SearchConfig
from pipeline.config.subnetworks import SpaceConfig

# Keys and sections that nothing reads, and why; `space=` is the choice of a group alone, not the keys of its section.
Found = Iterator[tuple[str, str]]


def unread(config: Config, words: Iterable[str]) -> list[str]:
    """One sentence for each override that changes nothing."""
    found = [*_of_data(config.data), *_of_teacher("teacher", config.teacher), *_of_search(config)]
    found += [*_of_shapes(config), *_of_training(config.distill), *_of_others(config), *_on_request(config)]
    if config.kd_teacher is not None and config.distill.distils:
        found += _of_teacher("kd_teacher", config.kd_teacher)
    return _sentences(found, words)


def unread_in(section: object, words: Iterable[str]) -> list[str]:
    """As `unread`, of a search's or a distillation's section alone."""
    if isinstance(section, SearchConfig):
        return _sentences(_of_strategy(section), words)
    return _sentences(_of_training(section), words) if isinstance(section, DistillConfig) else []


def _sentences(found: Iterable[tuple[str, str]], words: Iterable[str]) -> list[str]:
    known = list(found)
    return [f"{word} has no effect: {why}" for word in words for key, why in known if _sets(word, key)]


def _sets(word: str, key: str) -> bool:
    """Whether the word sets the key or one below it: space.min=2 sets `space` and `space.min`, space=fine-uniform the
    choice `space=` and with it the whole of `space`."""
    name = word.lstrip("+").partition("=")[0].rpartition("@")[2]
    return f"{name}.".startswith(f"{key}.") or f"{name}=" == key


def _of_data(data: DataConfig) -> Found:
    why = f"data.source={data.source} does not read it. It is for"
    if data.source == DataSource.hub:
        yield "data.package", f"{why} files."
    else:
        yield from _keys("data", "subset split streaming", f"{why} hub.")
    if data.source == DataSource.text:
        yield "data.text_key", f"{why} jsonl, csv, parquet and hub."
    else:
        yield "data.sample_by", f"{why} text."


def _of_teacher(section: str, teacher: TeacherConfig) -> Found:
    """`section` is the teacher's name in the configuration."""
    if teacher.source == Source.random:
        names = "path package" if teacher.tokenizer in (None, "bytes") else "path"
        yield from _keys(section, names, f"{section}.source=random draws its weights.")
    if not teacher.on_hub:
        yield f"{section}.revision", f"{section}.source={teacher.source} reads no model of the hub."


def _of_shapes(config: Config) -> Found:
    """Which sub-networks there are to choose from."""
    read = {"vocabulary"}
    if config.searches:
        read |= {"max_flops_per_token", "max_kv_bytes_per_token"}  # what the sub-network of a file is held against
        why = "search=given evaluates the sub-network of search.path alone."
    else:
        why = f"distill.init={config.distill.init} takes the student of distill.from_run."
    if not config.draws:
        yield from (("space=", why), *_keys("space", " ".join({*SpaceConfig.__dataclass_fields__} - read), why))
    if not (config.draws or config.searches):
        yield "bin", why
    elif config.bin.center is None:
        yield "bin.tolerance", f"bin.low={config.bin.low} and bin.high={config.bin.high} replace it."


def _of_search(config: Config) -> Found:
    if config.searches:
        yield from _of_strategy(config.search)
    elif config.study.subnetworks:
        names = {*SearchConfig.__dataclass_fields__} - {"blocks", "batch"}
        yield from _keys("search", " ".join(names), "study.searched=0 reads only search.blocks and search.batch.")
    else:
        yield "search", f"distill.init={config.distill.init} needs no search."


def _of_strategy(search: SearchConfig) -> Found:
    for name, strategies in readers(search).items():
        if not reads(search.strategy, strategies):
            of = " or ".join(f"search={strategy}" for strategy in strategies)
            yield f"search.{name}", f"search={search.strategy} does not read it. It is for {of}."
    if not search.rerank.candidates:
        yield from _keys("search.rerank", "tokens lr", "search.rerank.candidates=0 makes no rerank.")


def _of_training(distill: DistillConfig) -> Found:
    cache, schedule = distill.cache, distill.schedule
    if distill.loss == Loss.ce:
        why = "distill.loss=ce, or kd=off, has no teacher."
        yield from (("kd_teacher", why), *_keys("distill", "alpha beta temperature cache", why))
    elif not distill.distils:
        why = "distill.beta=0 has no teacher."
        yield from (("kd_teacher", why), *_keys("distill", "temperature cache", why))
    elif cache.kind == CacheKind.off:
        yield from _keys("distill.cache", "slots temperatures mode path verify", "distill.cache.kind=off has no cache.")
    if distill.loss != Loss.js:
        yield "distill.js_weight", f"distill.loss={distill.loss} does not read it. It is for distill.loss=js."
    if not distill.control.enabled:
        # init=random_weights gives the student the control's learning rate
        names = "init" if distill.init == Init.random_weights else "init lr"
        yield from _keys("distill.control", names, "distill.control.enabled=false makes no control.")
    if schedule.kind != ScheduleKind.wsd:
        yield "distill.schedule.decay", f"schedule {schedule.kind} does not read it. It is for distill=wsd."
    if schedule.warmup_tokens is not None:
        yield "distill.schedule.warmup", f"distill.schedule.warmup_tokens={schedule.warmup_tokens} replaces it."
    if distill.validation_tokens is not None:
        yield "distill.validations", f"distill.validation_tokens={distill.validation_tokens} replaces it."


def _of_others(config: Config) -> Found:
    for key in ("hydra.launcher", "hydra/launcher", "hydra.sweeper", "hydra/sweeper"):
        yield key, "this is one run, not a sweep, which --multirun starts."
    if not {Init.searched, Init.random_subnetwork} & {*config.distill.inits}:
        yield "recover", f"distill.init={config.distill.init} leaves nothing to recover."
    elif config.recover.enabled is False:
        yield from _keys("recover", "tokens ridges batch", "recover.enabled=false makes no recovery.")
    if config.ordering.kind == OrderingKind.none and not config.search.reads_errors:
        yield from _keys("ordering", "blocks batch", "ordering.kind=none measures nothing.")
    if not config.evaluate.tasks:
        yield "evaluate.limit", "evaluate.tasks=[] names no task."
    if not config.study.subnetworks:
        names = "tokens short resamples confidence"
        yield from _keys("study", names, "study.random=0 and study.searched=0 make no study.")


def _on_request(config: Config) -> Found:
    """What only a tracker reads, or a stage that runs if it is named."""
    if "export" not in config.stages:
        yield from _keys("export", "to form dtype gguf", "stages names no export.")
    if not {"sample", "chat"} & set(config.stages):
        yield from _keys("sample", "tokens temperature seed", "stages names neither sample nor chat.")
    if "sample" not in config.stages:
        yield "prompt", "stages names no sample."
    if config.tracker.kind == TrackerKind.none:
        yield from _keys("tracker", "project mode timeout", "tracker.kind=none tracks nothing.")


def _keys(section: str, names: str, why: str) -> Found:
    return ((f"{section}.{name}", why) for name in names.split())
