"""The laboratory's headline numbers, computed again from the kept records: results/lab/README.md has the same rows."""

import csv
import json
from itertools import product
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from scipy import stats

LAB = Path(__file__).parent.parent / "results/lab"
BUDGETS = (110_592, 442_368, 1_769_472, 3_538_944)
FURTHER = (*BUDGETS, 7_077_888)
TWENTY = (*BUDGETS[:3], 5_308_416, 10_616_832)  # of three quarters: 10 and 20 tokens per parameter
STARTS = {  # search, init, recover
    "random weights": ("importance", "random_weights", "auto"),
    "importance, plain cut": ("importance", "searched", "off"),
    "importance, recovered": ("importance", "searched", "auto"),
    "random sub-network, recovered": ("importance", "random_subnetwork", "auto"),
    "evolution, recovered": ("evolution", "searched", "auto"),
    "allocation, recovered": ("allocation", "searched", "auto"),
}
PAIRS = ("last", "first", "strided", "plain")
FITNESSES = {
    "perplexity": "perplexity, untrained",
    "kl": "KL, untrained",
    "one-shot": "perplexity after one-shot compensation",
    "recovered": "perplexity after recovery",
    "short-55296": "loss after 55,296 tokens",
    "short-110592": "loss after 110,592 tokens",
    "beyond": "the same, extrapolated",
}
LOSSES = {"KD": "sampled", "cross-entropy": "off"}
Runs = dict[tuple[str, str, int], dict[int, dict[str, float]]]  # by start, loss and budget; by seed


def runs() -> Runs:
    found: Runs = {}
    for line in csv.DictReader((LAB / "p0-initialisation/runs.csv").open()):
        for start, axes in STARTS.items():
            for loss, kd in LOSSES.items():
                if line["state"] == "completed" and (line["search"], line["init"], line["recover"], line["kd"]) == (
                    *axes,
                    kd,
                ):
                    add(found, start, loss, line)
    return found


def add(found: Runs, start: str, loss: str, line: dict[str, str]) -> None:
    numbers = {"nll": float(np.log(float(line["student.final_perplexity"]))), "flops": float(line["total_flops"])}
    found.setdefault((start, loss, int(line["student.tokens"])), {})[int(line["seed"])] = numbers


def of_bins(folder: str = "p6-budget", cut: str = "importance, recovered") -> dict[str, Runs]:
    """Both starts with KD, by bin."""
    found: dict[str, Runs] = {}
    for line in csv.DictReader((LAB / folder / "runs.csv").open()):
        start = {"random_weights": "random weights", "searched": cut}[line["init"]]
        add(found.setdefault(line["bin"].removeprefix("lab-"), {}), start, "KD", line)
    return found


def rows_of_bins(found: dict[str, Runs], budgets: tuple[int, ...] = BUDGETS) -> list[str]:
    """Perplexities, then savings, of each bin, which stands where other tables have the loss."""
    return [
        row.replace(" | KD | ", f" | {name} | ")
        for rows in (perplexities, savings)
        for name, each in found.items()
        for row in rows(each, budgets)
    ]


def perplexities(found: Runs, budgets: tuple[int, ...] = BUDGETS) -> list[str]:
    """A row for each start and loss: a budget's perplexity as mean ± standard deviation over seeds."""
    rows = []
    for start in STARTS:
        for loss in LOSSES:
            cells = []
            for budget in budgets:
                values = [float(np.exp(each["nll"])) for each in found.get((start, loss, budget), {}).values()]
                spread = f" ± {stdev(values):.2f}" if len(values) > 1 else " (one seed)"
                cells.append(f"{mean(values):.2f}{spread}" if values else "not run")
            if set(cells) != {"not run"}:
                rows.append(f"| {' | '.join([start, loss, *cells])} |")
    return rows


def saving(found: Runs, start: str, loss: str, budget: int, seed: int, cost: str, against: str) -> tuple[float, str]:
    """What random weights, with the loss `against`, cost at `budget` over what the start costs where its trainings end
    at the same loss; ">": its smallest budget already does; "<": none does."""
    own = sorted(
        (at, each[seed]) for (name, by, at), each in found.items() if (name, by) == (start, loss) and seed in each
    )
    control = found["random weights", against, budget][seed]
    budgets = np.log([at for at, _ in own])
    losses = [each["nll"] for _, each in own]
    if losses[0] <= control["nll"]:
        tokens, sign = own[0][0], ">"
    elif min(losses) > control["nll"]:
        tokens, sign = own[-1][0], "<"
    else:  # losses fall from budget to budget
        tokens, sign = float(np.exp(np.interp(-control["nll"], [-each for each in losses], budgets))), ""
    if cost == "tokens":
        return budget / tokens, sign
    return control["flops"] / float(np.interp(tokens, [at for at, _ in own], [each["flops"] for _, each in own])), sign


