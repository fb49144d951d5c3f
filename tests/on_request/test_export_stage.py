"""Stage export on the smoke run: what transformers alone makes of the folder, and what is refused."""

import ast
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from runs import half_trained, smoke
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

import pipeline
from pipeline.config import ExportConfig, ExportForm, GGUFKind, Source, TeacherConfig
from pipeline.data.blocks import Blocks
from pipeline.errors import SprigError
from pipeline.models.export import folder, gguf
from pipeline.on_request.card import card
from pipeline.subnetwork.value import SubNetwork

TOKENIZER = "artifacts/distilled_student"


@pytest.fixture(scope="module")
def run(smoke_outputs) -> Path:
    return smoke_outputs / "smoke" / "latest"


def export(run: Path, to: Path, *overrides: str) -> None:
    pipeline.run(pipeline.compose([f"run={run}", "stages=[export]", f"export.to={to}", *overrides]))


@pytest.mark.parametrize("form", ["auto", "own"])
@torch.no_grad()
def test_transformers_alone_gives_the_summarys_perplexity(run, form, tmp_path):
    before = sorted(run.parents[1].glob("artifacts/*/*")), (run / ".hydra/config.yaml").read_text(), run.resolve()
    export(run, tmp_path / "model", f"export.form={form}")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", trust_remote_code=True).eval()
    assert type(model).__name__ == {"auto": "LlamaForCausalLM", "own": "SprigForCausalLM"}[form]
    summary = json.loads((run / "summary.json").read_text())
    tokens = Blocks(run / "artifacts/tokens", "validation").evenly(summary["data"]["validation_blocks"])
    nll = F.cross_entropy(model(tokens[:, :-1]).logits.double().flatten(0, 1), tokens[:, 1:].flatten())
    assert math.exp(nll) == pytest.approx(summary["student"]["final_perplexity"], rel=1e-3)
    after = sorted(run.parents[1].glob("artifacts/*/*")), (run / ".hydra/config.yaml").read_text(), run.resolve()
    assert before == after, "an export is no part of a run"
    assert pipeline.compose([f"run={run}"]).export.to is None


def test_the_card_says_where_the_model_comes_from(run, tmp_path, caplog):
    caplog.set_level("INFO", "sprig")
    export(run, tmp_path / "model", "teacher.license=apache-2.0")
    card, summary = (tmp_path / "model/README.md").read_text(), json.loads((run / "summary.json").read_text())
    student = summary["student"]
    assert card.startswith("---\nlicense: apache-2.0\n") and "# model\n" in card
    for said in (
        "tiny-random",
        f"{student['parameters']:,} parameters",
        f"{student['tokens']:,} tokens",
        f"{student['final_perplexity']:,.2f}",
        f"{summary['control']['final_perplexity']:,.2f}",
        f"{summary['bin']['low']:,} to {summary['bin']['high']:,}",
        f"{summary['search']['evaluated']} evaluations",
        f"{student['flops']['student']:.3g}, {student['flops']['teacher']:.3g}",
        f"| recovery | {summary['recover']['tokens']:,} training tokens, ",
        "| FLOPs of ordering, search, recovery | ",
        student["artifact"],
        "its licence applies: apache-2.0",
    ):
        assert said in card
    sizes = AutoModelForCausalLM.from_pretrained(tmp_path / "model").num_parameters()
    assert f"| parameters as exported | {sizes:,} (form {student['exported']['form']}) |" in card
    assert student["exported"]["parameters"] == sizes
    for command in ("vllm serve model", "hf upload OWNER/model model"):
        assert f"\n{command}" in card
    assert "llama-cli" not in card and "convert_hf_to_gguf" not in card, "llama.cpp loads no tokenizer without merges"
    assert f"{sizes:,} parameters; compared on 4 blocks, its largest logit difference is" in caplog.text
    assert f"hf upload OWNER/model {tmp_path / 'model'}" in caplog.text
    export(run, tmp_path / "other")
    assert "licence is not stated" in (tmp_path / "other/README.md").read_text()


