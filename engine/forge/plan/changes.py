"""What differs between a step as it was recorded and as the commit asks for it now: fields with their meaning, and inputs."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from forge.contract.kinds import StepKind
from forge.plan.graph import Step
from forge.plan.reason import Reason, ReasonKind
from forge.spec.deployment import DeploymentSpec
from forge.spec.extend import TRUNK
from forge.spec.meaning import Meaning, meaning_at
from forge.spec.resource import RESOURCE_TYPES, InferencePolicy

_ABSENT = object()
_LONGEST = 80


def changed_fields(step: Step, old: Mapping[str, Any], kind: ReasonKind) -> Iterator[Reason]:
    """A reason for each field whose value differs, with what its declaration says that a change means."""
    for path, before, after in _differences(old, step.parameters, ()):
        yield Reason(kind, _written(path), _shown(before), _shown(after), _meaning(step, path))


def changed_policy(old: bytes, new: bytes) -> Iterator[Reason]:
    """A reason for each field that differs between two policies as a release holds them (``policy.json``)."""
    before, after = (json.loads(data)["spec"] for data in (old, new))
    for path, was, now in _differences(before, after, ()):
        meaning = meaning_at(InferencePolicy, ("spec", *path))
        yield Reason(ReasonKind.FIELD_CHANGED, _written(path), _shown(was), _shown(now), meaning)


def changed_inputs(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[tuple[str, str | None, str | None]]:
    """(name, old digest, new digest) of each input that differs."""
    for name in sorted(set(old) | set(new)):
        if old.get(name) != new.get(name):
            yield name, old.get(name), new.get(name)


def _meaning(step: Step, path: tuple[str | int, ...]) -> Meaning | None:
    """The declared meaning of the spec field that a parameter comes from; None for one that is no field."""
    if step.kind in (StepKind.GATE, StepKind.RELEASE):
        return meaning_at(DeploymentSpec, path)
    resource_type = RESOURCE_TYPES.get(step.subject.split("/", 1)[0])
    if step.kind is StepKind.EVALUATE:
        resource_type = RESOURCE_TYPES["EvalSuite"]
    place = ("from",) if path[:1] == (TRUNK,) else path  # how a branch's first steps were taken, in the place of who took them
    return meaning_at(resource_type, ("spec", *place)) if resource_type else None


def _differences(old: Any, new: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any, Any]]:
    if old is _ABSENT and isinstance(new, Mapping) and new:
        old = {}
    elif new is _ABSENT and isinstance(old, Mapping) and old:
        new = {}
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(set(old) | set(new)):
            yield from _differences(old.get(name, _ABSENT), new.get(name, _ABSENT), (*path, name))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(before, after, (*path, index))
    elif old is _ABSENT or new is _ABSENT or old != new:
        yield path, old, new


def _written(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _shown(value: Any) -> str:
    text = "default" if value is _ABSENT else str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
