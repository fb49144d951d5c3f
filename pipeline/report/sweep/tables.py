"""The tables of a sweep's report: each with title, header, rows, and what its figures are."""

import math
from collections import Counter
from collections.abc import Callable
from statistics import mean, stdev

from pipeline.evaluation.savings import Saving
from pipeline.report.marks import Bold
from pipeline.report.schema import Scores
from pipeline.report.sweep import searched
from pipeline.report.sweep.between import BUDGET, Comparison, Reach, comparisons
from pipeline.report.sweep.record import MISSING
from pipeline.report.sweep.runs import RANDOM_WEIGHTS, SAVINGS, Cell, Kind, Run, Sweep
from pipeline.report.sweep.savings import CONFIDENCE, Fit, compared, fits, interval
from pipeline.report.tables import Table, downstream_note, measured, metrics, number, spread

CELLS = """Perplexity is exp(mean nats per token) on {blocks}, as mean ± standard deviation over seeds; bits per byte
of text compare different vocabularies {limit}.{bold} Total FLOPs are order, search, recovery, teacher
and student; random weights are charged only their training. The last column reads all curves at the smallest total of
the sweep, which is before the end of the others' schedules."""
BOLD = """ Among settings that differ on the first axis alone, the best is bold if all of them have several seeds."""
RULE = """The target is the control's final perplexity; a saving is the control's cost over the cost at which the
student first is at or below the target (log perplexity linear in tokens between two points, token 0
included). The teacher's FLOPs are on both sides, order, search and recovery on the student's alone. No finite
value: the target was reached before training. <: it was not reached, and this is the bound. A run's
control is its own; where it has none, it is the sweep's run from random weights with the same seed and
the same values on all other axes. All seeds: mean ± standard deviation."""
TASKS = """{}
of a run's examples, in brackets the standard deviation over seeds. Published models are other groups', of the
same size."""


def tables(sweep: Sweep) -> list[Table]:
    """All that the sweep has figures for; the first is that of its cells."""
    found: list[Table] = [("", *cells(sweep), _about_cells(sweep))]
    if between := comparisons(sweep):
        found.append(("Savings between budgets", *_between(sweep, between), BETWEEN))
    elif any(compared(sweep)):
        head = [*sweep.axes, "seed", "control", "target", *(f"saving: {title}" for title in SAVINGS.values())]
        found.append(("Savings", head, _savings(sweep), RULE))
    if worth := searched.rows(sweep):
        found.append((searched.TITLE, searched.header(sweep), worth, searched.RULE))
    if fitted := fits(sweep):
        found.append(("Savings against the budget", FIT_HEADER, [_fit(sweep, fit) for fit in fitted], FIT))
    if scored := [run.summary for run in sweep.runs if run.summary["downstream"]]:
        found.append(("Downstream tasks", *_tasks(sweep), TASKS.format(downstream_note(*scored))))
    if sweep.errors:
        failed = [[job, error.splitlines()[-1].strip()] for job, error in sweep.errors.items()]
        found.append(("Without a result", ["job", "last line of its log"], failed, ""))
    return found


def _about_cells(sweep: Sweep) -> str:
    same = sweep.is_comparable
    return CELLS.format(
        blocks="the same validation blocks for all" if same else "validation blocks that differ between runs",
        limit="too" if same else "but not different texts",
        bold=BOLD if sweep.has_winners else "",
    )


