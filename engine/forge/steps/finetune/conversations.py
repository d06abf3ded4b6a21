"""Conversations as files hold them: one JSON object a line, read strictly.

Rules; whatever breaks one is refused with its file and line:
1. An object has ``messages`` and at most an ``id`` beside it; a message has ``role`` and ``content``, both text, nothing else:
   a field that this reader does not know (tools, images) would be left out of the training without a word.
2. An optional ``system`` message comes first; then ``user`` and ``assistant`` in turns; the last message is the assistant's.
3. No content is empty or blank, and all of it can be written as UTF-8.

Contents are neutralised as documents are (``steps.control_tokens``): none can spell a token that separates turns.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

from forge.canonical import canonical_json
from forge.contract.control_tokens import neutralise
from forge.errors import StepError

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
        return [{"role": message.role, "content": message.content} for message in self.messages]


@dataclass(frozen=True)
class Split:
    """Conversations to learn from, and those to measure on."""

    train: Sequence[Conversation]
    validation: Sequence[Conversation]


def read_conversations(folder: Path) -> list[Conversation]:
    """All conversations of the input, in the order of files and lines; raises ``StepError`` at the first that is none."""
    found: list[Conversation] = []
    for path in sorted(folder.glob("*.jsonl")):
        found += _of_file(path)
    if not found:
        raise StepError(f"{folder}: holds no conversation; expected .jsonl files with one a line")
    return found


def split(conversations: Sequence[Conversation], validation_fraction: float) -> Split:
    """Part them by a hash of the messages: order, files and copies do not matter. Raises ``StepError`` for an empty part."""
    parts: tuple[list[Conversation], list[Conversation]] = ([], [])
    for conversation in conversations:
        digest = sha256(canonical_json(conversation.as_dicts())).digest()
        held_out = int.from_bytes(digest[: _BITS // 8], "big") / 2**_BITS < validation_fraction
        parts[held_out].append(conversation)
    for name, part in zip(("train", "validation"), parts, strict=True):
        if not part:
            raise StepError(
                f"none of {len(conversations)} conversations fell into the {name} split: change "
                "conversations.validation_fraction, or add conversations"
            )
    return Split(*parts)


def _of_file(path: Path) -> Iterator[Conversation]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _conversation(line, f"{path.name}:{number}")


def _conversation(line: bytes, place: str) -> Conversation:
    try:
        found = json.loads(line.decode(), object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:
        raise StepError(f"{place}: is not a JSON object in UTF-8: {error}") from error
    if not isinstance(found, dict):
        _refuse(place, f"expected a JSON object with `messages`, found {type(found).__name__}")
    unknown = sorted(found.keys() - {"messages", "id"})
    if unknown:
        _refuse(
            place, f"has the field {unknown[0]!r}; expected `messages` and at most `id`: what else it says would not be learnt"
        )
    messages = found.get("messages")
    if not isinstance(messages, list) or not messages:
        _refuse(place, "`messages` is no list of messages, or an empty one")
    read = [_message(each, f"{place}: message {number}") for number, each in enumerate(messages, 1)]
    _check_turns([message.role for message, _ in read], place)
    return Conversation(place, tuple(message for message, _ in read), sum(count for _, count in read))


def _message(value: Any, place: str) -> tuple[Message, int]:
    if not isinstance(value, dict) or value.keys() != {"role", "content"}:
        _refuse(place, f"expected {{role, content}}, found {_shown(value)}")
    role, content = value["role"], value["content"]
    if role not in _ROLES:
        _refuse(place, f"the role is {role!r}; expected one of {', '.join(_ROLES)}")
    if not isinstance(content, str) or not content.strip():
        _refuse(place, f"the content of the {role} is empty, or no text; expected text")
    try:
        content.encode()
    except UnicodeEncodeError:
        _refuse(place, "the content holds half of a surrogate pair, which is no character; write the file again as UTF-8")
    text, count = neutralise(content)
    return Message(role, text), count


def _check_turns(roles: Sequence[str], place: str) -> None:
    turns = roles[1:] if roles[0] == SYSTEM else roles
    if ASSISTANT not in turns:
        _refuse(place, "the assistant says nothing: there is no answer to learn")
    for number, role in enumerate(turns):
        expected = (USER, ASSISTANT)[number % 2]
        if role != expected:
            position = number + 1 + len(roles) - len(turns)
            _refuse(place, f"message {position} is the {role}'s, expected the {expected}'s: turns alternate, the user begins")
    if turns[-1] != ASSISTANT:
        _refuse(place, "the last message is the user's; expected the assistant's answer to it")


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is written twice")
    return found


def _shown(value: Any) -> str:
    return f"an object with {', '.join(sorted(value)) or 'no field'}" if isinstance(value, dict) else type(value).__name__


def _refuse(place: str, reason: str) -> NoReturn:
    raise StepError(f"{place}: {reason}")
