"""Preferences, as the lines of files hold them: a prompt, and which of two answers to it is preferred.

Rules; whatever breaks one is refused with its file and line:
1. An object has ``prompt`` (messages as a conversation has them, whose last word is the user's), ``chosen`` and ``rejected``
   (text), and at most an ``id``.
2. No answer is empty or blank, and the two differ by more than blanks at their ends.
3. No pair stands twice: it would count twice without saying so.
4. What is preferred has no circle: where A is preferred to B, and B to C, nobody says that C is preferred to A. Such pairs
   pull against each other for ever, and cannot all be right.

All pairs of one prompt are held out or none, so that no prompt that is learnt from is measured on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from forge.canonical import canonical_json
from forge.contract.control_tokens import OWN, ControlTokens
from forge.errors import StepError
from forge.steps.finetune.conversations import (
    ASSISTANT,
    USER,
    Conversation,
    Message,
    as_dicts,
    check_parts,
    is_held_out,
    read_content,
    read_messages,
)
from forge.steps.finetune.lines import read_objects, refuse


@dataclass(frozen=True)
class Preference:
    """Two conversations that differ in their last word, the assistant's."""

    place: str
    """``FILE:LINE``."""
    chosen: Conversation
    rejected: Conversation

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What both answer."""
        return self.chosen.messages[:-1]

    @property
    def neutralised(self) -> int:
        """Spellings of control tokens that were made harmless."""
        return self.chosen.neutralised + self.rejected.neutralised


@dataclass(frozen=True)
class Split:
    """Preferences to learn from, and those to measure on."""

    train: Sequence[Preference]
    validation: Sequence[Preference]


def read_preferences(folder: Path, sources: Mapping[str, str] | None = None, control: ControlTokens = OWN) -> list[Preference]:
    """All preferences of the input, in the order of files and lines; raises ``StepError`` at the first that is none."""
    fields = ["prompt", "chosen", "rejected"]
    found = [_preference(line, place, control) for place, line in read_objects(folder, sources or {}, fields)]
    if not found:
        raise StepError(f"{folder}: holds no preference; expected .jsonl files with one a line")
    check_agreement(found)
    return found


def split(preferences: Sequence[Preference], validation_fraction: float) -> Split:
    """Part them by a hash of the prompt. Raises ``StepError`` for an empty part."""
    parts: tuple[list[Preference], list[Preference]] = ([], [])
    for preference in preferences:
        parts[is_held_out(preference.prompt, validation_fraction)].append(preference)
    check_parts(parts[0], parts[1], "preferences")
    return Split(*parts)


@dataclass
class _Order:
    """What was said of the answers to one prompt, without a circle: for each, those that it is preferred to, and where."""

    better: dict[str, dict[str, str]] = field(default_factory=dict)

    def way(self, first: str, last: str) -> list[str] | None:
        """The places of a chain of preferences from one answer down to another; None where there is none."""
        came: dict[str, tuple[str, str]] = {}
        pending = [first]
        while pending:
            at = pending.pop()
            for worse, place in self.better.get(at, {}).items():
                if worse not in came:
                    came[worse] = (at, place)
                    pending.append(worse)
        places: list[str] = []
        at = last
        while at in came:
            at, place = came[at]
            places.append(place)
        return places[::-1] or None


def check_agreement(preferences: Sequence[Preference]) -> None:
    """Raise ``StepError`` where a pair stands twice, or contradicts those before it."""
    orders: dict[bytes, _Order] = {}
    for each in preferences:
        order = orders.setdefault(sha256(canonical_json(as_dicts(each.prompt))).digest(), _Order())
        chosen, rejected = (answer.messages[-1].content.strip() for answer in (each.chosen, each.rejected))
        known = order.better.setdefault(chosen, {})
        if rejected in known:
            refuse(each.place, f"the pair stands already in {known[rejected]}, and would count twice; remove one of them")
        against = order.way(rejected, chosen)
        if against is not None:
            refuse(
                each.place,
                f"contradicts {', '.join(against)}: there, of the same prompt, the answer that is rejected here is preferred "
                "to the one that is chosen here; remove whichever is wrong",
            )
        known[rejected] = each.place


def _preference(line: Mapping[str, Any], place: str, control: ControlTokens) -> Preference:
    prompt, count = read_messages(line["prompt"], place, "prompt", control)
    if prompt[-1].role != USER:
        refuse(place, f"the prompt's last message is the {prompt[-1].role}'s; expected the user's, which both answers follow")
    (chosen, first), (rejected, second) = (
        read_content(line[name], place, f"{name} answer", control) for name in ("chosen", "rejected")
    )
    if chosen.strip() == rejected.strip():
        refuse(place, "chosen and rejected are the same text: there is nothing to prefer; change one, or remove the line")
    return Preference(
        place,
        Conversation(place, (*prompt, Message(ASSISTANT, chosen)), count + first),
        Conversation(place, (*prompt, Message(ASSISTANT, rejected)), second),
    )
