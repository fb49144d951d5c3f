"""The tables of a run's report: a summary's figures in rows of text."""

import math
from collections.abc import Iterable
from statistics import mean, stdev

from pipeline.config import Init
from pipeline.progress import counted
from pipeline.report import study as study_report
from pipeline.report.marks import Code
from pipeline.report.schema import (
    Anatomy,
    Diversity,
    EfficiencySummary,
    LayerSizes,
    Scores,
    SearchSummary,
    Summary,
    trained_models,
)
from pipeline.subnetwork.value import SIZES

Table = tuple[str, list[str], list[list[str]], str]  # title, header, rows, and what the figures are

HEADER = ["model", "start", "parameters", "perplexity", "bits per byte", "tokens", "FLOPs"]
EFFICIENCY_HEADER = ["model", "parameters", "FLOPs per token", "KV cache per token", "prefill", "decode"]


def rows(summary: Summary) -> list[list[str]]:
    """The closing table: one row a model, with parameters, perplexity, bits per byte, training tokens and FLOPs."""
    teacher, student, uncut = summary["teacher"], summary["student"], summary.get("uncut_teacher")
    recovered, recover = student.get("recovered_perplexity"), summary.get("recover")
    helped = recovered is not None and (recover is None or recover.get("helped", True))
    size, per_byte = student["parameters"], student.get("untrained_bits_per_byte")
    start = "start" if student["init"] == Init.trained else "untrained"
    table = []
    if uncut is not None:
        figures = uncut["parameters"], uncut["perplexity"], uncut["bits_per_byte"]
        table.append(_row("uncut teacher", teacher["name"], *figures, "", ""))
    cut, known = teacher["perplexity"], teacher.get("bits_per_byte")
    table += [
        _row("teacher", teacher["name"], teacher["parameters"], cut, known, "", ""),
        _row(start, student["init"], size, student["untrained_perplexity"], per_byte, "0", "0"),
    ]
    if recovered is not None:
        flops = number(summary["flops"].get("recover"), ".3g")
        tokens = number(recover.get("tokens") if recover else None, ",")
        per_byte = student.get("recovered_bits_per_byte")
        table.append(_row("recovered", student["init"], size, recovered, per_byte, tokens, flops))
    for name, model in trained_models(summary).items():
        start = model["init"] + (" + recovery" if name == "student" and helped else "")
        start += " + KD" if model["kd"] else ""
        flops = f"{model['flops']['student'] + model['flops']['teacher']:.3g}"
        final, per_byte = model["final_perplexity"], model.get("final_bits_per_byte")
        table.append(_row(name, start, model["parameters"], final, per_byte, f"{model['tokens']:,}", flops))
    return table


def _row(
    name: str,
    start: str,
    size: int | None,
    perplexity: float | None,
    per_byte: float | None,
    tokens: str,
    flops: str,
) -> list[str]:
    return [name, start, number(size, ","), number(perplexity, ",.2f"), number(per_byte, ".3f"), tokens, flops]