def savings(found: Runs, budgets: tuple[int, ...] = BUDGETS) -> list[str]:
    """Over random weights with the same loss."""
    pairs = [(start, loss) for start in list(STARTS)[1:] for loss in LOSSES]
    return [row for start, loss in pairs if (row := saved(found, start, loss, against=loss, budgets=budgets))]


def over_pretraining(found: Runs) -> list[str]:
    """Over random weights with cross-entropy, of each way to use the teacher."""
    ways = (("random weights", "KD"), ("importance, recovered", "cross-entropy"), ("importance, recovered", "KD"))
    return [saved(found, *way, against="cross-entropy") for way in ways]


def saved(found: Runs, start: str, loss: str, against: str, budgets: tuple[int, ...] = BUDGETS) -> str:
    """A row: savings in tokens and in total FLOPs at each budget, with 95 % intervals; "" of what was not run."""
    cells = []
    for budget in budgets:
        seeds = set(found.get(("random weights", against, budget), {})) & set(found.get((start, loss, budgets[-1]), {}))
        for cost in ("tokens", "flops"):
            cells.append(shown([saving(found, start, loss, budget, seed, cost, against) for seed in sorted(seeds)]))
    return f"| {' | '.join([start, loss, *cells])} |" if set(cells) != {"not run"} else ""


def shown(values: list[tuple[float, str]]) -> str:
    if not values:
        return "not run"
    if signs := {sign for _, sign in values} - {""}:
        bound = min(value for value, _ in values) if signs == {">"} else max(value for value, _ in values)
        return f"{signs.pop()} {bound:.2f}x"
    logs = np.log([value for value, _ in values])
    if len(logs) == 1:
        return f"{float(np.exp(logs[0])):.2f}x (one seed)"
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * float(np.std(logs, ddof=1)) / len(logs) ** 0.5
    low, high = np.exp(logs.mean() - half), np.exp(logs.mean() + half)
    return f"{float(np.exp(logs.mean())):.2f}x [{low:.2f}, {high:.2f}]"


def converged(found: Runs, budgets: tuple[int, ...] = BUDGETS) -> str:
    """How far random weights with KD are at the largest budget from half of it, in loss."""
    losses = [mean(each["nll"] for each in found["random weights", "KD", at].values()) for at in budgets[-2:]]
    return f"{losses[0]:.3f} to {losses[1]:.3f} nats, {100 * (1 - losses[1] / losses[0]):.1f} %"


def rows_of_searches() -> list[str]:
    """A row for each way to choose a shape: parameters, perplexity before recovery and after training, total FLOPs."""
    return [
        f"| {search}{how} | {mean(column(lines, 'student.parameters')):,.0f} "
        f"| {spread(lines, 'student.untrained_perplexity')} | {spread(lines, 'student.final_perplexity')} "
        f"| {mean(column(lines, 'total_flops')):.3g} |"
        for folder, how in (("p3-search", ""), ("p3-surrogate", ", surrogate"), ("allocation-width", ", at full width"))
        for (search,), lines in grouped(folder, "search").items()
        if (search, how) != ("importance", ", at full width")  # which is first_layers there
    ]


def rows_of_teachers() -> list[str]:
    """A row for each teacher that is cut and each that distils: perplexity of both starts after training."""
    found = grouped("p5-teachers", "teacher", "teacher@kd_teacher", "init")
    return [
        f"| {cut} | {distils} | {spread(lines, 'student.final_perplexity')} "
        f"| {spread(found[cut, distils, 'searched'], 'student.final_perplexity')} |"
        for (cut, distils, init), lines in found.items()
        if init == "random_weights"
    ]


