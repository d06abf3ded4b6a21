"""How each resource is, in the words of Argo CD and Flux: one value per resource, from a plan and what is known beside it."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum

from forge.errors import printable
from forge.plan.action import Action, ActionKind, Plan
from forge.plan.reason import ReasonKind
from forge.plan.withdrawn import is_withdrawn

_LONGEST = 300
_SUSPENDED = "annotation forge/suspend"


class Health(StrEnum):
    """The state of a resource."""

    IN_SYNC = "in sync"
    """Nothing is to be done about it, and what serves it says the same."""
    PROGRESSING = "progressing"
    """Something is being done about it, or will be by the next pass."""
    DEGRADED = "degraded"
    """A step failed, a gate said no, it descends from something withdrawn, or what serves it is not what was released; the
    message says which."""
    SUSPENDED = "suspended"
    """The annotation forge/suspend holds it as it is."""


@dataclass(frozen=True)
class ResourceHealth:
    """One resource and how it is."""

    address: str
    health: Health
    message: str


def health_of(
    plan: Plan,
    suspended: AbstractSet[str] = frozenset(),
    failures: Mapping[str, str] | None = None,
    serving: Mapping[str, tuple[Health, str]] | None = None,
    resources: Iterable[str] = (),
) -> dict[str, ResourceHealth]:
    """The health of every resource, by address.

    Args:
        plan: made for the commit that the resources are in.
        suspended: addresses that the commit suspends.
        failures: step id -> why its last attempt failed, for steps that are not done since.
        serving: environment -> how its serving agent is, in words; one that is well, or that has no agent, is left out.
        resources: addresses of the commit's resources. One that the plan has no action for (a suite, a policy) has no step of
            its own, so nothing is ever to be done about it: what reads it says what follows from a change of it.
    """
    found: dict[str, ResourceHealth] = {}
    for action in plan.actions:
        verdict = _judge(action, suspended, failures or {}, serving or {})
        known = found.get(action.subject)
        if known is None or _RANK[verdict.health] > _RANK[known.health]:
            found[action.subject] = verdict
    for address in resources:
        if address not in found:
            is_suspended = address in suspended
            message = _SUSPENDED if is_suspended else ""
            found[address] = ResourceHealth(address, Health.SUSPENDED if is_suspended else Health.IN_SYNC, message)
    return found


def health_of_branch(name: str, trouble: str = "") -> ResourceHealth:
    """How following a branch goes: degraded, with the reason, where its newest commit could not be read or applied."""
    return ResourceHealth(f"Branch/{name}", Health.DEGRADED if trouble else Health.IN_SYNC, _line(trouble))


_RANK = {Health.IN_SYNC: 0, Health.PROGRESSING: 1, Health.SUSPENDED: 2, Health.DEGRADED: 3}


def _judge(
    action: Action,
    suspended: AbstractSet[str],
    failures: Mapping[str, str],
    serving: Mapping[str, tuple[Health, str]],
) -> ResourceHealth:
    subject = action.subject
    if action.id in failures and action.does_something:
        return ResourceHealth(subject, Health.DEGRADED, _line(f"{action.id} failed: {failures[action.id]}"))
    is_suspended = subject in suspended or any(reason.kind is ReasonKind.SUSPENDED for reason in action.reasons)
    if is_suspended and not is_withdrawn(action):  # lifting the suspension would not help
        return ResourceHealth(subject, Health.SUSPENDED, _SUSPENDED)
    why = _line("; ".join(str(reason) for reason in action.reasons))
    if action.kind is ActionKind.BLOCKED:
        waits = all(reason.kind is ReasonKind.WAITS for reason in action.reasons)
        health = Health.PROGRESSING if waits else Health.DEGRADED
        return ResourceHealth(subject, health, f"{action.id} is blocked: {why}")
    if action.does_something:
        return ResourceHealth(subject, Health.PROGRESSING, f"{action.id} is to {action.kind}: {why}")
    if action.environment is not None and action.environment in serving:
        health, message = serving[action.environment]
        return ResourceHealth(subject, health, _line(f"{action.environment}: {message}"))
    return ResourceHealth(subject, Health.IN_SYNC, "")


def _line(text: str) -> str:
    text = printable(" ".join(text.split()))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
