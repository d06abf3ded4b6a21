"""What differs between a step as it was recorded and as the commit asks for it now: fields with their meaning, and inputs."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from forge.contract.hyperparameters import Pick
from forge.contract.kinds import StepKind
from forge.plan.blame import Alike, same_field, same_in_policy
from forge.plan.differences import Part, differences, shown, written
from forge.plan.reason import Reason, ReasonKind
from forge.plan.step import Step
from forge.spec.deployment import DeploymentSpec
from forge.spec.extend import TRUNK
from forge.spec.meaning import Meaning, meaning_at
from forge.spec.resource import RESOURCE_TYPES, InferencePolicy
from forge.spec.sweep import SweepSpec
from forge.spec.trials import SWEEP, with_values

Brought = Callable[[Alike], str | None]
"""What counts as the same -> the commit that brought what is there now, as far as it can be told."""
_CHOSEN = "as its sweep chooses"


def changed_fields(step: Step, old: Mapping[str, Any], kind: ReasonKind, brought: Brought) -> Iterator[Reason]:
    """A reason for each field whose value differs, with what its declaration says that a change means, and who brought it."""
    for each in differences(_with_choices(old), _with_choices(step.parameters)):
        commit = brought(same_field(step, each.path))
        yield Reason(kind, written(each.path), *shown(each), _meaning(step, each.path), commit)


def _with_choices(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """A step's parameters; fields that a sweep chooses are none of a training's, and are not at their default either."""
    return with_values(parameters, dict.fromkeys(parameters[SWEEP], _CHOSEN)) if SWEEP in parameters else parameters


def changed_policy(old: bytes, new: bytes, brought: Brought) -> Iterator[Reason]:
    """A reason for each field that differs between two policies as a release holds them (``policy.json``)."""
    before, after = (json.loads(data)["spec"] for data in (old, new))
    for each in differences(before, after):
        meaning = meaning_at(InferencePolicy, ("spec", *_places(each.path)))
        commit = brought(same_in_policy(each.path))
        yield Reason(ReasonKind.FIELD_CHANGED, written(each.path), *shown(each), meaning, commit)


def changed_inputs(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[tuple[str, str | None, str | None]]:
    """(name, old digest, new digest) of each input that differs."""
    for name in sorted(set(old) | set(new)):
        if old.get(name) != new.get(name):
            yield name, old.get(name), new.get(name)


def _places(path: tuple[Part, ...]) -> tuple[str | int, ...]:
    """A path for whom an item is a place in a list, whoever it is."""
    return tuple(part if isinstance(part, str) else 0 for part in path)


def _meaning(step: Step, where: tuple[Part, ...]) -> Meaning | None:
    """The declared meaning of the spec field that a parameter comes from; None for one that is no field."""
    path = _places(where)
    if step.kind in (StepKind.GATE, StepKind.RELEASE):
        return meaning_at(DeploymentSpec, path)
    resource_type = RESOURCE_TYPES.get(step.subject.split("/", 1)[0])
    if step.kind is StepKind.EVALUATE:
        resource_type = RESOURCE_TYPES["EvalSuite"]
    if step.kind is StepKind.SWEEP and step.parameters["pick"] == Pick.WRITTEN:  # a value, of the field that it is named by
        return meaning_at(resource_type, ("spec", *(name for part in path[1:] for name in str(part).split("."))))
    if step.kind is StepKind.SWEEP:
        return meaning_at(SweepSpec, path if path[0] == "objective" else ("rounds", 0, *path))
    place = ("from",) if path[:1] == (TRUNK,) else path  # how a branch's first steps were taken, in the place of who took them
    return meaning_at(resource_type, ("spec", *place)) if resource_type else None
