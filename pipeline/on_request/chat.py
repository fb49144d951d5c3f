"""Stage chat, on request: a conversation with the student of a finished run, and with its teacher next to it."""

import logging
import sys
from dataclasses import dataclass, field

import torch
from litgpt import GPT
from rich.console import Console
from rich.text import Text

from pipeline.errors import SprigError
from pipeline.evaluation.sampling import continue_text
from pipeline.models import chat_template, checkpoint
from pipeline.models.chat_template import ChatTemplate, Message
from pipeline.models.tokenizer import Tokenizer
from pipeline.printable import printable
from pipeline.stages import distill
from pipeline.stages.context import Context, Steps

STAGE = "chat"
ASK, NEW, END = "you> ", "/new", "/exit"
HELLO = (
    f"{NEW} starts over, {END} or Ctrl-D ends. sample.tokens sets the length of answers and sample.temperature their "
    "randomness."
)

log = logging.getLogger("sprig")


@dataclass
class Conversation:
    """One model's side of it. Without a template the model continues the text of both, as it was pretrained to."""

    model: GPT
    tokenizer: Tokenizer
    template: ChatTemplate | None
    messages: list[Message] = field(default_factory=list)

    def answer(self, line: str, tokens: int, precision: str, temperature: float, generator: torch.Generator) -> str:
        """What the model answers, at most `tokens` long; the oldest turns are forgotten where the context is full."""
        self.messages.append({"role": "user", "content": line})
        prompt, room = self._prompt(), self.model.max_seq_length - tokens
        while len(prompt) > room and len(self.messages) > 1:
            del self.messages[:2]
            prompt = self._prompt()
        new = continue_text(
            self.model, prompt, tokens, self.tokenizer.eos_id, precision, temperature, generator, self._ends()
        )
        answer = self.tokenizer.decode(new)
        self.messages.append({"role": "assistant", "content": answer})
        return answer

    def _prompt(self) -> list[int]:
        if self.template is not None:
            return self.tokenizer.encode(self.template.render(self.messages))
        turns = zip(self.messages[::2], [*self.messages[1::2], None], strict=True)
        text = "\n".join(asked["content"] + (answer["content"] if answer else "") for asked, answer in turns)
        return self.tokenizer.encode(text)

    def _ends(self) -> list[int]:
        """Tokens that end an answer, though not a text."""
        found = self.tokenizer.special_numbers().get("eos_token_id", [])
        return found if isinstance(found, list) else [found]


def reads(context: Context) -> list[str]:
    """The roles of the steps that it reads."""
    return ["distilled_student", "teacher"]


def run(context: Context, steps: Steps) -> None:
    """Reads lines from standard input until it ends, and prints each model's answer.

    Raises:
        SprigError: the run has no finished student.
    """
    config = context.config
    trained = distill.trained(context, steps["distilled_student"])
    tokenizer = context.tokenizer(steps["teacher"].recipe)
    template = _usable(tokenizer)
    models = {
        "student": checkpoint.load(trained, context.device),
        "teacher": context.teacher(steps["teacher"].recipe, config.teacher),
    }
    sides = {name: Conversation(model, tokenizer, template) for name, model in models.items()}
    console, generator = Console(), torch.Generator().manual_seed(config.sample.seed)
    console.print(HELLO, highlight=False)
    while (line := _ask()) is not None:
        if line == NEW:
            for side in sides.values():
                side.messages.clear()
            continue
        for name, side in sides.items():
            try:
                answer = side.answer(
                    line, config.sample.tokens, context.precision, config.sample.temperature, generator
                )
            except KeyboardInterrupt:  # of this answer alone
                console.print(f"{name}> (interrupted)", highlight=False)
                del side.messages[-1:]
                break
            console.print(Text.assemble((f"{name}> ", "bold"), printable(answer)))


def _ask() -> str | None:
    """The next line that is not blank; None at the end."""
    while True:
        try:
            line = input(ASK).strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return None
        if not sys.stdin.isatty():
            print(line)  # a terminal shows what is typed
        if line == END:
            return None
        if line:
            return line


def _usable(tokenizer: Tokenizer) -> ChatTemplate | None:
    """The tokenizer's template, if it takes a plain question."""
    try:
        template = chat_template.of(tokenizer)
        if template is not None:
            template.render([{"role": "user", "content": "Hello"}])
    except SprigError as error:
        log.warning("%s The models continue your text instead.", error)
        return None
    if template is None:
        log.info("The tokenizer has no chat template: the models continue your text.")
    return template