def rows_of_spaces() -> list[str]:
    """A row for each space and bin: perplexity after recovery and after training, plain and ordered; ordered with the
    last rotary pairs after training alone."""
    found, strided = grouped("p2-spaces", "space", "bin", "selection"), grouped("p2-strided", "space", "bin")
    return [
        f"| {space} | {bin.removeprefix('lab-')} "
        f"| {spread(lines, 'student.recovered_perplexity')} | {spread(lines, 'student.final_perplexity')} "
        f"| {spread(ordered, 'student.recovered_perplexity')} | {spread(ordered, 'student.final_perplexity')} "
        f"| {spread(found[space, bin, 'ordered'], 'student.final_perplexity')} |"
        for (space, bin, selection), lines in found.items()
        if selection == "plain"
        for ordered in [strided[space, bin]]
    ]


def rows_of_larger_spaces() -> list[str]:
    """A row for each space at three quarters: perplexity after recovery and after training, plain and ordered."""
    plain, ordered = grouped("p2-three-quarters-plain", "space"), grouped("p2-three-quarters", "space")
    return [
        f"| {space} "
        f"| {spread(lines, 'student.recovered_perplexity')} | {spread(lines, 'student.final_perplexity')} "
        f"| {spread(ordered[space,], 'student.recovered_perplexity')} "
        f"| {spread(ordered[space,], 'student.final_perplexity')} |"
        for (space,), lines in plain.items()
    ]


def rows_of_evolution() -> list[str]:
    """Evolution's quarter with evenly spaced rotary pairs."""
    found: Runs = {}
    for line in csv.DictReader((LAB / "p0-evolution/runs.csv").open()):
        add(found, "evolution, recovered", "KD", line)
    return perplexities(found)


def rows_of_grid() -> list[str]:
    """A row for each start, recovery and loss of the grid's rest: perplexity after each budget."""
    starts = {"random_subnetwork": "random sub-network", "searched": "evolution"}
    recovered = {"off": "plain cut", "auto": "recovered"}
    found, rows = grouped("p0-grid", "init", "recover", "kd", "student.tokens"), []
    for init, recover, (loss, kd) in product(starts, recovered, LOSSES.items()):
        budgets = [spread(found[init, recover, kd, str(budget)], "student.final_perplexity") for budget in BUDGETS[:3]]
        rows.append(f"| {starts[init]}, {recovered[recover]} | {loss} | {' | '.join(budgets)} |")
    plain = [spread(lines, "student.final_perplexity") for lines in grouped("p0-plain", "student.tokens").values()]
    return [*rows, f"| importance, plain cut | cross-entropy | {' | '.join(plain)} |"]


def rows_of_steps() -> list[str]:
    """Cut once or in two steps: tokens and total FLOPs of all its trainings, perplexity of the quarter."""
    once = grouped("p6-quarter", "init", "student.tokens")
    [half], [quarter] = (list(grouped(folder, "student.tokens").values()) for folder in ("halves", "iterated"))
    ways = {"once": [once["searched", "1769472"]], "once, on as many tokens in all": [once["searched", "3538944"]]}
    return [
        f"| {way} | {total(trainings, 'student.tokens'):,.0f} | {total(trainings, 'total_flops'):.3g} "
        f"| {spread(trainings[-1], 'student.final_perplexity')} |"
        for way, trainings in (ways | {"in two steps": [half, quarter]}).items()
    ]


def rows_of_losses() -> list[str]:
    """A row for each loss of the distillation: perplexity after training, total FLOPs."""
    return [
        f"| `kd={kd}` | {spread(lines, 'student.final_perplexity')} | {column(lines, 'total_flops')[0]:.3g} |"
        for (kd,), lines in grouped("p4-distillation", "kd").items()
    ]


def rows_of_halves() -> list[str]:
    """A row for evolution and importance in a half, on each budget."""
    return [on_tokens(*way, lines) for way, lines in grouped("half-search", "search", "student.tokens").items()]


def rows_of_long_halves() -> list[str]:
    """A row for importance and allocation in a half, on 10 and 20 tokens per parameter."""
    importance = grouped("importance-half-twenty", "student.tokens")
    allocation = grouped("allocation-half", "init", "student.tokens")
    rows = [on_tokens("importance", tokens, lines) for (tokens,), lines in importance.items()]
    return rows + [on_tokens("allocation", tokens, allocation["searched", tokens]) for (tokens,) in importance]