def in_terminal(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the closing table in 80 columns: FLOPs, or with a cut vocabulary bits per byte."""
    left_out = HEADER.index("FLOPs" if "uncut_teacher" in summary else "bits per byte")
    header, *body = ([*row[:left_out], *row[left_out + 1 :]] for row in (HEADER, *rows(summary)))
    return header, body


def number(value: float | None, form: str) -> str:
    """The figure as text; empty where it is not known yet, in a run that is still going."""
    return "" if value is None else format(value, form)


def note(summary: Summary) -> str:
    """What the closing table's figures are."""
    blocks = summary["data"]["validation_blocks"]
    return (
        f"Perplexity is exp(mean nats per token), on the same {blocks} validation blocks for every model. Bits per "
        f"byte of text compare models of different vocabularies too.{_uncut(summary)} FLOPs are those of "
        "training, the teacher's included. With a logits cache, the teacher's are those of filling it, counted once "
        "for all runs that read it."
    )


def _uncut(summary: Summary) -> str:
    uncut = summary.get("uncut_teacher")
    if uncut is None:
        return ""
    return (
        f" The uncut teacher has all {uncut['vocabulary']:,} tokens, the others {uncut['kept']:,}: it reads the same "
        "text in fewer and longer tokens, so that its perplexity is not comparable."
    )


def search_facts(search: SearchSummary) -> list[list[str]]:
    """Rows of name and value."""
    if search["strategy"] is None:
        return [["search", "none: no model starts from a search"]]
    if search["evaluated"] is None or search["best_fitness"] is None:
        return [["search", f"{search['strategy']}, not finished"]]
    random, reranked = search["random_best_fitness"], search.get("rerank")
    after = []
    if reranked:
        chosen = (
            f"the {reranked['candidates']} best, {reranked['tokens']:,} tokens each ({reranked['flops']:.3g} FLOPs)"
        )
        reached = f"number {reranked['rank']} wins with {reranked['loss']:.4f} nats per token on calibration blocks"
        after = [["rerank by a short training", f"{chosen}: {reached}"]]
    candidates = search.get("candidates")  # absent in summaries of older runs
    of = f" of {counted(candidates, 'candidate')}" if candidates else ""
    evaluations = counted(search["evaluated"], "evaluation")
    return [
        ["search", f"{search['strategy']}, {evaluations}{of}, {search['tokens']:,} tokens"],
        ["best fitness", f"{search['best_fitness']:,.2f} ({search['fitness']} on calibration blocks)"],
        ["best random candidate, same number of tokens", "not run" if random is None else f"{random:,.2f}"],
        *after,
        *_diversity(search.get("diversity")),
    ]


def _diversity(found: Diversity | None) -> list[list[str]]:
    if found is None:
        return []
    share = f"{found['first']:.0%} of genes among the first {found['candidates']}, {found['last']:.0%} among the last"
    return [["mean pairwise gene difference", share]]


def facts(summary: Summary) -> list[list[str]]:
    """How the run was set up, and what it spent before training, in rows of name and value."""
    rates = ", ".join(f"{role} {model['lr']:g}" for role, model in trained_models(summary).items())
    rows = [
        ["teacher", summary["teacher"]["name"]],
        ["text", f"{summary['data']['name']}, blocks of {summary['data']['block_size']} tokens"],
        ["bin", f"{summary['bin']['low']:,} to {summary['bin']['high']:,} parameters ({summary['bin']['count']})"],
        ["space, ordering", f"{summary['space']}, {summary['ordering']}"],
        *vocabulary_fact(summary),
        *search_facts(summary["search"]),
    ]
    rows += recovery_fact(summary)
    if active := summary["student"].get("active_parameters"):
        rows.append(["active parameters", f"{active:,}"])
    if leaves := summary["student"].get("exported"):  # absent in summaries of older runs
        rows.append(["parameters as exported", f"{leaves['parameters']:,} (form {leaves['form']})"])
    rows += [
        ["learning rate", rates],
        flops_fact(summary),
        *_instead(summary),
        ["seed, precision", f"{summary['seed']}, {summary['precision']}"],
    ]
    if (artifact := summary["student"]["artifact"]) is not None:
        rows.append(["student's artifact", Code(artifact)])
    return rows


def recovery_fact(summary: Summary) -> list[list[str]]:
    if not (recover := summary.get("recover")):
        return []
    seconds = recover.get("seconds")
    took = "" if seconds is None else f", {seconds:,.1f} s"
    useless = "" if recover.get("helped", True) else "; the held-out loss did not fall, so the student is as cut"
    return [["recovery", f"{number(recover.get('tokens'), ',')} training tokens{took}{useless}"]]


def flops_fact(summary: Summary) -> list[str]:
    """Of what comes before training."""
    flops = summary["flops"]
    named, values = "ordering, search", f"{flops['order']:.3g}, {flops['search']:.3g}"
    if (recovering := flops.get("recover")) is not None:
        named, values = f"{named}, recovery", f"{values}, {recovering:.3g}"
    return [f"FLOPs of {named}", values]


def vocabulary_fact(summary: Summary) -> list[list[str]]:
    uncut = summary.get("uncut_teacher")
    return [["vocabulary", f"{uncut['kept']:,} of {uncut['vocabulary']:,} tokens"]] if uncut else []


def _instead(summary: Summary) -> list[list[str]]:
    """What the search's FLOPs would have paid for. Whether that is too much, only other runs can tell."""
    student, searched = summary["student"], summary["flops"]["search"]
    trained = student["flops"]["student"] + student["flops"]["teacher"]
    if not searched or not trained:
        return []
    share = searched / trained
    more = f"{share * student['tokens']:,.0f} more training tokens, {share:.1%} of the student's"
    return [["instead of the search", more]]


def spread(values: list[float], form: str) -> str:
    """Mean and standard deviation."""
    if len(set(values)) == 1:
        return format(values[0], form)
    return f"{format(mean(values), form)} ± {format(stdev(values), form.lstrip('+'))}"


def anatomy_sentence(anatomy: Anatomy) -> str:
    depth, width = anatomy["n_layer"], anatomy["n_embd"]
    return f"The student keeps {depth[1]} of {depth[0]} layers and {width[1]} of {width[0]} embedding entries."


def anatomy_header(anatomy: Anatomy) -> list[str]:
    return ["", *(title for name, title in SIZES.items() if name in anatomy["teacher"])]


def anatomy_rows(anatomy: Anatomy) -> list[list[str]]:
    """Teacher and student, layer by layer."""

    def sizes(gene: LayerSizes) -> list[str]:
        return [str(size) for name in SIZES if (size := gene.get(name)) is not None]

    return [["teacher, each", *sizes(anatomy["teacher"])]] + [
        [f"layer {gene['layer']}", *sizes(gene)] for gene in anatomy["student"]
    ]


def efficiency_rows(efficiency: EfficiencySummary) -> list[list[str]]:
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
        for name, model in (("teacher", efficiency["teacher"]), ("student", efficiency["student"]))
    ]


