"""The results of a run in sentences."""

from pipeline.config import Init
from pipeline.evaluation.savings import EqualFlops, Saving
from pipeline.report.schema import RUNNING, Summary, random_weights

NOT_BEGUN = "not begun"  # what a summary says of an artifact that is not even half there
RANDOM_WEIGHTS = "The teacher has random weights: the numbers mean nothing."
CONTINUED = "The student had been trained before, and these totals do not include that training."
NO_CONTROL = "There is no control, so there is no saving."


def result(summary: Summary) -> str:
    """What came out, or how far a run is that is still going."""
    if summary["status"] == RUNNING:
        state = progress(summary)
        return f"{RANDOM_WEIGHTS} {state}" if random_weights(summary) else state
    if random_weights(summary):
        return RANDOM_WEIGHTS
    if summary["saving"] is None:
        return CONTINUED if summary["student"]["init"] == Init.trained else NO_CONTROL
    compared = summary.get("equal_flops")
    return " ".join([saving(summary["saving"]), *([crossing(compared)] if compared else [])])


def saving(found: Saving) -> str:
    """What the start saved over the control, in one sentence."""
    target = f"the control's final perplexity of {found['target_perplexity']:,.2f}"
    total = f"{_times(found['total_flops'])} in total FLOPs"
    if found["reached"] == "not reached":
        bounds = f"below {_times(found['tokens'])} in tokens and below {total}"
        return f"The student did not reach {target}: the saving is {bounds}."
    total += " (everything before training and the teacher included)"
    if found["reached"] == "before training":
        return (
            f"The student was at or below {target} before it was trained, so its saving in tokens and in student "
            f"FLOPs has no finite value; it is {total}."
        )
    return f"The student reached {target} with a saving of {_times(found['tokens'])} in tokens and {total}."


def _times(factor: float | None) -> str:
    return "no finite value" if factor is None else f"{factor:.2f}x"


def crossing(found: EqualFlops) -> str:
    """Where student and control cross over total FLOPs, and how they compare at the largest total that both reach."""
    if found["flops"] is None:
        return (
            f"What the student costs before its training ({found['before']:.3g} FLOPs) exceeds the control's total "
            f"({found['control_flops']:.3g}), so the two cannot be compared at equal total FLOPs."
        )
    at = f"at {found['flops']:.3g} total FLOPs"
    level = (
        f"{at} the student is at {found['student_perplexity']:,.2f}, the control at {found['control_perplexity']:,.2f}"
    )
    crossings = found["crossings"]
    if not crossings:
        leading = f"the {found['ahead']} has the lower perplexity" if found["ahead"] else "they are equal"
        since = f" from {found['before']:.3g} FLOPs, where the student's training begins," if found["before"] else ""
        return f"Over total FLOPs the curves do not cross:{since} {leading}; {level}."
    places = "; ".join(
        f"at {each['flops']:.3g}, perplexity {each['perplexity']:,.2f}, the {each['ahead']} takes the lead"
        for each in crossings
    )
    return f"Over total FLOPs the curves cross {_often(len(crossings))}: {places}; {level}."


def _often(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def progress(summary: Summary) -> str:
    """How far a run is that is still going."""
    unfinished = summary["unfinished"]
    parts = [f"{role} {how}" for role, how in unfinished.items() if how != NOT_BEGUN]
    waiting = [role for role, how in unfinished.items() if how == NOT_BEGUN]
    named = [role for role in waiting if not role.startswith("downstream/")]
    if len(named) < len(waiting):  # three models' on each task: too many to read
        named.append(f"downstream scores ({len(waiting) - len(named)})")
    if named:
        parts.append(f"{NOT_BEGUN}: {', '.join(named)}")
    return f"This run is not finished: {'; '.join(parts)}."


def headline(summary: Summary) -> str:
    """The result in one sentence with its numbers; of a run that is still going, what it will make."""
    teacher, student, control = summary["teacher"], summary["student"], summary["control"]
    size, final = student["parameters"], student["final_perplexity"]
    if size is None or final is None:
        return f"A student cut out of {teacher['name']}, to be trained and measured."
    others = f"its teacher, {teacher['name']}, at {teacher['perplexity']:,.2f}"
    if control is not None:
        start = control["init"].replace("_", " ")
        others = f"the control ({start}) stands at {control['final_perplexity']:,.2f}, {others}"
    share = size / teacher["parameters"]
    return (
        f"A student of {size:,} parameters, {share:.0%} of its teacher's, reaches a validation "
        f"perplexity of {final:,.2f} after {student['tokens']:,} training tokens; {others}."
    )


def tiles(summary: Summary) -> list[tuple[str, str]]:
    """The numbers that people look for first, each with what it is."""
    student, saved = summary["student"], summary["saving"]
    shown = []
    if student["final_perplexity"] is not None:
        shown.append((f"{student['final_perplexity']:,.2f}", "perplexity of the student"))
    if (size := student["parameters"]) is not None:
        shown.append((f"{size / 1e6:,.1f}M" if size >= 1e6 else f"{size:,}", "parameters of the student"))
    if saved is not None and not random_weights(summary):
        reached = saved["reached"] != "not reached"
        for value, what in (
            (saved["tokens"], "tokens than the control"),
            (saved["total_flops"], "FLOPs, everything before training included"),
        ):
            if value is not None:
                shown.append(_tile(value, what, reached))
    return shown


def _tile(saving: float, what: str, reached: bool) -> tuple[str, str]:
    """A saving below 1 is a cost. Where the control's loss is not reached, the saving is a bound from above."""
    times, compared, bound = (saving, "fewer", "<\u2009") if saving >= 1 else (1 / saving, "more", ">\u2009")
    return f"{'' if reached else bound}{times:.2f}\u00d7", f"{compared} {what}"
