"""The results of a sweep in sentences."""

from collections import Counter

from pipeline.progress import counted
from pipeline.report.sentences import RANDOM_WEIGHTS
from pipeline.report.sweep.runs import Sweep

INCOMPARABLE = "The runs were validated on different tokens, so their perplexities cannot be compared."


def headline(sweep: Sweep) -> str:
    """What came out."""
    if not sweep.has_winners:
        return " ".join([*_of_random_weights(sweep), *([] if sweep.is_comparable else [INCOMPARABLE])])
    best, settings = sweep.best, sum(bool(cell.runs) for cell in sweep.cells)
    of = f"mean of {len(best.runs)} runs" if len(best.runs) > 1 else "one run"
    reached, teacher = f"{best.perplexity:,.2f}", f"{best.runs[0].summary['teacher']['perplexity']:,.2f}"
    if settings == 1:
        return f"The validation perplexity is {reached} ({of}); the teacher's is {teacher}."
    if len(best.runs) == 1:
        of = f"{of}; another seed may change the order"
    found = f"{reached} ({of}) with {sweep.name_of(best)}"
    return f"The lowest validation perplexity of {settings} settings is {found}; the teacher's is {teacher}."


def _of_random_weights(sweep: Sweep) -> list[str]:
    """Names the runs with such a teacher if others have a trained one."""
    random = sweep.of_random_teachers
    if len(random) in (0, len(sweep.runs)):
        return [RANDOM_WEIGHTS] if random else []
    names, its = ", ".join(run.id for run in random), "its" if len(random) == 1 else "their"
    return [f"The teacher of {names} has random weights: {its} numbers mean nothing."]


def finished(sweep: Sweep) -> str:
    """How many runs are, and what became of the others."""
    states = Counter(state for cell in sweep.cells for state in cell.states)
    count = len(sweep.runs)
    done = f"{counted(count, 'run')} {'is' if count == 1 else 'are'} finished"
    lacking = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    if lacking:
        return f"{done}; without a result: {lacking}."
    return f"All {done}." if count > 1 else f"{done}."
