"""The decision: desired, recorded and live state -> ordered actions, each with its reason.

``make_plan`` is the one function that decides; ``forge plan`` shows what it returns and ``forge apply`` does it. An
action whose inputs do not exist yet is "decided after" the steps that make them: its key is not known, and it may turn
out that nothing has to be done (early cutoff).
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from forge.contract.kinds import StepKind
from forge.contract.record import Record, Release
from forge.errors import printable
from forge.plan.cost import NO_ESTIMATE, Estimate, estimate_from_history, estimate_training
from forge.plan.desired import Desired
from forge.plan.graph import FromCommit, FromStep, Step, build_graph, step_key, version_of
from forge.spec.resource import Model, Tokenizer


class ActionKind(StrEnum):
    """What will be done about a step."""

    RUN = "run"
    """The step runs; or, decided later, may run."""
    RELEASE = "release"
    """The environment's pointer moves to other weights."""
    RELOAD = "reload"
    """The pointer moves, the weights stay: serving picks up another policy or engine setting."""
    BLOCKED = "blocked"
    """A gate said NO-GO; nothing is released until its inputs or the gate change."""
    NOTHING = "nothing"
    """The record and its artifacts are there."""


class ReasonKind(StrEnum):
    """Why an action is in the plan."""

    CREATED = "created"
    """No step of this id was ever recorded."""
    FIELD_CHANGED = "field changed"
    """A field of the spec that shapes the products has another value."""
    INPUT_CHANGED = "input changed"
    """An input has another digest."""
    VERSION_CHANGED = "step version raised"
    """This engine makes other bytes of the same inputs."""
    ARTIFACT_MISSING = "artifact missing"
    """The step is recorded, but the store has lost a product."""
    UPSTREAM = "decided after"
    """An input is being made; whether it changes is known afterwards."""
    GATE = "gate says NO-GO"
    """A threshold is not met."""
    POINTER = "release pointer"
    """The environment serves something else, or nothing yet."""
    IN_SYNC = "in sync"
    """Nothing to do."""


@dataclass(frozen=True)
class Reason:
    """One reason; ``detail`` names the field, input or step."""

    kind: ReasonKind
    detail: str = ""

    def __str__(self) -> str:
        separator = " " if self.kind is ReasonKind.UPSTREAM else ": "
        return f"{self.kind}{separator}{self.detail}" if self.detail else str(self.kind)


@dataclass(frozen=True)
class Action:
    """What happens to one step."""

    kind: ActionKind
    step: Step
    reasons: tuple[Reason, ...]
    key: str | None
    """None while an input is not known."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Input name -> artifact digest, when the key is known."""
    products: Mapping[str, str] = field(default_factory=dict)
    """Product name -> artifact digest, when recorded."""
    estimate: Estimate = NO_ESTIMATE
    supersedes: str | None = None
    """Key's earlier record, when it is made again."""


@dataclass(frozen=True)
class Plan:
    """The ordered actions for one commit."""

    commit: str | None
    currency: str
    actions: tuple[Action, ...]

    @property
    def changes(self) -> tuple[Action, ...]:
        """The actions that do something."""
        return tuple(action for action in self.actions if action.kind not in (ActionKind.NOTHING, ActionKind.BLOCKED))

    @property
    def blocked(self) -> tuple[Action, ...]:
        """The releases that a gate holds back."""
        return tuple(action for action in self.actions if action.kind is ActionKind.BLOCKED)


class Recorded(Protocol):
    """The ledger, as far as planning asks; an immutable view of one ledger head."""

    def record(self, key: str) -> Record | None:
        """The authoritative record of a key."""
        ...

    def latest(self, step_id: str) -> Record | None:
        """The newest record under a step id."""
        ...

    def release(self, environment: str) -> Release | None:
        """What an environment's pointer names."""
        ...


def make_plan(desired: Desired, recorded: Recorded, stored: AbstractSet[str], target: frozenset[str] = frozenset()) -> Plan:
    """Decide; ``stored`` holds the digests of the artifacts in the store.

    With ``target`` (addresses) only the steps of those resources and what they need are planned.
    """
    graph = build_graph(desired)
    chosen = _with_needs(graph, target) if target else set(graph)
    actions: dict[str, Action] = {}
    for step_id, step in graph.items():
        if step_id in chosen:
            actions[step_id] = _decide(step, actions, desired, recorded, stored)
    return Plan(desired.commit, desired.settings.currency, tuple(actions.values()))


def _with_needs(graph: Mapping[str, Step], target: frozenset[str]) -> set[str]:
    pending = [step.id for step in graph.values() if step.subject in target]
    chosen: set[str] = set()
    while pending:
        step_id = pending.pop()
        if step_id not in chosen:
            chosen.add(step_id)
            pending.extend(item.step_id for item in graph[step_id].inputs.values() if isinstance(item, FromStep))
    return chosen