def on_tokens(search: str, tokens: str, lines: list[dict[str, str]]) -> str:
    return (
        f"| {search} | {int(tokens):,} | {mean(column(lines, 'student.parameters')):,.0f} "
        f"| {spread(lines, 'student.final_perplexity')} | {mean(column(lines, 'total_flops')):.3g} |"
    )


def rows_of_three_quarters() -> list[str]:
    """A row for each way to choose a shape of three quarters, and two for importance in a half."""
    before, since = grouped("p8-three-quarters", "search"), grouped("importance", "bin")
    ways = {
        "evolution": before["evolution",],
        "importance before": before["importance",],
        "importance": since["lab-three-quarters",],
        "allocation": grouped("allocation-three-quarters", "search.strategy")["allocation",],
        "importance, in a half": since["lab-half",],
    }
    return [f"| {way} | {course(lines)} |" for way, lines in ways.items()]


def rows_of_selections() -> list[str]:
    """A row for each selection with recovery, in the bin of three uncut layers."""
    return [f"| {selection} | {course(lines)} |" for (selection,), lines in grouped("p9-half", "selection").items()]


def course(lines: list[dict[str, str]]) -> str:
    """Parameters; perplexity of the cut, after recovery and after training; total FLOPs."""
    steps = (spread(lines, f"student.{step}_perplexity") for step in ("untrained", "recovered", "final"))
    parameters, flops = (mean(column(lines, name)) for name in ("student.parameters", "total_flops"))
    return f"{parameters:,.0f} | {' | '.join(steps)} | {flops:.3g}"


def rows_of_rerank() -> list[str]:
    """A row for each budget: perplexity and total FLOPs of importance, and of the best of 16 after short trainings."""
    importance, rerank = grouped("p6-quarter", "init", "student.tokens"), grouped("rerank", "student.tokens")
    return [
        f"| {int(tokens):,} | {' | '.join(outcome(found) for found in (importance['searched', tokens], lines))} |"
        for (tokens,), lines in rerank.items()
    ]


def outcome(lines: list[dict[str, str]]) -> str:
    return f"{spread(lines, 'student.final_perplexity')} | {mean(column(lines, 'total_flops')):.3g}"


def rows_of_pairs() -> list[str]:
    """A row for each choice of rotary pairs: perplexity after training with heads of 4 and 8, of one seed."""
    found = {
        tuple(path.removesuffix(".json").split("-")[-2:]): column(lines, "student.final_perplexity")[0]
        for (path,), lines in grouped("rotary-pairs", "search.path").items()
    }
    return [f"| `{pairs}` | {found['4', pairs]:.2f} | {found['8', pairs]:.2f} |" for pairs in PAIRS]


def rows_of_recovery() -> list[str]:
    """A row for each teacher and bin: perplexity of the teacher, of the cut, and of the recovered cut."""
    return [
        f"| {name} | {float(line['teacher.perplexity']):.2f} "
        f"| {int(line['student.parameters']):,} "
        f"({float(line['student.parameters']) / float(line['teacher.parameters']):.0%}) "
        f"| {float(line['student.untrained_perplexity']):.1f} | {float(line['student.recovered_perplexity']):.1f} |"
        for name in ("lab-s", "lab-m")
        for line in csv.DictReader((LAB / f"recovery/{name}.csv").open())
    ]


def total(trainings: list[list[dict[str, str]]], name: str) -> float:
    return sum(mean(column(lines, name)) for lines in trainings)


def grouped(folder: str, *axes: str) -> dict[tuple[str, ...], list[dict[str, str]]]:
    found: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for line in csv.DictReader((LAB / folder / "runs.csv").open()):
        if line["state"] == "completed":
            found.setdefault(tuple(line[axis] for axis in axes), []).append(line)
    return found


def column(lines: list[dict[str, str]], name: str) -> list[float]:
    return [float(line[name]) for line in lines]


def spread(lines: list[dict[str, str]], name: str) -> str:
    values = column(lines, name)
    return f"{mean(values):.2f} ± {stdev(values):.2f}"


def cells(rows: list[str], start: str) -> list[str]:
    """Of the start's row with KD."""
    return next(row for row in rows if row.startswith(f"| {start} | KD | ")).strip("| ").split(" | ")[2:]


