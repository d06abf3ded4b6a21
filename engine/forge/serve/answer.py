"""Answers: what the engine says, rebuilt for the caller field by field, with its text redacted.

Invariant: every character of text in an answer has passed the redactions, and no field is copied that is not named
here: log-probabilities, reasoning, tool calls and whatever a later engine adds carry text, and would be a way around.
An answer that does not look as an answer should is a fault of the engine and goes to nobody.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forge.serve.policy import Action
from forge.serve.redaction import CompiledRedaction, Counts, StreamRedactor, redact
from forge.serve.refusal import engine_fault

_FINISH_REASONS = ("stop", "length")


@dataclass(frozen=True)
class AnswerIdentity:
    """The fields of an answer that are the gateway's own."""

    id: str
    created: int
    """Seconds since the epoch."""
    model: str
    action: Action
    choices: int
    """``n`` of the request."""


@dataclass(frozen=True)
class Usage:
    """Tokens of a request, as the engine counted them."""

    prompt_tokens: int
    completion_tokens: int

    def to_json(self) -> dict[str, int]:
        """OpenAI's form."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


def whole_answer(
    payload: bytes, identity: AnswerIdentity, redactions: Sequence[CompiledRedaction]
) -> tuple[dict[str, Any], Usage, Counts]:
    """Rebuild an answer that came in one piece; raises RefusalError (502)."""
    answer = parse_engine_json(payload)
    found = answer.get("choices")
    if not isinstance(found, list) or len(found) != identity.choices:
        raise engine_fault("it has not the number of choices that was asked for")
    counts: Counts = {redaction.name: 0 for redaction in redactions}
    choices: dict[int, dict[str, Any]] = {}
    for choice in found:
        index = _index(choice, identity.choices)
        if index in choices:
            raise engine_fault("a choice stands twice")
        if identity.action is Action.CHAT:
            message = choice.get("message")
            if not isinstance(message, dict):
                raise engine_fault("a choice has no message")
            text, found_here = redact(_text(message.get("content")), redactions)
            content: dict[str, Any] = {"message": {"role": "assistant", "content": text}}
        else:
            text, found_here = redact(_text(choice.get("text")), redactions)
            content = {"text": text}
        for name, count in found_here.items():
            counts[name] += count
        finish_reason = _finish_reason(choice)
        if finish_reason is None:
            raise engine_fault("a choice has not ended")
        choices[index] = {"index": index, **content, "logprobs": None, "finish_reason": finish_reason}
    usage = _usage(answer)
    if usage is None:
        raise engine_fault("it does not count its tokens")
    kind = "chat.completion" if identity.action is Action.CHAT else "text_completion"
    body = _frame(identity, kind, [choices[index] for index in sorted(choices)])
    return {**body, "usage": usage.to_json()}, usage, counts


class StreamedAnswer:
    """Rebuilds an answer that comes in events; holds what each choice's redactor holds back."""

    def __init__(self, identity: AnswerIdentity, redactions: Sequence[CompiledRedaction]) -> None:
        self._identity = identity
        self._redactors = [StreamRedactor(redactions) for _ in range(identity.choices)]
        self._started: set[int] = set()
        self._ended: set[int] = set()
        self.usage: Usage | None = None

    @property
    def counts(self) -> Counts:
        """Matches replaced so far, over all choices."""
        totals: Counts = {}
        for redactor in self._redactors:
            for name, count in redactor.counts.items():
                totals[name] = totals.get(name, 0) + count
        return totals

    def feed(self, payload: bytes) -> Iterator[dict[str, Any]]:
        """Turn one event of the engine into the chunks that may leave now; raises RefusalError (502)."""
        event = parse_engine_json(payload)
        found = event.get("choices")
        if "error" in event or not isinstance(found, list):
            raise engine_fault("it broke off with an error")
        self.usage = _usage(event) or self.usage
        for choice in found:
            index = _index(choice, self._identity.choices)
            if index in self._ended:
                raise engine_fault("a choice went on after its end")
            if self._identity.action is Action.CHAT:
                delta = choice.get("delta")
                if not isinstance(delta, dict):
                    raise engine_fault("a choice has no delta")
                text = _text(delta.get("content"))
            else:
                text = _text(choice.get("text"))
            yield from self._chunks(index, text, _finish_reason(choice))

    def end(self) -> Usage:
        """The engine says that it is done; returns the usage, raises RefusalError (502) if it is not."""
        if len(self._ended) != self._identity.choices:
            raise engine_fault("it ended before its choices did")
        if self.usage is None:
            raise engine_fault("it does not count its tokens")
        return self.usage

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """The last chunk, for callers that asked for it."""
        return {**_frame(self._identity, self._kind, []), "usage": usage.to_json()}

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self._identity.action is Action.CHAT else "text_completion"

    def _chunks(self, index: int, text: str, finish_reason: str | None) -> Iterator[dict[str, Any]]:
        is_chat = self._identity.action is Action.CHAT
        if index not in self._started:
            self._started.add(index)
            if is_chat:
                yield self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, None)
        released = self._redactors[index].feed(text)
        if finish_reason is not None:
            released += self._redactors[index].finish()
        if released:
            yield self._chunk(index, {"delta": {"content": released}} if is_chat else {"text": released}, None)
        if finish_reason is not None:
            self._ended.add(index)
            yield self._chunk(index, {"delta": {}} if is_chat else {"text": ""}, finish_reason)

    def _chunk(self, index: int, content: Mapping[str, Any], finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": index, **content, "logprobs": None, "finish_reason": finish_reason}
        return _frame(self._identity, self._kind, [choice])


def parse_engine_json(payload: bytes) -> dict[str, Any]:
    """Read what the engine sent; raises RefusalError (502)."""
    try:
        value = json.loads(payload.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise engine_fault("it is not JSON") from error
    if not isinstance(value, dict):
        raise engine_fault("it is not a JSON object")
    return value


def _frame(identity: AnswerIdentity, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": identity.id,
        "object": kind,
        "created": identity.created,
        "model": identity.model,
        "choices": choices,
    }


def _index(choice: Any, choices: int) -> int:
    index = choice.get("index") if isinstance(choice, dict) else None
    if type(index) is not int or not 0 <= index < choices:
        raise engine_fault("a choice has no place among those that were asked for")
    return index


def _text(value: Any) -> str:
    """The text of a choice; absent where a chunk has none."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise engine_fault("a choice holds something other than text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise engine_fault("its text is not valid Unicode") from error
    return value


def _finish_reason(choice: Mapping[str, Any]) -> str | None:
    reason = choice.get("finish_reason")
    if reason is not None and reason not in _FINISH_REASONS:
        raise engine_fault("a choice ended for a reason that is not known")
    return reason


def _usage(answer: Mapping[str, Any]) -> Usage | None:
    usage = answer.get("usage")
    if usage is None:
        return None
    if not isinstance(usage, dict):
        raise engine_fault("its count of tokens is not one")
    return Usage(_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise engine_fault("its count of tokens is not one")
    return value