def cells(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Header, and a row for each cell."""
    figures = ["parameters", "untrained", "perplexity", "bits per byte", "tokens", "total FLOPs", "at equal FLOPs"]
    header = [*sweep.axes, "seeds", *figures]
    best = _best(sweep)
    rows = [
        [
            *cell.values,
            *(_results(sweep, cell, cell.values in best) if cell.runs else [", ".join(_lacking(cell)), *[""] * 7]),
        ]
        for cell in sweep.cells
    ]
    if shown := _published(sweep):
        header = [*header, "published"]
        rows = [[*row, shown.get(cell.values, "")] for row, cell in zip(rows, sweep.cells, strict=True)]
    return header, rows


def _results(sweep: Sweep, cell: Cell, best: bool) -> list[str]:
    def over_seeds(value: Callable[[Run], float], form: str) -> str:
        return spread([value(run) for run in cell.runs], form)

    final = over_seeds(lambda run: run.perplexity, ",.2f")
    per_byte = [run.student.get("final_bits_per_byte") or math.nan for run in cell.runs]  # none in older runs
    equal = [run.nll_at_flops(sweep.cheapest) for run in cell.runs]
    begun = [nll for nll in equal if nll is not None]
    return [
        ", ".join([str(len(cell.runs)), *_lacking(cell)]),
        over_seeds(lambda run: run.student["parameters"] or math.nan, ",.0f"),
        over_seeds(lambda run: run.student["untrained_perplexity"] or math.nan, ",.2f"),
        Bold(final) if best else final,
        "" if math.nan in per_byte else spread(per_byte, ".3f"),
        over_seeds(lambda run: run.student["tokens"], ",.0f"),
        over_seeds(lambda run: run.total_flops, ".3g"),
        "not begun" if len(begun) < len(equal) else spread([math.exp(nll) for nll in begun], ",.2f"),
    ]


def _lacking(cell: Cell) -> list[str]:
    return [f"{count} {state}" for state, count in sorted(Counter(cell.states).items())]


def _best(sweep: Sweep) -> set[tuple[str, ...]]:
    """Of the cells that differ on the first axis alone, the one with the lowest perplexity. A cell without a rival has
    not won, nor is there a winner where one of them has a single seed."""
    if not sweep.has_winners:
        return set()
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in sweep.cells:
        if cell.runs:
            groups.setdefault(cell.values[1:], []).append(cell)
    return {
        min(group, key=lambda cell: cell.perplexity).values
        for group in groups.values()
        if len(group) > 1 and all(len(cell.runs) > 1 for cell in group)
    }


def _published(sweep: Sweep) -> dict[tuple[str, ...], str]:
    """What the paper says of a cell, by the cell's values."""
    shown = {}
    for cell in sweep.cells:
        named = sweep.values_of(cell)
        fitting = [
            each["says"]
            for each in sweep.published
            if "says" in each and all(named.get(axis) in known for axis, known in each["where"].items())
        ]
        if fitting:
            shown[cell.values] = "; ".join(fitting)
    return shown


def _savings(sweep: Sweep) -> list[list[str]]:
    """A row for each run, and one for all seeds of a cell; what starts from random weights is what others save over."""
    rows = []
    for cell in sweep.cells:
        savings = []
        for run in cell.runs:
            if run.student["init"] == RANDOM_WEIGHTS:
                continue
            name = [*cell.values, str(run.summary["seed"])]
            if (found := sweep.saving(run)) is None:
                rows.append([*name, MISSING, "", *[""] * len(SAVINGS)])
                continue
            control, saving = found
            savings.append(saving)
            figures = (_saving(saving, key) for key in SAVINGS)
            rows.append([*name, control, f"{saving['target_perplexity']:,.2f}", *figures])
        if len(savings) > 1:
            means = (_mean_saving(savings, key) for key in SAVINGS)
            rows.append([*cell.values, f"all {len(savings)}", "", "", *means])
        if not cell.runs and RANDOM_WEIGHTS not in sweep.values_of(cell).values():
            rows.append([*cell.values, MISSING, *[""] * (2 + len(SAVINGS))])
    return rows


BETWEEN = f"""Each row compares trainings that have ended: a start against random weights that were trained on the
row's budget. Equal FLOPs are the total of those random weights, from which the start also pays order, search, recovery
and teacher. Between its budgets, the start's loss is linear in the logarithm of the budget. Perplexities are means ±
standard deviations over seeds, savings geometric means with their {CONFIDENCE:.0%} interval by Student's t. >: the
start's smallest budget is enough. <: its largest is not. Ahead: the seeds on which the start has the lower perplexity
at equal FLOPs, of those on which it can be compared."""


def _between(sweep: Sweep, found: list[Comparison]) -> tuple[list[str], list[list[str]]]:
    """Header, and a row for each setting and budget."""
    axes = [axis for axis in sweep.axes if axis != BUDGET]
    header = [
        *axes,
        "budget",
        "seeds",
        "random weights",
        "at equal tokens",
        "saving",
        "at equal FLOPs",
        "saving",
        "ahead",
    ]
    rows: dict[tuple[tuple[str, ...], int], list[Comparison]] = {}
    for each in found:
        rows.setdefault((each.setting, each.budget), []).append(each)
    return header, [
        [
            *setting,
            f"{budget:,}",
            str(len(seeds)),
            spread([math.exp(each.control) for each in seeds], ",.2f"),
            _perplexities([each.at_equal_tokens for each in seeds]),
            _saved([each.tokens for each in seeds]),
            _perplexities([each.at_equal_flops for each in seeds]),
            _saved([each.total_flops for each in seeds]),
            _ahead(seeds),
        ]
        for (setting, budget), seeds in rows.items()
    ]


def _perplexities(losses: list[float | None]) -> str:
    known = [math.exp(each) for each in losses if each is not None]
    return spread(known, ",.2f") if len(known) == len(losses) else "outside its budgets"


def _saved(seeds: list[Reach]) -> str:
    """Over seeds; where one of them is a bound, the bound of all."""
    values, bounds = [each.value for each in seeds], {each.bound for each in seeds}
    if "> " in bounds and "< " in bounds:
        return f"{min(values):.2f}x to {max(values):.2f}x"
    if bounds != {""}:
        return f"> {min(values):.2f}x" if "> " in bounds else f"< {max(values):.2f}x"
    logarithms = [math.log(value) for value in values]
    bounded = interval(logarithms)
    return f"{math.exp(mean(logarithms)):.2f}x" + (f" [{bounded[0]:.2f}, {bounded[1]:.2f}]" if bounded else "")


def _ahead(seeds: list[Comparison]) -> str:
    known = [each.at_equal_flops < each.control for each in seeds if each.at_equal_flops is not None]
    return f"{sum(known)} of {len(known)}" if known else ""


FIT_HEADER = ["setting", "counted in", "seeds", "saving at the smallest budget", "at the largest", "per doubling"]
FIT = f"""For each seed a straight line of log saving over log budget, by least squares through what was reached and has
a finite value; the figure is the geometric mean over seeds, in brackets its {CONFIDENCE:.0%} interval by Student's t.
The last column is the factor by which twice the budget changes the saving: below 1 it shrinks as budgets grow."""


def _fit(sweep: Sweep, fit: Fit) -> list[str]:
    def figure(value: float, interval: tuple[float, float] | None) -> str:
        return f"{value:.2f}x" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else " (one seed)")

    small, large = fit.budgets
    return [
        fit.setting,
        SAVINGS[fit.kind],
        str(len(fit.lines)),
        f"{figure(fit.saving(small), fit.interval(small))} at {small:,}",
        f"{figure(fit.saving(large), fit.interval(large))} at {large:,}",
        figure(fit.per_doubling, fit.per_doubling_interval),
    ]


