"""Stage chat: the template as transformers renders it, a conversation against plain generation, and the loop itself."""

import io
import json
import sys
from pathlib import Path

import pytest
import tiny
import torch
from litgpt import GPT, Config

import pipeline
from pipeline.errors import SprigError
from pipeline.models import chat_template
from pipeline.models.chat_template import ChatTemplate
from pipeline.models.tokenizer import Tokenizer, write_bytes
from pipeline.on_request import chat
from pipeline.on_request.chat import Conversation
from pipeline.printable import printable

ASKED = [{"role": "user", "content": "Hi <b> é"}]
TALK = [*ASKED, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "More"}]
CHATML = """{% for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
TEMPLATES = [
    CHATML,
    "{{ eos_token }}{{ messages | tojson }} {{ strftime_now('%Y') }}",
    "{% for each in messages %}{% if loop.index > 2 %}{% break %}{% endif %}[{{ each.content | trim }}]{% endfor %}",
    """{% for each in messages %}
    {% if each.role == 'assistant' %}
        {%- generation %}{% set text = each.content %}{{ text }}{{ eos_token }}{% endgeneration %}
    {%- else %}{{ each.content }}
    {% endif %}
{% endfor %}{{ text is defined }}""",
    "{{ messages | tojson(indent=2) }} {{ messages | tojson(sort_keys=true, separators=(',', ':')) }}",
    "{{ messages | tojson(ensure_ascii=true) }}",
    "{{ messages | tojson(true, 1, none, true) }}",
    "{% if tools is not none %}tools{% endif %}{% if documents is none %}no documents{% endif %}",
]


def with_template(folder: Path, template: object) -> Tokenizer:
    write_bytes(folder)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": template}))
    return Tokenizer(folder)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_is_rendered_as_transformers_does(template, tmp_path):
    from transformers import PreTrainedTokenizerFast

    ours = chat_template.of(with_template(tmp_path, template))
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for messages in (ASKED, TALK):
        expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert ours.render(messages) == expected


def test_of_several_templates_the_default_is_taken(tmp_path):
    several = [{"name": "tools", "template": "no"}, {"name": "default", "template": "yes"}]
    assert chat_template.of(with_template(tmp_path, several)).render(ASKED) == "yes"
    assert chat_template.of(with_template(tmp_path, several[:1])) is None


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ raise_exception('Only one turn.') }}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_template_can_do_nothing_but_write_text(template):
    with pytest.raises(SprigError, match="chat template cannot be used"):
        ChatTemplate(template, {}).render(ASKED)


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{% generation %}",
        "{% for each in messages %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
        "{{ " + "(" * 10_000 + " }}",
    ],
    ids=lambda template: template[:20],
)
def test_what_is_not_a_template_is_one_sentence(template):
    with pytest.raises(SprigError, match="is not a template"):
        ChatTemplate(template, {})


@torch.no_grad()
def greedily(model: GPT, tokenizer: Tokenizer, text: str, count: int) -> list[int]:
    ids = tokenizer.encode(text)
    start = len(ids)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1, : tokenizer.vocab_size].argmax()))
    return ids[start:]


def model() -> GPT:
    sizes = {"vocab_size": 257, "padded_vocab_size": 257, "block_size": 64}
    return tiny.randomize(GPT(Config(**tiny.CONFIGS["llama"] | sizes))).eval()


def answer(side: Conversation, line: str, count: int) -> str:
    return side.answer(line, count, "fp32", 0.0, torch.Generator())


@pytest.mark.parametrize("template", [None, "{% for each in messages %}{{ each.content }}|{% endfor %}"])
def test_an_answer_continues_the_conversation(template, tmp_path):
    words, net = with_template(tmp_path, template), model()
    side = Conversation(net, words, chat_template.of(words))
    first = answer(side, "One", 4)
    assert first == words.decode(greedily(net, words, "One" if template is None else "One|", 4))
    text = f"One{first}\nTwo" if template is None else f"One|{first}|Two|"
    assert answer(side, "Two", 4) == words.decode(greedily(net, words, text, 4))


def test_the_oldest_turns_are_forgotten_where_the_context_is_full(tmp_path):
    words, net = with_template(tmp_path, None), model()
    side = Conversation(net, words, None)
    for line in ("a" * 30, "b" * 30):
        said = answer(side, line, 8)
    assert said == words.decode(greedily(net, words, "b" * 30, 8)) and len(side.messages) == 2


def test_a_token_that_ends_a_turn_ends_the_answer(tmp_path):
    words, net = with_template(tmp_path, None), model()
    tokens = greedily(net, words, "One", 6)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [256, tokens[3]]}))
    before = tokens[: tokens.index(tokens[3])]
    assert answer(Conversation(net, words, None), "One", 6) == words.decode(before)


def test_a_model_steers_no_terminal():
    assert printable("a\x1b[2Jb\tc\nd\r\x07é") == "a\ufffd[2Jb\tc\nd\ufffd\ufffdé"


def test_lines_are_read_until_the_end_and_new_starts_over(smoke_outputs, monkeypatch, capsys):
    """A model whose answer is the length of its prompt."""
    monkeypatch.setattr(chat, "continue_text", lambda model, prompt, *_: list(str(len(prompt)).encode()))
    monkeypatch.setattr(sys, "stdin", io.StringIO("We the\nWe the\n/new\nWe the\n/exit\nNot read\n"))
    run = smoke_outputs / "smoke/latest"
    before = sorted(run.parents[1].glob("artifacts/*/*"))
    pipeline.run(pipeline.compose([f"run={run}", "stages=[chat]", "sample.tokens=4"]))
    printed = capsys.readouterr().out
    asked = printed.split("you> ")
    assert [each.splitlines()[0] for each in asked[1:]] == ["We the", "We the", "/new", "We the", "/exit"]
    assert asked[1] == asked[4] == "We the\nstudent> 6\nteacher> 6\n"
    assert asked[2] == "We the\nstudent> 14\nteacher> 14\n"  # We the6 We the
    assert sorted(run.parents[1].glob("artifacts/*/*")) == before
