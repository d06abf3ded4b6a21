"""Sampling parameters: for each that a policy may allow, the check that its value has to pass.

The names are those of ``forge.spec.inference_policy.Parameter``, less the three that shape the answer rather than the
sampling (``n``, ``stream``, ``stream_options``; see forge.serve.request); the ranges are vLLM's. Values come back as new
values: nothing that was not looked at is passed on, except the inside of a JSON schema.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import re2

from forge.serve.refusal import bad_request

_MOST_CONSTRAINT_CHARACTERS = 16_384
_MOST_REGEX_CHARACTERS = 2_048
_MOST_REGEX_BYTES = 1 << 20
"""Memory for RE2's program: an expression that RE2 finds too big would keep the engine's compiler busy for minutes."""


def integer(name: str, value: Any, least: int, most: int) -> int:
    """A whole number in a range; ``true`` and ``1.0`` are none."""
    if type(value) is not int or not least <= value <= most:
        raise bad_request(f"{name}: expected a whole number from {least} to {most}", param=name)
    return value


def number(name: str, value: Any, least: float, most: float) -> float:
    """A number in a range."""
    if type(value) not in (int, float) or not least <= value <= most:
        raise bad_request(f"{name}: expected a number from {least:g} to {most:g}", param=name)
    return float(value)


def boolean(name: str, value: Any) -> bool:
    """``true`` or ``false``."""
    if not isinstance(value, bool):
        raise bad_request(f"{name}: expected true or false", param=name)
    return value


def text(name: str, value: Any, most: int) -> str:
    """Text up to a length in characters."""
    if not isinstance(value, str) or len(value) > most:
        raise bad_request(f"{name}: expected text of at most {most} characters", param=name)
    return value


def _stop(name: str, value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > 4 or not all(isinstance(stop, str) and stop for stop in stops):
        raise bad_request(f"{name}: expected text, or a list of at most 4 texts", param=name)
    return [text(name, stop, 256) for stop in stops]


def _logit_bias(name: str, value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or len(value) > 300 or not all(re.fullmatch(r"[0-9]{1,9}", key) for key in value):
        raise bad_request(f"{name}: expected at most 300 token ids with their bias", param=name)
    return {key: number(name, bias, -100, 100) for key, bias in value.items()}


def _structured_outputs(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) != 1 or not set(value) <= {"json", "regex", "choice"}:
        raise bad_request(f"{name}: expected an object with one of json, regex and choice", param=name)
    if "json" in value:
        return {"json": _schema(name, value["json"])}
    if "regex" in value:
        return {"regex": _regex(name, value["regex"])}
    choices = value["choice"]
    if not isinstance(choices, list) or not 1 <= len(choices) <= 256 or not all(isinstance(c, str) and c for c in choices):
        raise bad_request(f"{name}: choice is a list of 1 to 256 texts", param=name)
    if sum(map(len, choices)) > _MOST_CONSTRAINT_CHARACTERS:
        raise bad_request(f"{name}: at most {_MOST_CONSTRAINT_CHARACTERS} characters in all", param=name)
    return {"choice": list(choices)}


def _response_format(name: str, value: Any) -> dict[str, Any]:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in ("text", "json_object") and set(value) == {"type"}:
        return {"type": kind}
    inner = value.get("json_schema") if kind == "json_schema" and set(value) == {"type", "json_schema"} else None
    if not isinstance(inner, dict) or not {"name", "schema"} <= set(inner) <= {"name", "schema", "strict", "description"}:
        raise bad_request(
            f"{name}: expected type text, json_object, or json_schema with json_schema: {{name, schema}}", param=name
        )
    # The description is for the reader of the request; the engine does nothing with it.
    strict = {"strict": boolean(name, inner["strict"])} if inner.get("strict") is not None else {}
    schema = {"name": text(name, inner["name"], 64), "schema": _schema(name, inner["schema"]), **strict}
    return {"type": "json_schema", "json_schema": schema}


def _schema(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or len(json.dumps(value)) > _MOST_CONSTRAINT_CHARACTERS:
        raise bad_request(f"{name}: expected a JSON schema of at most {_MOST_CONSTRAINT_CHARACTERS} characters", param=name)
    return value


def _regex(name: str, value: Any) -> str:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MOST_REGEX_BYTES
    pattern = text(name, value, _MOST_REGEX_CHARACTERS)
    try:
        re2.compile(pattern, options)
    except re2.error as error:
        raise bad_request(f"{name}: the regex is not one that RE2 takes, or too large", param=name) from error
    return pattern


PARAMETERS: dict[str, Callable[[str, Any], Any]] = {
    "frequency_penalty": lambda name, value: number(name, value, -2, 2),
    "logit_bias": _logit_bias,
    "min_p": lambda name, value: number(name, value, 0, 1),
    "presence_penalty": lambda name, value: number(name, value, -2, 2),
    "repetition_penalty": lambda name, value: number(name, value, 0.01, 2),
    "response_format": _response_format,
    "seed": lambda name, value: integer(name, value, -(2**63), 2**63 - 1),
    "stop": _stop,
    "structured_outputs": _structured_outputs,
    "temperature": lambda name, value: number(name, value, 0, 2),
    "top_k": lambda name, value: integer(name, value, -1, 2**31 - 1),
    "top_p": lambda name, value: number(name, value, 0.0001, 1),
}