def summary(found: Runs) -> list[str]:
    """The rows of results/README.md: a budget's perplexities and savings."""
    control, start = (cells(perplexities(found), name) for name in ("random weights", "importance, recovered"))
    saved = cells(savings(found), "importance, recovered")
    return [
        f"| {' | '.join([f'{budget:,}', control[at], start[at], *saved[2 * at : 2 * at + 2]])} |"
        for at, budget in enumerate(BUDGETS)
    ][1:]


def test_every_headline_number_is_in_the_records():
    found, text = runs(), (LAB / "README.md").read_text()
    rows = [*perplexities(found), *savings(found), *over_pretraining(found)]
    assert len(rows) >= 10 and "" not in rows
    assert [row for row in rows if row not in text] == []
    assert converged(found) in text
    larger = of_bins()
    assert [row for row in rows_of_bins(larger) if row not in text] == []
    assert [name for name, each in larger.items() if converged(each) not in text] == []
    for bin, folder, budgets in (
        ("quarter", "allocation-quarter", BUDGETS),
        ("half", "allocation-half", FURTHER),
        ("three-quarters", "allocation-twenty", TWENTY),
    ):
        allocated = of_bins(folder, "allocation, recovered")
        assert [row for row in rows_of_bins(allocated, budgets) if row not in text] == []
        assert converged(allocated[bin], budgets) in text
    quarter = of_bins("p6-quarter")["quarter"]
    assert [row for make in (perplexities, savings) for row in make(quarter, FURTHER) if row not in text] == []
    assert converged(quarter, FURTHER) in text
    [neox] = of_bins("neox-quarter").values()
    assert [row for make in (perplexities, savings) for row in make(neox, BUDGETS[:3]) if row not in text] == []
    rows = [
        *rows_of_searches(),
        *rows_of_teachers(),
        *rows_of_spaces(),
        *rows_of_larger_spaces(),
        *rows_of_steps(),
        *rows_of_recovery(),
    ]
    [three_quarters] = grouped("allocation-three-quarters", "search.strategy").values()
    assert f"it ends at {spread(three_quarters, 'student.final_perplexity')}, with" in text
    rows += [
        *rows_of_losses(),
        *rows_of_halves(),
        *rows_of_long_halves(),
        *rows_of_pairs(),
        *rows_of_evolution(),
        *rows_of_rerank(),
    ]
    rows += [*rows_of_grid(), *rows_of_three_quarters(), *rows_of_selections()]
    assert [row for row in rows if row not in text] == []
    overview = (LAB.parent / "README.md").read_text()
    assert [row for row in summary(found) if row not in overview] == []


def points_of_the_study(seed: int) -> list[dict[str, str]]:
    one_shot = json.loads((LAB / f"fitness/one-shot-{seed}.json").read_text())
    points = list(csv.DictReader((LAB / f"fitness/{seed}.csv").open()))
    for point in points:
        short, longer = float(point["short-55296"]), float(point["short-110592"])
        point["beyond"] = str(longer + (longer - short) / 2)
        point["one-shot"] = one_shot[point["subnetwork"]]
    return points


def rows_of_fitnesses() -> list[str]:
    """Spearman's correlation with the loss reached, over seeds; and of each seed, how much higher the fitness's first
    choice ends than the best, and its place."""
    studies, rows = [points_of_the_study(seed) for seed in range(3)], []
    for name, label in FITNESSES.items():
        cells = []
        for among in (("searched", "random"), ("random",)):
            parts = [[point for point in points if point["from"] in among] for points in studies]
            pairs = [[[float(each[key]) for each in part] for key in (name, "reached")] for part in parts]
            found = [float(stats.spearmanr(*pair).statistic) for pair in pairs]
            cells.append(f"{mean(found):.2f} ({', '.join(f'{value:.2f}' for value in found)})")
        firsts = [min(points, key=lambda each: float(each[name])) for points in studies]
        reached = [sorted(float(each["reached"]) for each in points) for points in studies]
        ends = [float(first["reached"]) for first in firsts]
        excess = mean(end - each[0] for end, each in zip(ends, reached, strict=True))
        places = ", ".join(str(each.index(end) + 1) for end, each in zip(ends, reached, strict=True))
        rows.append(f"| {label} | {' | '.join(cells)} | {excess:.3f} | {places} |")
    return rows


def test_what_the_fitnesses_predict_is_computed_from_the_points_of_the_study():
    text = (LAB / "README.md").read_text()
    assert [row for row in rows_of_fitnesses() if row not in text] == []