def _saving(saving: Saving, key: Kind) -> str:
    value = saving[key]
    return "no finite value" if value is None else f"{_bound(saving)}{value:.2f}x"


def _bound(saving: Saving) -> str:
    return "< " if saving["reached"] == "not reached" else ""


def _mean_saving(savings: list[Saving], key: Kind) -> str:
    finite = [value for saving in savings if (value := saving[key]) is not None]
    if not finite:
        return "no finite value"
    if len(finite) < len(savings):
        return f"{len(savings) - len(finite)} of {len(savings)} have no finite value"
    bound = max(_bound(saving) for saving in savings)  # a mean of which one part is a bound is one itself
    return f"{bound}{spread(finite, '.2f')}x"


def _tasks(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """A row for each model, a column for each metric."""
    models: dict[str, list[Scores]] = {}
    for run in sweep.runs:
        if teacher := run.summary["downstream"].get("teacher"):
            models[f"teacher {run.summary['teacher']['name']}"] = [teacher]
    for cell in sweep.cells:
        for run in cell.runs:
            scored = run.summary["downstream"]
            for role in ("student", "control"):
                if role == "student" or role in scored:
                    name = " ".join(cell.values) or sweep.name
                    name = name if role == "student" else f"{name}, control"
                    models.setdefault(name, []).append(scored.get(role, {}))
        if not cell.runs:
            models[" ".join(cell.values)] = [{}]
    columns = metrics(score for each in models.values() for score in each)
    rows = [[name, *(_score(scores, *column) for column in columns)] for name, scores in models.items()]
    for each in sweep.published:
        if scores := each.get("scores"):
            figures = (scores.get(task, {}).get(metric) for task, metric in columns)
            rows.append([f"published: {each['model']}", *(number(figure, ",.4g") for figure in figures)])
    return ["model", *(f"{task} {metric}" for task, metric in columns)], rows


def _score(runs: list[Scores], task: str, metric: str) -> str:
    scored = [run[task] for run in runs if metric in run.get(task, {})]
    if len(scored) < len(runs):
        return MISSING
    values = [score[metric] for score in scored]
    errors = [score[f"{metric}_stderr"] for score in scored if score.get(f"{metric}_stderr") is not None]
    shown = measured(mean(values), mean(errors) if errors else None)
    return shown + (f" ({stdev(values):.2g})" if len(values) > 1 else "")
