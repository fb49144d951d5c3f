"""report.md and the closing table: a run's summary as people read it."""

import math

from pipeline.report import study as study_report

NOT_BEGUN = "not begun"  # what a summary says of an artifact that is not even half there
PLOTS = {
    "training.png": "Validation perplexity against tokens",
    "search.png": "Best fitness against evaluated tokens",
    "bin.png": "Where in the bin the candidates lie",
    "anatomy.png": "The student's layers beside the teacher's",
    "study.png": "The loss that sub-networks reach against each fitness",
}


def rows(summary: dict) -> list[list[str]]:
    """The closing table: one row a model, with parameters, perplexity, training tokens and training FLOPs."""
    teacher, student = summary["teacher"], summary["student"]
    table = [
        _row("teacher", teacher["name"], teacher, "perplexity", "", ""),
        _row("untrained", student["init"], student, "untrained_perplexity", "0", "0"),
    ]
    for name in ("student", "control"):
        if (model := summary[name]) is not None:
            start = model["init"] + (" + KD" if model["kd"] else "")
            flops = f"{model['flops']['student'] + model['flops']['teacher']:.3g}"
            table.append(_row(name, start, model, "final_perplexity", f"{model['tokens']:,}", flops))
    return table


def _row(name: str, start: str, model: dict, perplexity: str, tokens: str, flops: str) -> list[str]:
    numbers = (number(model["parameters"], ","), number(model[perplexity], ",.2f"))
    return [name, start, *numbers, tokens, flops]


def number(value: float | None, form: str) -> str:
    """What is not known, of a run that is still going, is left empty."""
    return "" if value is None else format(value, form)


HEADER = ["model", "start", "parameters", "perplexity", "tokens", "FLOPs"]


def markdown_table(header: list[str], body: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *body)]
    return "\n".join(lines)


def saving_sentence(saving: dict | None) -> str:
    """What the start saved over the control, in one sentence."""
    if saving is None:
        return "There is no control, so nothing to save against."
    target = f"the control's final perplexity of {saving['target_perplexity']:,.2f}"
    if saving["reached"] == "not reached":
        return (
            f"The student did not reach {target}: the saving is below {saving['tokens']:.2f}x in tokens and below "
            f"{saving['total_flops']:.2f}x in total FLOPs."
        )
    total = f"{saving['total_flops']:.2f}x in total FLOPs (order, search and teacher included)"
    if saving["reached"] == "before training":
        return (
            f"The student stood at or below {target} before it was trained, so its saving in tokens and in student "
            f"FLOPs has no finite value; it is {total}."
        )
    return f"The student reached {target} with a saving of {saving['tokens']:.2f}x in tokens and {total}."


def search_facts(search: dict) -> list[list[str]]:
    if search["strategy"] is None:
        return [["search", "none: nothing starts from one"]]
    if search["evaluated"] is None:
        return [["search", f"{search['strategy']}, not finished"]]
    random, reranked = search["random_best_fitness"], search.get("rerank")
    after = []
    if reranked:
        chosen = (
            f"the {reranked['candidates']} best, {reranked['tokens']:,} tokens each ({reranked['flops']:.3g} FLOPs)"
        )
        reached = f"number {reranked['rank']} wins with {reranked['loss']:.4f} nats a token on calibration blocks"
        after = [["rerank by a short training", f"{chosen}: {reached}"]]
    candidates = search.get("candidates")  # absent in summaries of older runs
    of = f" of {candidates:,} candidates" if candidates else ""
    return [
        ["search", f"{search['strategy']}, {search['evaluated']} evaluations{of}, {search['tokens']:,} tokens"],
        ["best fitness", f"{search['best_fitness']:,.2f} ({search['fitness']} on calibration blocks)"],
        ["best of random, on as many tokens", "not asked for" if random is None else f"{random:,.2f}"],
        *after,
        *_diversity(search.get("diversity")),
    ]


def _diversity(found: dict | None) -> list[list[str]]:
    if found is None:
        return []
    share = (
        f"{found['first']:.0%} of the genes among the first {found['candidates']}, {found['last']:.0%} among the last"
    )
    return [["candidates differ, two by two, in", share]]


ANATOMY_HEADER = ["", "query groups", "heads a group", "head size", "MLP width"]


def anatomy_rows(anatomy: dict) -> list[list[str]]:
    """Teacher and student, layer by layer."""

    def sizes(gene: dict) -> list[str]:
        return [str(gene[name]) for name in ("n_query_groups", "heads_per_group", "head_size", "intermediate_size")]

    return [["teacher, each", *sizes(anatomy["teacher"])]] + [
        [f"layer {gene['layer']}", *sizes(gene)] for gene in anatomy["student"]
    ]


def result_sentence(summary: dict) -> str:
    """What came out, or how far a run is that is still going."""
    return progress_sentence(summary) if summary["status"] == "running" else saving_sentence(summary["saving"])


def progress_sentence(summary: dict) -> str:
    """How far a run is that is still going."""
    parts = [f"{role} {how}" for role, how in summary["unfinished"].items() if how != NOT_BEGUN]
    waiting = [role for role, how in summary["unfinished"].items() if how == NOT_BEGUN]
    named = [role for role in waiting if not role.startswith("downstream/")]
    if len(named) < len(waiting):  # three models' on each task: too many to read
        named.append(f"downstream scores ({len(waiting) - len(named)})")
    if named:
        parts.append(f"{NOT_BEGUN}: {', '.join(named)}")
    return f"This run is not finished: {'; '.join(parts)}."


