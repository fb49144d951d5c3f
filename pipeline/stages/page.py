"""report.md and the closing table: a run's summary as people read it."""

ROLES = ("teacher", "untrained", "student", "control")


def rows(summary: dict) -> list[list[str]]:
    """The closing table: one row a model, with parameters, perplexity, training tokens and training FLOPs."""
    teacher, student, control = summary["teacher"], summary["student"], summary["control"]
    table = [
        ["teacher", teacher["name"], f"{teacher['parameters']:,}", f"{teacher['perplexity']:,.2f}", "", ""],
        [
            "untrained",
            student["init"],
            f"{student['parameters']:,}",
            f"{student['untrained_perplexity']:,.2f}",
            "0",
            "0",
        ],
    ]
    for name, model in (("student", student), ("control", control)):
        if model is not None:
            flops = model["flops"]["student"] + model["flops"]["teacher"]
            table.append(
                [
                    name,
                    model["init"] + (" + KD" if model["kd"] else ""),
                    f"{model['parameters']:,}",
                    f"{model['final_perplexity']:,.2f}",
                    f"{model['tokens']:,}",
                    f"{flops:.3g}",
                ]
            )
    return table


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
    random = search["random_best_fitness"]
    return [
        ["search", f"{search['strategy']}, {search['evaluated']} evaluations, {search['tokens']:,} tokens"],
        ["best fitness", f"{search['best_fitness']:,.2f} ({search['fitness']} on calibration blocks)"],
        ["best of random, on as many tokens", "not asked for" if random is None else f"{random:,.2f}"],
    ]


SEARCH_PLOTS = """![Best fitness against evaluated tokens](search.png)

![Where in the bin the candidates lie](bin.png)
"""


def page(summary: dict, evaluation: dict) -> str:
    """report.md. `evaluation` holds the prompt and each model's continuation."""
    search, flops = summary["search"], summary["flops"]
    facts = [
        ["teacher", summary["teacher"]["name"]],
        ["text", f"{summary['data']['name']}, blocks of {summary['data']['block_size']} tokens"],
        ["bin", f"{summary['bin']['low']:,} to {summary['bin']['high']:,} parameters ({summary['bin']['count']})"],
        ["space, ordering", f"{summary['space']}, {summary['ordering']}"],
        *search_facts(search),
        ["learning rate", ", ".join(f"{r} {summary[r]['lr']:g}" for r in ("student", "control") if summary[r])],
        ["FLOPs of ordering, search", f"{flops['order']:.3g}, {flops['search']:.3g}"],
        ["seed, precision", f"{summary['seed']}, {summary['precision']}"],
        ["student's artifact", f"`{summary['student']['artifact']}`"],
    ]
    samples = [
        [name, model["sample"].replace("\n", " ").replace("|", "\\|")] for name, model in evaluation["models"].items()
    ]
    return f"""# {summary["preset"]}

{saving_sentence(summary["saving"])}

{markdown_table(HEADER, rows(summary))}

Perplexity is exp(mean nats a token), on the same {summary["data"]["validation_blocks"]} validation blocks for every
model. FLOPs are of training, the teacher's included.

![Validation perplexity against tokens](training.png)

{SEARCH_PLOTS if search["strategy"] else ""}
{markdown_table(["", ""], facts)}

## One text, continued

> {evaluation["prompt"]}

{markdown_table(["model", "continuation"], samples)}

How to run it again: `overrides.yaml` and `config.yaml` in the run folder's `.hydra`.
"""
