"""The chat template: messages -> text, which of it is learnt, and what the template is held to.

Rules; a template that breaks one is refused:
1. Each assistant's turn is one ``{% generation %}`` block, which holds the answer, nobody else's words, and at its end the
   token that ends it (eos): a model that never learns that token never stops.
2. Between the contents of two neighbouring messages stands at least one control token. Contents cannot spell those, so no
   turn can pass for somebody else's.
3. What is learnt follows exactly what serving asks with: the text of the messages before an answer, with the generation
   prompt, is what the whole text begins with.

The rules are checked once on messages whose contents cannot be confused with the template's own text, and rule 1 on every
conversation.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from forge.contract.control_tokens import OWN, ControlTokens
from forge.errors import StepError
from forge.steps.finetune.conversations import ASSISTANT, SYSTEM, USER

_MARK = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")
_PROBE = "forgeprobe{}x"


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, and the stretches (from, to) of it that are learnt."""

    text: str
    answers: tuple[tuple[int, int], ...]


class ChatTemplate:
    """A template that was held to the rules above."""

    def __init__(self, source: str, *, with_system: bool, subject: str, control: ControlTokens = OWN) -> None:
        self._source, self._subject, self._control = source, subject, control
        for roles in ([USER, ASSISTANT, USER, ASSISTANT], *([[SYSTEM, USER, ASSISTANT]] if with_system else ())):
            self._check(roles)

    def render(self, messages: Sequence[Mapping[str, str]], place: str) -> Rendered:
        """The text of a conversation; raises ``StepError`` where an answer is not, or not alone, marked as one."""
        text, answers = self._render(messages)
        said = [message["content"].strip() for message in messages if message["role"] == ASSISTANT]
        if len(answers) != len(said):
            self._refuse(f"{place}: {len(said)} answers became {len(answers)} generation blocks; expected one for each")
        for (first, last), answer in zip(answers, said, strict=True):
            if answer not in text[first:last] or not text[first:last].endswith(self._control.eos):
                self._refuse(
                    f"{place}: a generation block holds {text[first:last][:60]!r}; expected the answer {answer[:40]!r}, and "
                    f"{self._control.eos} (eos_token) at its end"
                )
        return Rendered(text, tuple(answers))

    def exported(self) -> str:
        """The template without its marks, which readers other than transformers do not know; it gives the same text."""
        return _MARK.sub(lambda mark: f"{{%{mark[1]} {'endif' if mark[2] else 'if true'} {mark[3]}%}}", self._source)

    def _check(self, roles: Sequence[str]) -> None:
        messages = [{"role": role, "content": _PROBE.format(number)} for number, role in enumerate(roles)]
        rendered = self.render(messages, "two questions" if SYSTEM not in roles else "a system's message")
        if self._render(messages, self.exported())[0] != rendered.text:
            self._refuse("without its generation marks it gives another text; set no variable inside a generation block")
        at = 0
        for number, message in enumerate(messages):
            found = rendered.text.find(message["content"], at)
            if found < 0 or rendered.text.count(message["content"]) != 1:
                self._refuse(f"the {message['role']}'s words do not stand in its text exactly once, in their order")
            if number and not any(token in rendered.text[at:found] for token in self._control.separators):
                before = messages[number - 1]["role"]
                self._refuse(
                    f"no control token stands between the {before}'s words and the {message['role']}'s: either could write the "
                    f"other's part; put {' or '.join(self._control.separators[:2])} there"
                )
            at = found + len(message["content"])
        answers = [number for number, role in enumerate(roles) if role == ASSISTANT]
        for number, (first, last) in zip(answers, rendered.answers, strict=True):
            if any(message["content"] in rendered.text[first:last] for message in messages[:number]):
                self._refuse("a generation block holds more than the assistant's words")
            prompt, _ = self._render(messages[:number], add_generation_prompt=True)
            if prompt != rendered.text[:first]:
                self._refuse(
                    f"it asks for an answer with {prompt[-40:]!r}, but what is learnt follows {rendered.text[:first][-40:]!r}; "
                    "write after `{% if add_generation_prompt %}` what stands before the generation block"
                )

    def _render(
        self, messages: Sequence[Mapping[str, str]], source: str | None = None, *, add_generation_prompt: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        bos = {} if self._control.bos is None else {"bos_token": self._control.bos}  # transformers leaves it undefined too
        options: dict[str, Any] = {
            **bos,
            "eos_token": self._control.eos,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            texts, indices = render_jinja_template(
                conversations=[list(messages)],
                chat_template=source or self._source,
                return_assistant_tokens_mask=source is None,
                **options,
            )
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise StepError(f"{self._subject}: chat_template cannot be rendered: {error}") from error
        return texts[0], [(int(first), int(last)) for first, last in indices[0]] if indices else []

    def _refuse(self, reason: str) -> None:
        raise StepError(f"{self._subject}: chat_template: {reason}")
