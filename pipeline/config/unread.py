"""Overrides that the rest of a configuration leaves without effect, so that nothing is ignored silently."""

from collections.abc import Iterable, Iterator

from pipeline.config.choices import Loss, OrderingKind
from pipeline.config.run import Config, readers, reads

LOSS_OF_A_TEACHER = ("distill.alpha", "distill.beta", "distill.temperature", "distill.cache")


def unread(config: Config, words: Iterable[str]) -> list[str]:
    """One sentence for each override that changes nothing."""
    found = list(_without_effect(config))
    return [
        f"{word} has no effect: {why}"
        for word in words
        for key, why in found
        if f"{word.lstrip('+').partition('=')[0]}.".startswith(f"{key}.")
    ]


def _without_effect(config: Config) -> Iterator[tuple[str, str]]:
    """Keys and sections that nothing reads, and why."""
    search, distill = config.search, config.distill
    for name, strategies in readers(search).items():
        if not reads(search.strategy, strategies):
            of = " or ".join(f"search={strategy}" for strategy in strategies)
            yield f"search.{name}", f"search={search.strategy} does not read it. It is for {of}."
    if not search.rerank.candidates:
        for name in ("tokens", "lr"):
            yield f"search.rerank.{name}", "search.rerank.candidates=0 makes no rerank."
    if distill.loss == Loss.ce:
        for key in LOSS_OF_A_TEACHER:
            yield key, "distill.loss=ce, or kd=off, has no teacher."
    if distill.loss != Loss.js:
        yield "distill.js_weight", f"distill.loss={distill.loss} does not read it. It is for distill.loss=js."
    if config.recover.enabled is False:
        for name in ("tokens", "ridges", "batch"):
            yield f"recover.{name}", "recover.enabled=false makes no recovery."
    if config.ordering.kind == OrderingKind.none:
        for name in ("blocks", "batch"):
            yield f"ordering.{name}", "ordering.kind=none measures nothing."
