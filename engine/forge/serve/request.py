"""Requests: read strictly, and written anew for the engine.

Invariant: the engine never sees a byte that was not put there by name. A body is parsed into a GenerationRequest, every
field by its own check, and ``engine_body`` writes a new one from it. A field that is not known, given twice, of another
type or out of its range is refused: an engine that reads a field which the gateway ignored is a way around the policy.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from forge.contract.control_tokens import ControlTokens
from forge.serve.policy import Action
from forge.serve.refusal import bad_request
from forge.serve.sampling import PARAMETERS, boolean, integer, text

MOST_BODY_BYTES = 1_000_000
_MOST_MESSAGES = 1_000
_ROLES = ("system", "user", "assistant")
_COMMON = ("model", "max_tokens", "max_completion_tokens", "user")


@dataclass(frozen=True)
class GenerationRequest:
    """A well-formed request; whether it is allowed is another matter."""

    action: Action
    model: str
    messages: tuple[tuple[str, str], ...] = ()
    """Chat: role and content of each message."""
    prompt: str = ""
    """Completion: the text to continue."""
    max_tokens: int | None = None
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Sampling parameters, checked."""
    named: frozenset[str] = frozenset()
    """Every parameter that the request gives and a role has to be allowed."""

    @property
    def prompt_field(self) -> str:
        """What the request calls its prompt."""
        return "messages" if self.action is Action.CHAT else "prompt"

    @property
    def prompt_characters(self) -> int:
        """Length of all text that the caller sent for the model."""
        return len(self.prompt) + sum(len(content) for _, content in self.messages)


def parse_request(body: bytes, action: Action) -> GenerationRequest:
    """Read a body; raises RefusalError (400) that names the field."""
    fields = _parse_json(body)
    prompt_field = "messages" if action is Action.CHAT else "prompt"
    for name in fields:
        if name not in PARAMETERS and name not in _COMMON and name not in {prompt_field, "stream", "stream_options", "n"}:
            raise bad_request(f"unknown parameter {name[:64]!r}", code="unknown_parameter", param=name[:64])
    given = {name: value for name, value in fields.items() if value is not None}
    if "model" not in given:
        raise bad_request("model is missing", param="model")
    if prompt_field not in given:
        raise bad_request(f"{prompt_field} is missing", param=prompt_field)
    if "max_tokens" in given and "max_completion_tokens" in given:
        raise bad_request("max_tokens and max_completion_tokens are one thing: give one", param="max_tokens")
    if "user" in given:
        text("user", given["user"], 256)  # accepted, for its senders' sake, and dropped
    stream = boolean("stream", given.get("stream", False))
    most = given.get("max_tokens", given.get("max_completion_tokens"))
    return GenerationRequest(
        action=action,
        model=text("model", given["model"], 256),
        messages=_messages(given["messages"]) if action is Action.CHAT else (),
        prompt=text("prompt", given["prompt"], MOST_BODY_BYTES) if action is Action.COMPLETE else "",
        max_tokens=None if most is None else integer("max_tokens", most, 1, 2**31),
        n=integer("n", given.get("n", 1), 1, 128),
        stream=stream,
        include_usage=_include_usage(given["stream_options"], stream=stream) if "stream_options" in given else False,
        parameters={name: PARAMETERS[name](name, value) for name, value in given.items() if name in PARAMETERS},
        named=frozenset(name for name in given if name in PARAMETERS or name in {"stream", "stream_options", "n"}),
    )


def engine_body(request: GenerationRequest, *, max_tokens: int, temperature: float, control_tokens: ControlTokens) -> bytes:
    """The request as the engine gets it: written field by field; usage is always asked for, because it is audited.

    Control tokens that the caller's text spells are made harmless, as they were in training: else a message could end itself
    and begin another one in the name of another role.
    """
    body: dict[str, Any] = {
        **request.parameters,
        "model": request.model,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "n": request.n,
        "stream": request.stream,
    }
    if request.stream:
        body["stream_options"] = {"include_usage": True}
    if request.action is Action.CHAT:
        harmless = ((role, control_tokens.neutralise(content)[0]) for role, content in request.messages)
        body["messages"] = [{"role": role, "content": content} for role, content in harmless]
    else:
        body["prompt"] = control_tokens.neutralise(request.prompt)[0]
    return json.dumps(body, allow_nan=False).encode()


def _parse_json(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(
            body.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant, parse_float=_finite
        )
        json.dumps(fields, ensure_ascii=False).encode("utf-8")
    except UnicodeError as error:
        raise bad_request("the body is not valid Unicode text in UTF-8", code="invalid_json") from error
    except (ValueError, RecursionError) as error:
        # Only our own messages and the parser's kind of fault: the parser's text may quote the body.
        detail = str(error) if isinstance(error, _JsonError) else "not valid JSON"
        raise bad_request(f"the body cannot be read: {detail}", code="invalid_json") from error
    if not isinstance(fields, dict):
        raise bad_request("the body is not a JSON object", code="invalid_json")
    return fields


class _JsonError(ValueError):
    """JSON that Python would take and we do not."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise _JsonError(f"the key {name[:64]!r} stands twice")
        result[name] = value
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise _JsonError(f"{name} is not JSON")


def _finite(literal: str) -> float:
    number = float(literal)
    if not math.isfinite(number):
        raise _JsonError("a number is too large")
    return number


def _messages(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MOST_MESSAGES:
        raise bad_request(f"messages: expected a list of 1 to {_MOST_MESSAGES} messages", param="messages")
    return tuple(_message(f"messages[{index}]", item) for index, item in enumerate(value))


def _message(place: str, value: Any) -> tuple[str, str]:
    if not isinstance(value, dict) or set(value) != {"role", "content"}:
        raise bad_request(f"{place}: expected an object with role and content and nothing else", param="messages")
    if value["role"] not in _ROLES:
        raise bad_request(f"{place}: role is one of {', '.join(_ROLES)}", param="messages")
    if not isinstance(value["content"], str):
        raise bad_request(f"{place}: content is text; parts and other types are not supported", param="messages")
    return value["role"], value["content"]


def _include_usage(value: Any, *, stream: bool) -> bool:
    if not stream:
        raise bad_request("stream_options goes with stream: true", param="stream_options")
    if not isinstance(value, dict) or not set(value) <= {"include_usage"}:
        raise bad_request("stream_options: only include_usage is supported", param="stream_options")
    return boolean("stream_options", value.get("include_usage", False))