@pytest.mark.parametrize(
    ("helped", "said"),
    [
        (True, "cut out of tiny-random, refitted to it in closed form (recovery) on 512 tokens, and pretrained with"),
        (False, "cut out of tiny-random and pretrained with"),
        (None, "cut out of tiny-random and pretrained with"),
    ],
)
def test_the_card_says_whether_the_student_was_recovered(run, helped, said):
    summary = json.loads((run / "summary.json").read_text())
    sub = SubNetwork.from_dict(json.loads((run / "artifacts/distilled_student/subnetwork.json").read_text()))
    if helped is None:
        summary["recover"] = summary["flops"]["recover"] = summary["student"]["recovered_perplexity"] = None
    else:
        summary["recover"] |= {"helped": helped, "tokens": 512}
    teacher = TeacherConfig(name="teacher", source=Source.hf, path="x", license="mit")
    text = " ".join(card("model", ExportForm.stock, {}, ExportConfig(), summary, sub, teacher, run / TOKENIZER).split())
    assert said in text and ("recover" in text) == (helped is not None)
    assert ("so the student is as cut |" in text) == (helped is False)


def test_the_card_names_a_teacher_of_the_hub_as_its_base_and_no_folder_here(run, tmp_path):
    summary = json.loads((run / "summary.json").read_text())
    sub = SubNetwork.from_dict(json.loads((run / "artifacts/distilled_student/subnetwork.json").read_text()))
    own = tmp_path / "models/own"
    own.mkdir(parents=True)
    for path, base in (("EleutherAI/pythia-70m", "base_model: EleutherAI/pythia-70m\n"), (str(own), "")):
        teacher = TeacherConfig(name="teacher", source=Source.hf, path=path, license="mit")
        text = card("model", ExportForm.stock, {}, ExportConfig(), summary, sub, teacher, run / TOKENIZER)
        assert f"pipeline_tag: text-generation\n{base}tags:\n" in text


def test_whom_a_gguf_file_would_mislead_is_told(run, tmp_path, monkeypatch, caplog):
    """When that is, tests/models/test_export_gguf.py tells; the smoke run's tokenizer has no GGUF file."""
    monkeypatch.setattr(gguf, "write", lambda *_: None)
    monkeypatch.setattr(folder, "check_gguf", lambda *_: None)
    monkeypatch.setattr(gguf, "caveat", lambda config: f"Not for every reader of {config['model_type']}.")
    export(run, tmp_path / "model", "export.gguf=f16")
    said = "Not for every reader of llama."
    assert f"`model-f16.gguf` is the same model for llama.cpp. {said}" in (tmp_path / "model/README.md").read_text()
    assert said in [record.message for record in caplog.records if record.levelname == "WARNING"]


