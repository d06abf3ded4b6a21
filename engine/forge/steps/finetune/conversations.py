"""Conversations, as the lines of files hold them.

Rules; whatever breaks one is refused with its file and line:
1. An object has ``messages`` and at most an ``id`` beside it; a message has ``role`` and ``content``, both text, nothing else:
   a field that this reader does not know (tools, images) would be left out of the training without a word.
2. An optional ``system`` message comes first; then ``user`` and ``assistant`` in turns; the last message is the assistant's.
3. No content is empty or blank, and all of it can be written as UTF-8.

Contents are neutralised as documents are (``steps.control_tokens``): none can spell a token that separates turns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from forge.canonical import canonical_json
from forge.contract.control_tokens import OWN, ControlTokens
from forge.errors import StepError
from forge.steps.finetune.lines import read_objects, refuse

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
_ROLES = (SYSTEM, USER, ASSISTANT)
_BITS = 64


@dataclass(frozen=True)
class Message:
    """One turn."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """Checked messages, and where they stand."""

    place: str
    """``FILE:LINE``."""
    messages: tuple[Message, ...]
    neutralised: int
    """Spellings of control tokens that were made harmless."""

    def as_dicts(self) -> list[dict[str, str]]:
        """The messages as chat templates take them."""
        return as_dicts(self.messages)


@dataclass(frozen=True)
class Split:
    """Conversations to learn from, and those to measure on."""

    train: Sequence[Conversation]
    validation: Sequence[Conversation]


def as_dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as chat templates take them."""
    return [{"role": message.role, "content": message.content} for message in messages]


def read_conversations(
    folder: Path, sources: Mapping[str, str] | None = None, control: ControlTokens = OWN
) -> list[Conversation]:
    """All conversations of the input, in the order of files and lines; raises ``StepError`` at the first that is none."""
    found = [_conversation(line, place, control) for place, line in read_objects(folder, sources or {}, ["messages"])]
    if not found:
        raise StepError(f"{folder}: holds no conversation; expected .jsonl files with one a line")
    return found


def split(conversations: Sequence[Conversation], validation_fraction: float) -> Split:
    """Part them by a hash of the messages: order, files and copies do not matter. Raises ``StepError`` for an empty part."""
    parts: tuple[list[Conversation], list[Conversation]] = ([], [])
    for conversation in conversations:
        parts[is_held_out(conversation.messages, validation_fraction)].append(conversation)
    check_parts(parts[0], parts[1], "conversations")
    return Split(*parts)


def is_held_out(messages: Sequence[Message], validation_fraction: float) -> bool:
    """By a hash of the messages: equal ones never stand on both sides."""
    digest = sha256(canonical_json(as_dicts(messages))).digest()
    place = int.from_bytes(digest[: _BITS // 8], "big") / 2**_BITS
    return bool(place < validation_fraction)


def check_parts(train: Sequence[Any], validation: Sequence[Any], what: str) -> None:
    """Raise ``StepError`` where there is nothing to learn from, or nothing to measure on."""
    for name, part in (("train", train), ("validation", validation)):
        if not part:
            raise StepError(
                f"none of {len(train) + len(validation)} {what} fell into the {name} split: change "
                f"{what}.validation_fraction, or add {what}"
            )


def read_messages(value: Any, place: str, name: str, control: ControlTokens) -> tuple[list[Message], int]:
    """Checked messages in turns, and how many spellings of control tokens were made harmless; raises ``StepError``."""
    if not isinstance(value, list) or not value:
        refuse(place, f"`{name}` is no list of messages, or an empty one")
    read = [_message(each, f"{place}: message {number}", control) for number, each in enumerate(value, 1)]
    messages = [message for message, _ in read]
    _check_turns([message.role for message in messages], place)
    return messages, sum(count for _, count in read)


def read_content(value: Any, place: str, whose: str, control: ControlTokens) -> tuple[str, int]:
    """Text without control tokens, and how many spellings of them were made harmless; raises ``StepError``."""
    if not isinstance(value, str) or not value.strip():
        refuse(place, f"the content of the {whose} is empty, or no text; expected text")
    try:
        value.encode()
    except UnicodeEncodeError:
        refuse(place, "the content holds half of a surrogate pair, which is no character; write the file again as UTF-8")
    return control.neutralise(value)


def _conversation(line: Mapping[str, Any], place: str, control: ControlTokens) -> Conversation:
    messages, neutralised = read_messages(line["messages"], place, "messages", control)
    if all(message.role != ASSISTANT for message in messages):
        refuse(place, "the assistant says nothing: there is no answer to learn")
    if messages[-1].role != ASSISTANT:
        refuse(place, "the last message is the user's; expected the assistant's answer to it")
    return Conversation(place, tuple(messages), neutralised)


def _message(value: Any, place: str, control: ControlTokens) -> tuple[Message, int]:
    if not isinstance(value, dict) or value.keys() != {"role", "content"}:
        refuse(place, f"expected {{role, content}}, found {_shown(value)}")
    role = value["role"]
    if role not in _ROLES:
        refuse(place, f"the role is {role!r}; expected one of {', '.join(_ROLES)}")
    text, count = read_content(value["content"], place, role, control)
    return Message(role, text), count


def _check_turns(roles: Sequence[str], place: str) -> None:
    turns = roles[1:] if roles[0] == SYSTEM else roles
    for number, role in enumerate(turns):
        expected = (USER, ASSISTANT)[number % 2]
        if role != expected:
            position = number + 1 + len(roles) - len(turns)
            refuse(place, f"message {position} is the {role}'s, expected the {expected}'s: turns alternate, the user begins")


def _shown(value: Any) -> str:
    return f"an object with {', '.join(sorted(value)) or 'no field'}" if isinstance(value, dict) else type(value).__name__
