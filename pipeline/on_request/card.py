"""The model card of an exported student, written from the run's summary."""

import json
import shlex
from pathlib import Path

import yaml

from pipeline.config import ExportConfig, ExportForm, GGUFKind, Init, TeacherConfig
from pipeline.models.export import check, gguf, stock
from pipeline.report import marks, sentences
from pipeline.report.schema import RUNNING, ExportedSummary, Summary, random_weights
from pipeline.report.tables import HEADER, flops_fact, recovery_fact, rows, search_facts, vocabulary_fact
from pipeline.subnetwork.value import SubNetwork

_FORMS = {
    ExportForm.stock: "It is a stock model of its family.",
    ExportForm.padded: "Its layers are padded with exact zeros to the common sizes of a stock model of its family: the "
    "files hold more parameters than the model has.",
    ExportForm.own: "It brings its own modelling file, `modeling_sprig.py`, in which layers may differ in their sizes: "
    "read it before you trust it.",
}


def card(
    name: str,
    form: ExportForm,
    config: dict,
    export: ExportConfig,
    summary: Summary,
    sub: SubNetwork,
    teacher: TeacherConfig,
    tokenizer: Path,
) -> str:
    """README.md of the folder `name` with config.json `config`: a head for the hub's machines, then lineage, training
    and figures. `tokenizer` is a folder with the student's."""
    student, data = summary["student"], summary["data"]
    going = f" {sentences.progress(summary)}" if summary["status"] == RUNNING else ""
    going += f" {sentences.RANDOM_WEIGHTS}" if random_weights(summary) else ""
    kind, drawn = export.gguf, student["init"] == Init.random_weights
    origin = "from random weights in the shape of a sub-network of" if drawn else "cut out of"
    recovery = _recovered(summary)
    training = "pretrained with knowledge distillation" if student["kd"] else "pretrained"
    own = form == ExportForm.own
    # Else transformers asks whether to trust code for the tokenizer too, for which there is none.
    known = ", config=model.config" if own else ""
    options = stock.loading_arguments(config)
    quoted = json.dumps(name, ensure_ascii=False)
    gguf_note = ""
    if kind != GGUFKind.none:
        file = marks.markdown(marks.Code(gguf.file_name(name, kind)))
        gguf_note = f"\n{file} is the same model for llama.cpp. {gguf.caveat(config)}".rstrip() + "\n"
    facts = [
        ["teacher", f"{summary['teacher']['name']}, {summary['teacher']['parameters']:,} parameters"],
        ["teacher's licence", teacher.license or "not stated"],
        ["start", student["init"]],
        ["kept layers of the teacher", ", ".join(map(str, sub.layers))],
        ["sub-network", f"{sub.key}, width {sub.n_embd}, {summary['space']} space, ordering {summary['ordering']}"],
        ["bin", f"{summary['bin']['low']:,} to {summary['bin']['high']:,} parameters ({summary['bin']['count']})"],
        *vocabulary_fact(summary),
        *_exported(form, student.get("exported")),
        *search_facts(summary["search"]),
        *recovery_fact(summary),
        ["text", f"{data['name']}, blocks of {data['block_size']} tokens"],
        ["training tokens, learning rate", f"{student['tokens']:,}, {student['lr']:g}"],
        flops_fact(summary),
        [
            "FLOPs of training: student, teacher",
            f"{student['flops']['student']:.3g}, {student['flops']['teacher']:.3g}",
        ],
        ["seed, precision", f"{summary['seed']}, {summary['precision']}"],
        ["weights", str(export.dtype)],
        ["made by", f"Sprig, preset {summary['preset']}"],
        ["artifact", marks.Code(student["artifact"])],
    ]
    return f"""---
{_head(teacher)}
---

# {marks.escaped(name)}

A language model of {student["parameters"]:,} parameters, {origin} {marks.escaped(summary["teacher"]["name"])}{recovery}
and {training} on {student["tokens"]:,} tokens. {_FORMS[form]}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({quoted}{options})
tokenizer = AutoTokenizer.from_pretrained({quoted}{known})
```

{_commands(name, form, kind, gguf.has_merges(tokenizer))}

Tested with transformers {check.TRANSFORMERS[0]} to {check.TRANSFORMERS[1]}. {stock.caveat(config)}
{gguf_note}
## Figures

{marks.table(HEADER, rows(summary))}

Perplexity is exp(mean nats per token), on the same {data["validation_blocks"]} validation blocks of
{marks.escaped(data["name"])} for all models; `student` is this one. Bits per byte of text compare models of different
vocabularies too. FLOPs are of training, the teacher's
included.{going}

## Lineage

{marks.table(["", ""], facts)}

{_licence(teacher, derived=student["kd"] or not drawn)}
"""


def _recovered(summary: Summary) -> str:
    recover = summary.get("recover")
    if not recover or not recover.get("helped", True):
        return ""
    return f", refitted to it in closed form (recovery) on {recover['tokens']:,} tokens,"


def _exported(form: ExportForm, found: ExportedSummary | None) -> list[list[str]]:
    """What transformers counts in these files."""
    if found is None:
        return []
    count = found["own"] if form == ExportForm.own else found["parameters"]
    return [["parameters as exported", f"{count:,} (form {form})"]]


def _commands(name: str, form: ExportForm, kind: GGUFKind, in_llama_cpp: bool) -> str:
    """How to serve and to publish the folder `name`, from the folder that it lies in."""
    folder, lines = shlex.quote(name), []
    stock_class = form != ExportForm.own  # neither llama.cpp nor vLLM reads a modelling file of Sprig's
    if stock_class and in_llama_cpp:
        file = f"{name}/{gguf.file_name(name, kind if kind != GGUFKind.none else GGUFKind.f16)}"
        if kind == GGUFKind.none:
            lines.append(f"python convert_hf_to_gguf.py {folder} --outfile {shlex.quote(file)}  # of llama.cpp")
        lines.append(f'llama-cli -m {shlex.quote(file)} -p "Once upon a time"')
    if stock_class:
        lines.append(f"vllm serve {folder}")
    lines.append(f"hf upload OWNER/{folder} {folder}")
    return "\n".join(["```bash", *lines, "```"])


def _head(teacher: TeacherConfig) -> str:
    """YAML, in which a licence or a name may be anything."""
    fields = {
        "license": teacher.license or "unknown",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **({"base_model": teacher.path} if teacher.on_hub else {}),
        "tags": ["sprig", "distillation", "pruning"],
    }
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=10**6).rstrip()


def _licence(teacher: TeacherConfig, derived: bool) -> str:
    """`derived`: whether the student was cut out of the teacher, or taught by it."""
    if teacher.license is None:
        return (
            "The teacher's licence is not stated in the run's configuration: find out which one applies before you "
            "pass this model on."
        )
    if not derived:
        return f"Licence: {marks.escaped(teacher.license)}."
    return f"The weights derive from the teacher's, so its licence applies: {marks.escaped(teacher.license)}."