def _efficiency_note(summary: Summary, measured: EfficiencySummary) -> str:
    return (
        f"Measured on {measured['hardware']}, in {summary['precision']}: {measured['prefill']} tokens of one text in "
        f"one pass, then {measured['decode']} one at a time with a KV cache; medians of {measured['repetitions']}, the "
        f"models in turn. FLOPs are of the forward pass, averaged over {summary['data']['block_size']} tokens."
    )


def downstream(models: dict[str, Scores]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the tasks' table, a row for each metric, with one standard error behind the value."""
    body = []
    for task, metric in metrics(models.values()):
        found = [models[name].get(task, {}) for name in models]
        body.append([task, metric, *(measured(each.get(metric), each.get(f"{metric}_stderr")) for each in found)])
    return ["task", "metric", *models], body


def metrics(models: Iterable[Scores]) -> list[tuple[str, str]]:
    """Every task and metric that any of the models has, without the standard errors."""
    return list(
        dict.fromkeys(
            (task, metric)
            for tasks in models
            for task, values in tasks.items()
            for metric in values
            if not metric.endswith("_stderr")
        )
    )


def downstream_note(*summaries: Summary) -> str:
    """What the scores of these runs are of."""
    limits = {summary["data"].get("task_examples") for summary in summaries}  # absent in summaries of older runs
    parts = sorted(f"the first {limit:,} examples" for limit in limits if limit)
    of = " or ".join([*parts, "all examples"] if None in limits else parts)
    return f"Of {of} of a task, by lm-eval's own prompts and metrics; ± gives one standard error"


def measured(value: float | None, error: float | None) -> str:
    """A value to the digits that its standard error leaves it; to four where it has none."""
    if value is None or not error or not math.isfinite(error):
        return number(value, ",.4g")
    digits = max(1 - math.floor(math.log10(error)), 0)
    return f"{value:,.{digits}f} ± {error:,.{digits}f}"


def further(summary: Summary) -> list[Table]:
    """The tables that a run may have after its first."""
    shown: list[Table] = []
    if summary["downstream"]:
        shown.append(("Downstream tasks", *downstream(summary["downstream"]), f"{downstream_note(summary)}."))
    if (efficiency := summary["efficiency"]) is not None:
        body = efficiency_rows(efficiency)
        shown.append(("Efficiency", EFFICIENCY_HEADER, body, _efficiency_note(summary, efficiency)))
    if "study" in summary:
        shown.append(study_report.table(summary["study"]))
    return shown