def facts(summary: dict) -> list[list[str]]:
    """How the run was set up, and what it spent before training, in rows of name and value."""
    flops = summary["flops"]
    return [
        ["teacher", summary["teacher"]["name"]],
        ["text", f"{summary['data']['name']}, blocks of {summary['data']['block_size']} tokens"],
        ["bin", f"{summary['bin']['low']:,} to {summary['bin']['high']:,} parameters ({summary['bin']['count']})"],
        ["space, ordering", f"{summary['space']}, {summary['ordering']}"],
        *search_facts(summary["search"]),
        ["learning rate", ", ".join(f"{r} {summary[r]['lr']:g}" for r in ("student", "control") if summary[r])],
        ["FLOPs of ordering, search", f"{flops['order']:.3g}, {flops['search']:.3g}"],
        ["seed, precision", f"{summary['seed']}, {summary['precision']}"],
    ]


NOTE = (
    "Perplexity is exp(mean nats a token), on the same {} validation blocks for every model. FLOPs are of training, "
    "the teacher's included, which with a logits cache are those of filling it, once for all that read it."
)


EFFICIENCY_HEADER = ["model", "parameters", "FLOPs a token", "KV cache a token", "prefill", "decode"]


def efficiency_rows(efficiency: dict) -> list[list[str]]:
    """What teacher and student cost to run."""
    return [
        [
            name,
            f"{model['parameters']:,}",
            f"{model['flops_per_token']:.3g}",
            f"{model['kv_bytes_per_token']:,} bytes",
            f"{model['prefill_tokens_per_second']:,.1f} tokens/s",
            f"{model['decode_tokens_per_second']:,.1f} tokens/s",
        ]
        for name, model in ((name, efficiency[name]) for name in ("teacher", "student"))
    ]


def efficiency_note(summary: dict) -> str:
    measured = summary["efficiency"]
    return (
        f"Measured on {measured['hardware']}, in {summary['precision']}: {measured['prefill']} tokens of one text in "
        f"one pass, then {measured['decode']} one at a time with a KV cache; medians of {measured['repetitions']}, the "
        f"models in turn. FLOPs are of the forward pass, averaged over {summary['data']['block_size']} tokens."
    )


def downstream(models: dict[str, dict[str, dict[str, float]]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the tasks' table, a row for each metric, with one standard error behind the value."""
    metrics = {
        (task, metric): None
        for tasks in models.values()
        for task, values in tasks.items()
        for metric in values
        if not metric.endswith("_stderr")
    }
    body = []
    for task, metric in metrics:
        found = [models[name].get(task, {}) for name in models]
        body.append([task, metric, *(measured(each.get(metric), each.get(f"{metric}_stderr")) for each in found)])
    return ["task", "metric", *models], body


def downstream_note(*summaries: dict) -> str:
    """What the scores of these runs are of."""
    limits = {summary["data"].get("task_examples") for summary in summaries}  # absent in summaries of older runs
    parts = sorted(f"the first {limit:,} examples" for limit in limits if limit)
    of = " or ".join([*parts, "all examples"] if None in limits else parts)
    return f"Of {of} of a task, by lm-eval's own prompts and metrics; behind ± is one standard error"


def measured(value: float | None, error: float | None) -> str:
    """A value to the digits that its standard error leaves it; to four where it has none."""
    if value is None or not error or not math.isfinite(error):
        return number(value, ",.4g")
    digits = max(1 - math.floor(math.log10(error)), 0)
    return f"{value:,.{digits}f} ± {error:,.{digits}f}"


def tables(summary: dict) -> list[tuple[str, list[str], list[list[str]], str]]:
    """The tables that a run may have beside its first: title, header, rows, and what the figures are."""
    shown = []
    if summary["downstream"]:
        shown.append(("Downstream tasks", *downstream(summary["downstream"]), f"{downstream_note(summary)}."))
    if summary["efficiency"] is not None:
        body = efficiency_rows(summary["efficiency"])
        shown.append(("Efficiency", EFFICIENCY_HEADER, body, efficiency_note(summary)))
    if "study" in summary:
        shown.append(study_report.table(summary["study"]))
    return shown


def page(summary: dict, evaluation: dict | None, plots: list[str]) -> str:
    """report.md. `evaluation` holds the prompt and each model's continuation; `plots` the images that there are."""
    parts = [
        f"# {summary['preset']}",
        result_sentence(summary),
        markdown_table(HEADER, rows(summary)),
        NOTE.format(summary["data"]["validation_blocks"]),
        *(f"![{PLOTS[name]}]({name})" for name in plots),
        markdown_table(["", ""], [*facts(summary), ["student's artifact", f"`{summary['student']['artifact']}`"]]),
    ]
    for title, header, body, note in tables(summary):
        parts += [f"## {title}", markdown_table(header, body), note]
    if summary["anatomy"] is not None:
        depth, width = summary["anatomy"]["n_layer"], summary["anatomy"]["n_embd"]
        parts += [
            "## Anatomy",
            f"The student keeps {depth[1]} of {depth[0]} layers and {width[1]} of {width[0]} embedding entries.",
            markdown_table(ANATOMY_HEADER, anatomy_rows(summary["anatomy"])),
        ]
    if evaluation is not None:
        samples = [
            [name, model["sample"].replace("\n", " ").replace("|", "\\|")]
            for name, model in evaluation["models"].items()
        ]
        parts += [
            "## One text, continued",
            f"> {evaluation['prompt']}",
            markdown_table(["model", "continuation"], samples),
        ]
    parts.append("How to run it again: `overrides.yaml` and `config.yaml` in the run folder's `.hydra`.")
    return "\n\n".join(parts) + "\n"
