"""What every later stage of a run starts from: teacher, KD teacher, text, ordering and errors."""

from dataclasses import dataclass

from pipeline.artifacts import Recipe
from pipeline.config import OrderingKind
from pipeline.stages import order, prepare, reconstruct
from pipeline.stages.context import Context
from pipeline.stages.prepare import Uncut


@dataclass(frozen=True)
class Roots:
    """`kd_teacher` is the teacher itself unless the run has another one for the distillation; `ordering` is None with
    ordering.kind=none, where the teacher's own order needs no artifact; `errors`, of reconstruction, are None where the
    search does not read them; `uncut` is None without space.vocabulary."""

    teacher: Recipe
    kd_teacher: Recipe
    tokens: Recipe
    ordering: Recipe | None
    errors: Recipe | None
    uncut: Uncut | None

    @property
    def ordering_fingerprint(self) -> str:
        """What the sub-networks of the run carry: the ordering's fingerprint, or "none"."""
        return "none" if self.ordering is None else self.ordering.fingerprint

    @property
    def inputs(self) -> dict[str, str]:
        """The fingerprints that determine what a sub-network of the run is and what it is scored on."""
        return {
            "teacher": self.teacher.fingerprint,
            "tokens": self.tokens.fingerprint,
            "ordering": self.ordering_fingerprint,
        }


def roots(context: Context) -> Roots:
    config = context.config
    teacher = prepare.teacher_recipe(context, config.teacher)
    tokens = prepare.tokens_recipe(context)
    ordering = None if config.ordering.kind == OrderingKind.none else order.recipe(context, teacher, tokens)
    return Roots(
        teacher,
        prepare.teacher_recipe(context, config.kd_teacher) if config.kd_teacher else teacher,
        tokens,
        ordering,
        reconstruct.recipe(context, teacher, tokens, ordering) if config.search.reads_errors else None,
        prepare.uncut(context),
    )