def test_a_target_that_exists_is_refused_before_any_work(run, tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(SprigError, match=r"export\.to=.*model exists"):
        pipeline.run(smoke(tmp_path / "outputs", "stages=[prepare,export]", f"export.to={tmp_path / 'model'}"))
    assert not (tmp_path / "outputs").exists()


def test_the_same_export_again_finds_it_and_another_is_refused(run, tmp_path, caplog):
    to = tmp_path / "model"
    export(run, to)
    before = {file: file.stat().st_mtime_ns for file in to.iterdir()}
    caplog.set_level("INFO", "sprig")
    export(run, to)
    assert f"{to} holds this export already; to export again, remove it first" in caplog.text
    for other in ("export.dtype=bf16", "export.form=own", "teacher.license=mit"):
        with pytest.raises(SprigError, match=r"export\.to=.*model exists"):
            export(run, to, other)
    assert {file: file.stat().st_mtime_ns for file in to.iterdir()} == before


@pytest.mark.parametrize("name", ["README.md", "config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("change", ["edited", "removed"])
def test_an_export_that_was_changed_is_not_taken_for_one(run, tmp_path, name, change):
    to = tmp_path / "model"
    export(run, to, "export.dtype=bf16")
    export(run, to, "export.dtype=bf16")
    (to / name).write_bytes(b"{}") if change == "edited" else (to / name).unlink()
    with pytest.raises(SprigError, match=r"export\.to=.*model exists"):
        export(run, to, "export.dtype=bf16")


def test_an_export_that_lacks_its_gguf_file_is_not_taken_for_one(run, tmp_path, monkeypatch):
    to = tmp_path / "model"
    export(run, to)
    monkeypatch.setattr(folder, "holds", lambda *given: True)
    export(run, to)
    with pytest.raises(SprigError, match=r"export\.to=.*model exists"):
        export(run, to, "export.gguf=f16")


def test_the_card_of_an_unfinished_run_does_not_stay(tmp_path):
    to, few = tmp_path / "model", "stages=[prepare,order,search,extract,recover,distill,export]"
    pipeline.run(smoke(tmp_path / "outputs", few, f"export.to={to}"))
    every = "stages=[prepare,order,search,extract,recover,distill,evaluate,report,export]"
    with pytest.raises(SprigError, match=r"export\.to=.*model holds this student with a card that is out of date"):
        pipeline.run(smoke(tmp_path / "outputs", every, f"export.to={to}"))
    assert (tmp_path / "outputs/smoke/latest/summary.json").exists()


@pytest.mark.parametrize("place", ["smoke/latest/artifacts/distilled_student/exp", "artifacts/exp/model"])
def test_a_target_in_the_store_is_refused_before_any_work(run, place):
    to = run.parents[1] / place
    with pytest.raises(SprigError, match=r"export\.to=.*/artifacts.* lies in .*/artifacts.*name a folder outside it"):
        export(run, to)
    assert not to.parent.exists() or sorted(path.name for path in to.parent.glob("[!.]*")) == sorted(
        [*json.loads((to.parent / "manifest.json").read_text())["files"], "manifest.json"]
    )


@pytest.mark.parametrize("place", ["x", "deeper/x", ".hydra/x"])
def test_a_target_in_a_run_which_is_removed_as_a_whole_is_refused(run, place):
    for to in (run / place, run.parent / "latest" / place):
        with pytest.raises(SprigError, match=r"export\.to=.* lies in .*, a run that `sprig rm` removes with all"):
            export(run, to)
        assert not to.exists()


def test_a_run_without_a_finished_student(smoke_outputs, tmp_path):
    outputs = tmp_path / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    shutil.rmtree((outputs / "smoke/latest/artifacts/distilled_student").resolve())
    with pytest.raises(SprigError, match=r"Stage distill was never run .* stages=\[distill"):
        export(outputs / "smoke/latest", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_student_that_is_still_trained_says_how_far_it_is(smoke_outputs, tmp_path):
    outputs = tmp_path / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    half_trained(outputs / "smoke/latest/artifacts/distilled_student")
    said = r"Training of the student is at 2,048 of 4,096 tokens: run the same command without stages= to resume it\."
    with pytest.raises(SprigError, match=said):
        export(outputs / "smoke/latest", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_finished_student_leaves_while_its_control_is_trained(smoke_outputs, tmp_path):
    outputs = tmp_path / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    for role in ("evaluation", "report"):
        shutil.rmtree((outputs / "smoke/latest/artifacts" / role).resolve())
    half_trained(outputs / "smoke/latest/artifacts/distilled_control")
    export(outputs / "smoke/latest", tmp_path / "model")
    card = (tmp_path / "model/README.md").read_text()
    assert "This run is not finished: distilled_control at 2,048 of 4,096 tokens; not begun: evaluation." in card


def test_a_teacher_of_another_family_than_the_students_is_refused(smoke_outputs, tmp_path):
    """As teacher.litgpt gives it for a model of the hub, before its files are here."""
    outputs = tmp_path / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    file = next(outputs.glob("smoke/*/.hydra/facts.json"))
    known = json.loads(file.read_text())
    for name, fact in known["facts"].items():
        if name.startswith("architecture"):
            fact |= {"family": "gpt_neox", "name": "pythia"}
    file.write_text(json.dumps(known))
    said = "The student's family is llama, but that of teacher pythia is gpt_neox: export it with"
    with pytest.raises(SprigError, match=said):
        export(outputs / "smoke/latest", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_an_export_needs_a_target():
    with pytest.raises(SprigError, match=r"export\.to is null: name the folder to make, export\.to=FOLDER"):
        pipeline.compose(["experiment=smoke", "stages=[export]"])


@pytest.mark.parametrize(
    "strange",
    ["a: b", "mit\nbase_model: evil/model", '"', "---\n# title", "null", "[x](javascript:1)", "<script>", "é | ß"],
)
def test_names_and_licences_of_any_text_stay_text(strange, run):
    summary = json.loads((run / "summary.json").read_text())
    summary["teacher"]["name"] = strange
    sub = SubNetwork.from_dict(json.loads((run / "artifacts/distilled_student/subnetwork.json").read_text()))
    teacher = TeacherConfig(name="teacher", source=Source.hf, path="EleutherAI/pythia-70m", license=strange)
    config = {"rope_parameters": {"rope_type": "default"}, "auto_map": {}}
    export = ExportConfig(gguf=GGUFKind.f16)
    text = card(strange, ExportForm.own, config, export, summary, sub, teacher, run / TOKENIZER)
    head, body = text.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(head) == {
        "license": strange,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": "EleutherAI/pythia-70m",
        "tags": ["sprig", "distillation", "pruning"],
    }
    code = ast.parse(body.split("```python\n")[1].split("\n```")[0])
    calls = [node for node in ast.walk(code) if isinstance(node, ast.Call)]
    assert [call.args[0].value for call in calls] == [strange] * 2
    options = [ast.unparse(call.keywords[0]) for call in calls]
    assert options == ["trust_remote_code=True", "config=model.config"]  # no code for a tokenizer
    body = re.sub(r"```bash\n.*?\n```", "", body, flags=re.DOTALL)  # in a fence, everything is text
    assert "<script>" not in body.replace("\\<", "").replace(json.dumps(strange), "").replace("`<script>-f16.gguf`", "")
    assert "Tested with transformers 4.57.1 to 5.24.0" in body


@pytest.mark.parametrize(
    ("form", "model", "converted"),
    [
        (ExportForm.stock, {"type": "BPE", "merges": [["a", "b"]]}, True),
        (ExportForm.stock, {"type": "Unigram"}, True),
        (ExportForm.stock, {"type": "BPE", "merges": []}, False),
        (ExportForm.own, {"type": "BPE", "merges": [["a", "b"]]}, False),
    ],
)
def test_the_card_has_commands_for_llama_cpp_if_that_can_load_the_export(run, tmp_path, form, model, converted):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    summary = json.loads((run / "summary.json").read_text())
    sub = SubNetwork.from_dict(json.loads((run / "artifacts/distilled_student/subnetwork.json").read_text()))
    teacher = TeacherConfig(name="teacher", source=Source.hf, path="x", license="mit")
    text = card("model", form, {}, ExportConfig(), summary, sub, teacher, tmp_path)
    for command in ("python convert_hf_to_gguf.py model --outfile model/model-f16.gguf", "llama-cli -m model/model-"):
        assert (f"\n{command}" in text) == converted
    assert ("\nvllm serve model" in text) == (form == ExportForm.stock)


def test_the_card_says_which_versions_forget_a_rotary_share(run):
    summary = json.loads((run / "summary.json").read_text())
    sub = SubNetwork.from_dict(json.loads((run / "artifacts/distilled_student/subnetwork.json").read_text()))
    for share, said in ((0.25, False), (1.0, True), (0.2, True)):
        teacher = TeacherConfig(name="teacher", source=Source.hf, path="x", license="mit")
        text = card(
            "model", ExportForm.stock, {"rotary_pct": share}, ExportConfig(), summary, sub, teacher, run / TOKENIZER
        )
        assert (
            f"before 5.9 forgets `rotary_pct` when it saves a GPT-NeoX model, and takes 0.25 instead of {share:g}"
            in " ".join(text.split())
        ) == said


def test_the_card_loads_a_gemma_2_with_the_attention_that_caps_scores(run):
    summary = json.loads((run / "summary.json").read_text())
    sub = SubNetwork.from_dict(json.loads((run / "artifacts/distilled_student/subnetwork.json").read_text()))
    teacher = TeacherConfig(name="teacher", source=Source.hf, path="x", license="mit")
    text = card(
        "model",
        ExportForm.stock,
        {"attn_logit_softcapping": 50.0},
        ExportConfig(),
        summary,
        sub,
        teacher,
        run / TOKENIZER,
    )
    assert 'AutoModelForCausalLM.from_pretrained("model", attn_implementation="eager")' in text
    assert "soft caps of attention scores: load it as above" in text