def _decide(
    step: Step, actions: Mapping[str, Action], desired: Desired, recorded: Recorded, stored: AbstractSet[str]
) -> Action:
    latest = recorded.latest(step.id)
    estimate = _estimate(step, desired, latest)
    inputs, undecided = _resolve_inputs(step, actions)
    gate = actions.get(f"{StepKind.GATE}/{step.name}") if step.kind is StepKind.RELEASE else None
    if gate is not None and gate.kind is ActionKind.NOTHING:
        verdict = recorded.record(gate.key or "")
        if verdict is not None and verdict.metrics.get("verdict") != "GO":
            failed = str(verdict.metrics.get("failed", ""))
            return Action(ActionKind.BLOCKED, step, (Reason(ReasonKind.GATE, failed),), None)
    if undecided:
        reason = Reason(ReasonKind.UPSTREAM, ", ".join(undecided))
        kind = ActionKind.RELEASE if step.kind is StepKind.RELEASE else ActionKind.RUN
        return Action(kind, step, (reason,), None, estimate=estimate)
    key = step_key(step.kind, version_of(step.kind), step.parameters, inputs)
    record = recorded.record(key)
    if record is None:
        reasons = tuple(_differences(step, inputs, latest)) or (Reason(ReasonKind.CREATED),)
        kind = _release_kind(step, inputs, recorded) if step.kind is StepKind.RELEASE else ActionKind.RUN
        return Action(kind, step, reasons, key, inputs, estimate=estimate)
    missing = [name for name, digest in record.products.items() if digest not in stored]
    if missing:
        reasons = tuple(Reason(ReasonKind.ARTIFACT_MISSING, f"{name} {record.products[name]}") for name in missing)
        return Action(ActionKind.RUN, step, reasons, key, inputs, estimate=estimate, supersedes=key)
    if step.kind is StepKind.RELEASE:
        pointer = recorded.release(str(step.parameters["environment"]))
        if pointer is None or pointer.release != record.products["release"]:
            serves = pointer.release if pointer else "nothing"
            reason = Reason(ReasonKind.POINTER, f"{step.parameters['environment']} serves {serves}")
            return Action(_release_kind(step, inputs, recorded), step, (reason,), key, inputs, record.products, estimate)
    return Action(ActionKind.NOTHING, step, (Reason(ReasonKind.IN_SYNC),), key, inputs, record.products)


def _resolve_inputs(step: Step, actions: Mapping[str, Action]) -> tuple[dict[str, str], list[str]]:
    """Digests of the inputs that are known, and the ids of the steps that the others wait for."""
    inputs: dict[str, str] = {}
    undecided: list[str] = []
    for name, source in step.inputs.items():
        if isinstance(source, FromCommit):
            inputs[name] = source.bundle.manifest.digest
            continue
        upstream = actions[source.step_id]
        if upstream.kind is ActionKind.NOTHING:
            inputs[name] = upstream.products[source.product]
        elif source.step_id not in undecided:
            undecided.append(source.step_id)
    return inputs, undecided


def _release_kind(step: Step, inputs: Mapping[str, str], recorded: Recorded) -> ActionKind:
    pointer = recorded.release(str(step.parameters["environment"]))
    current = recorded.record(pointer.key) if pointer else None
    return ActionKind.RELOAD if current and current.inputs["weights"] == inputs["weights"] else ActionKind.RELEASE


def _differences(step: Step, inputs: Mapping[str, str], latest: Record | None) -> Iterator[Reason]:
    if latest is None:
        return
    for path, old, new in _changed_fields(latest.parameters, step.parameters):
        yield Reason(ReasonKind.FIELD_CHANGED, f"{path}: {_shown(old)} -> {_shown(new)}")
    for name in sorted(set(inputs) | set(latest.inputs)):
        old_digest, new_digest = latest.inputs.get(name), inputs.get(name)
        if old_digest != new_digest:
            source = step.inputs.get(name)
            by = source.step_id if isinstance(source, FromStep) else source.address if source else "removed"
            yield Reason(ReasonKind.INPUT_CHANGED, f"{name} ({by})")
    if latest.step_version != version_of(step.kind):
        yield Reason(ReasonKind.VERSION_CHANGED, f"{latest.step_version} -> {version_of(step.kind)}")


_ABSENT = object()


def _changed_fields(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(set(old) | set(new)):
            yield from _changed_fields(old.get(name, _ABSENT), new.get(name, _ABSENT), f"{path}.{name}" if path else name)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _changed_fields(before, after, f"{path}[{index}]")
    elif old is _ABSENT or new is _ABSENT or old != new:
        yield path, old, new


def _shown(value: Any) -> str:
    text = "default" if value is _ABSENT else printable(str(value))
    return text if len(text) <= 80 else text[:77] + "..."


def _estimate(step: Step, desired: Desired, latest: Record | None) -> Estimate:
    if step.kind is not StepKind.TRAIN:
        return estimate_from_history(latest)
    model = desired.resources[step.subject]
    if not isinstance(model, Model):
        raise TypeError(f"{step.subject} is no Model")
    tokenizer = desired.resources[model.spec.tokenizer]
    if not isinstance(tokenizer, Tokenizer):
        raise TypeError(f"{model.spec.tokenizer} is no Tokenizer")
    return estimate_training(model.spec, tokenizer.spec.vocab_size, desired.settings)
