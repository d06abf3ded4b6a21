"""Access decisions: an InferencePolicy's Cedar text, compiled once and asked per request.

Invariant: it fails closed. A request is allowed only if a permit matched, no forbid did, and every policy could be
evaluated. The last is our own rule: Cedar skips a ``forbid`` that meets a missing attribute and may then say Allow, with
the error only in the diagnostics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import cedarpy

from forge.errors import ServeError
from forge.spec.inference_policy import InferencePolicySpec

ContextValue = bool | int | Sequence[str]


class Action(StrEnum):
    """What a caller may ask to do; the names are those of the Cedar schema in forge.spec.inference_policy."""

    CHAT = "chat"
    """POST /v1/chat/completions"""
    COMPLETE = "complete"
    """POST /v1/completions"""
    LIST_MODELS = "list-models"
    """GET /v1/models"""


@dataclass(frozen=True)
class Decision:
    """The answer to one question, and what it rests on."""

    allowed: bool
    policies: tuple[str, ...]
    """``@id`` of the policies that decided: the permits of an allowed request, the forbids of a refused one."""
    errors: tuple[str, ...] = ()
    """Why a policy could not be evaluated; any is a denial."""


class AccessPolicy:
    """A compiled policy; immutable, shared by all requests."""

    def __init__(self, name: str, spec: InferencePolicySpec) -> None:
        self.name = name
        try:
            self._policies = cedarpy.PolicySet.from_str(spec.access)
        except ValueError as error:
            raise ServeError(f"InferencePolicy/{name}: not valid Cedar: {error}") from error
        self._entities = cedarpy.Entities.from_json_str("[]")

    def decide(self, role: str, action: str, model: str, context: Mapping[str, ContextValue]) -> Decision:
        """May this role do this to this model? Any error on the way is a denial."""
        question = {
            "principal": {"type": "Role", "id": role},
            "action": {"type": "Action", "id": action},
            "resource": {"type": "Model", "id": model},
            "context": {key: list(value) if isinstance(value, tuple) else value for key, value in context.items()},
        }
        try:
            result = cedarpy.is_authorized(question, self._policies, self._entities)
            names = result.diagnostics.id_annotations_by_reason
            policies = tuple(sorted(names.get(reason) or reason for reason in result.diagnostics.reasons))
            errors = tuple(str(error) for error in result.diagnostics.errors)
            allowed = bool(result.allowed)
        except Exception as error:  # noqa: BLE001 (cedarpy raises bare Exception; whatever went wrong, the answer is no)
            return Decision(allowed=False, policies=(), errors=(f"{type(error).__name__}: {error}",))
        return Decision(allowed=allowed and not errors and bool(policies), policies=policies, errors=errors)

    def explain(self, decision: Decision, role: str, action: str) -> str:
        """Why a decision is a denial, in one line that names the policy."""
        subject = f"InferencePolicy/{self.name}"
        if decision.errors:
            return f"{subject}: a policy cannot be evaluated, so {action} is denied to role {role!r}"
        if decision.policies:
            return f"{subject}: policy {', '.join(map(repr, decision.policies))} forbids {action} to role {role!r}"
        return f"{subject}: no policy permits {action} to role {role!r}"
