"""InferencePolicy: who may ask what of a model, within which limits, and what is redacted from its answers.

Access decisions are Cedar policies over ``Role``, ``Action`` and ``Model``; limits and redactions are data. Cedar text
is checked against the schema below when the spec is read, and again by the gateway.
"""

import json
import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from forge.spec.fields import Name, Part, SecretRef
from forge.spec.meaning import RELOAD
from forge.spec.pattern import widest_match

MAX_MATCH_CHARACTERS = 256
"""Longest text that a redaction may match: a stream holds back as much, so no split hides a match."""

CEDAR_SCHEMA = """
entity Role;
entity Model;
type Request = { stream: Bool, max_tokens: Long, parameters: Set<String> };
action "chat", "complete" appliesTo { principal: Role, resource: Model, context: Request };
action "list-models" appliesTo { principal: Role, resource: Model, context: {} };
"""

_CEDAR_ROLE = re.compile(r'Role\s*::\s*"([^"]*)"')

Parameter = Literal[
    "frequency_penalty", "logit_bias", "min_p", "n", "presence_penalty", "repetition_penalty", "response_format",
    "seed", "stop", "stream", "stream_options", "structured_outputs", "temperature", "top_k", "top_p",
]  # fmt: skip
"""Request parameters that a role may be allowed; ``model``, ``messages``, ``prompt``, ``max_tokens``, ``user`` always are."""


class Limits(Part):
    """Bounds on one role's requests."""

    max_tokens: Annotated[int, Field(ge=1), RELOAD]
    """Most tokens of one answer; a request that asks for more is refused (400), one that names no number gets this."""
    requests_per_minute: Annotated[int, Field(ge=1), RELOAD]
    """Token bucket per key: this many at once, refilled at this rate; over it 429."""
    max_prompt_characters: Annotated[int, Field(ge=1), RELOAD] = 100_000
    max_temperature: Annotated[float, Field(ge=0, le=2), RELOAD] = 2.0
    max_n: Annotated[int, Field(ge=1, le=128), RELOAD] = 1
    """Most answers to one prompt."""


class RoleSpec(Part):
    """A group of callers, known by their keys."""

    name: Annotated[Name, RELOAD]
    keys: Annotated[list[SecretRef], RELOAD] = []
    """API keys by reference; a role without keys cannot call."""
    limits: Annotated[Limits, RELOAD]
    parameters: Annotated[list[Parameter], RELOAD] = [
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "stop",
        "seed",
    ]


class Redaction(Part):
    """A pattern whose matches never leave the gateway, streamed or not."""

    name: Annotated[Name, RELOAD]
    pattern: Annotated[str, Field(min_length=1), RELOAD]
    """RE2 syntax, with bounded repetition: ``[a-z]{1,64}`` rather than ``[a-z]+``; no anchors or word boundaries."""
    replacement: Annotated[str, Field(min_length=1), RELOAD]
    """Literal text. Not empty: the text on both sides would join, and might make a match anew."""

    @field_validator("pattern")
    @classmethod
    def _is_bounded(cls, pattern: str) -> str:
        import re2

        options = re2.Options()
        options.log_errors = False
        widest = widest_match(pattern)
        try:
            compiled = re2.compile(pattern, options)
        except re2.error as error:
            raise ValueError(f"not a valid RE2 pattern: {error}") from error
        if compiled.search("") is not None:
            raise ValueError("the pattern matches the empty text")
        if widest > MAX_MATCH_CHARACTERS:
            raise ValueError(
                f"the pattern may match more than {MAX_MATCH_CHARACTERS} characters: bound its repetitions, as in {{1,64}}"
            )
        return pattern


class InferencePolicySpec(Part):
    """The body of an InferencePolicy."""

    roles: Annotated[list[RoleSpec], Field(min_length=1), RELOAD]
    access: Annotated[str, Field(min_length=1), RELOAD]
    """Cedar policies; each with an ``@id`` annotation, which a refusal names. What no policy permits is denied."""
    redactions: Annotated[list[Redaction], RELOAD] = []

    @field_validator("access")
    @classmethod
    def _is_valid_cedar(cls, access: str) -> str:
        import cedarpy

        try:
            result = cedarpy.validate_policies(access, CEDAR_SCHEMA)
        except Exception as error:  # cedarpy raises bare ValueError and Exception for text it cannot parse
            raise ValueError(f"not valid Cedar: {error}") from error
        if not result.validation_passed:
            raise ValueError("not valid Cedar: " + "; ".join(str(error) for error in result.errors))
        parsed = json.loads(cedarpy.policies_to_json_str(access))
        if parsed["templates"]:
            raise ValueError("a Cedar template (?principal, ?resource) decides nothing here: write a policy")
        ids = [policy.get("annotations", {}).get("id") for policy in parsed["staticPolicies"].values()]
        if not all(ids) or len(set(ids)) != len(ids):
            raise ValueError('every Cedar policy carries an @id("..") of its own: a refusal names it')
        return access

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for what, names in (("role", [r.name for r in self.roles]), ("redaction", [r.name for r in self.redactions])):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what} {twice[0]!r} stands twice")
        known = {role.name for role in self.roles}
        unknown = sorted(set(_CEDAR_ROLE.findall(self.access)) - known)
        if unknown:
            raise ValueError(f"access names the role {unknown[0]!r}, which is not among the roles: {', '.join(sorted(known))}")
        keys = [key for role in self.roles for key in role.keys]
        if len(set(keys)) != len(keys):
            raise ValueError("a key stands under two roles, or twice under one")
        return self
