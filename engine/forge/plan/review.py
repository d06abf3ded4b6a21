"""What a reviewer should see without reading every action: who may ask what, which data, which gate, which limits changed.

A plan says what will be done; a change may matter although little is done about it (a licence) or although the plan's words
do not show how (a redaction that is gone is one of many reloads). So both commits are compared field by field here, for those
fields alone that somebody answers for. Pure; values in, findings out.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from forge.contract.kinds import StepKind
from forge.plan.action import ActionKind, Plan, Withdraw
from forge.plan.bases import estimate_model, flops_of_base
from forge.plan.desired import Desired
from forge.plan.reason import ReasonKind
from forge.plan.withdrawn import is_withdrawn
from forge.spec.base import FolderBase
from forge.spec.compiled import read_facts
from forge.spec.data_recipe import DataRecipeSpec
from forge.spec.inference_policy import Redaction, RoleSpec
from forge.spec.model import BasedSpec, PretrainSpec
from forge.spec.resource import DataRecipe, Deployment, InferencePolicy, Model, Resource
from forge.spec.tuning import CommittedChats, TunedSpec, chats_of

_Kind = TypeVar("_Kind")


class FindingKind(StrEnum):
    """What a finding is about; a program may rely on these words."""

    BLOCKED = "blocked"
    """A gate, a protection or a suspension holds something back."""
    WITHDRAWN = "withdrawn"
    """Something may no longer be used or served, or may again."""
    STOPS_SERVING = "stops serving"
    """An environment will serve nothing any more."""
    FROM_SCRATCH = "not continued"
    """A training with another budget of tokens starts from the beginning, and why."""
    PROTECTION = "protection"
    """A resource is protected from now on, or no longer."""
    SUSPENSION = "suspension"
    """A resource is paused from now on, or no longer."""
    SOURCE = "data source"
    """A source of training data comes or goes."""
    LICENSE = "licence or origin"
    """A source stays and is said to stand under another licence, or to come from elsewhere."""
    BASE = "base model"
    """A model begins with other weights, or those in the repository come from elsewhere or stand under another licence."""
    PERSONAL_DATA = "personal data"
    """What is removed from the documents of a recipe, or from conversations or preferences, changes."""
    RESIDENCY = "residency"
    """The regions where data may be change."""
    DECONTAMINATION = "decontamination"
    """A recipe, or conversations or preferences, are cleaned of a suite from now on, or no longer."""
    ACCESS = "access policy"
    """The Cedar rules, or the roles that they speak of, change."""
    REDACTION = "redaction"
    """What is kept out of answers changes."""
    SERVED = "served under"
    """A deployment serves another model, under another policy, or another environment."""
    GATE = "gate"
    """A bound that a model has to keep before it is released changes."""
    SETTING = "forge.toml"
    """A setting of the place: a budget, a price, where ledger and store lie."""


@dataclass(frozen=True)
class Finding:
    """One thing to look at; all texts may be what a stranger wrote."""

    kind: FindingKind
    subject: str
    """The address of a resource, a step id, or a key of forge.toml."""
    detail: str = ""
    old: str | None = None
    new: str | None = None


@dataclass(frozen=True)
class Compute:
    """A training of the plan, and the operations of the whole run, what an earlier run of the step did of it included."""

    step_id: str
    flops: float | None
    """None: cannot be told, because the architecture lies in a folder of the repository."""
    base: str | None = None
    """The model or the folder that is continued; None for a training from random weights."""
    base_flops: float | None = None
    """Of all that the base was trained with; None where it cannot be told."""

    @property
    def whole(self) -> float | None:
        """Operations of the model as a whole, those of its base included; None where they cannot be told."""
        if self.base is None or self.flops is None:
            return self.flops
        return None if self.base_flops is None else self.base_flops + self.flops


@dataclass(frozen=True)
class Review:
    """What stands above the actions."""

    findings: tuple[Finding, ...] = ()
    compute: tuple[Compute, ...] = ()
    """The largest first."""
    notes: tuple[str, ...] = ()
    """How the plan came about, where that is not the usual way."""


def review(
    plan: Plan,
    desired: Desired,
    base: Desired | None = None,
    changed: AbstractSet[str] | None = None,
    notes: tuple[str, ...] = (),
) -> Review:
    """Judge a plan.

    Args:
        plan: made for ``desired``.
        desired: the commit.
        base: the commit that the change is held against; None: only the plan itself is judged.
        changed: paths that differ between the two commits, where they are known: other specs are not read.
        notes: passed on.
    """
    findings = list(_of_plan(plan))
    if base is not None:
        findings.extend(_of_resources(desired, base, changed))
        findings.extend(_of_settings(desired, base))
    return Review(tuple(findings), tuple(_compute(plan, desired)), notes)


def _of_plan(plan: Plan) -> Iterator[Finding]:
    told = {action.withdraw.subject for action in plan.actions if action.withdraw is not None}
    for action in plan.actions:
        why = "; ".join(str(reason) for reason in action.reasons)
        if action.withdraw is not None:
            yield _of_withdrawal(action.withdraw, plan)
        elif is_withdrawn(action) and action.reasons[0].subject in told:
            continue  # counted with what is withdrawn
        elif action.kind is ActionKind.BLOCKED and any(reason.kind is not ReasonKind.WAITS for reason in action.reasons):
            yield Finding(FindingKind.BLOCKED, action.id, why)
        elif action.kind is ActionKind.RETIRE and action.environment is not None:
            yield Finding(FindingKind.STOPS_SERVING, action.id, f"environment {action.environment}")
        for reason in action.reasons:
            if reason.kind is ReasonKind.FROM_SCRATCH:
                yield Finding(FindingKind.FROM_SCRATCH, action.id, reason.subject)


def _of_withdrawal(item: Withdraw, plan: Plan) -> Finding:
    if item.lifted:
        return Finding(FindingKind.WITHDRAWN, item.subject, "no longer", item.reason)
    held = [action for action in plan.actions if is_withdrawn(action)]
    held = [action for action in held if any(reason.subject == item.subject for reason in action.reasons)]
    environments = sorted({action.environment for action in held if action.environment is not None})
    what = {"stop": "stops serving", "refuse": "is not started again"}[item.serving]
    reaches = f"holds back {len(held)} steps" if held else "nothing in this commit descends from it"
    serves = "".join(f"; {name} {what}" for name in environments)
    return Finding(FindingKind.WITHDRAWN, item.subject, f"{reaches}{serves}", None, item.reason)


def _compute(plan: Plan, desired: Desired) -> list[Compute]:
    found = []
    for action in plan.changes:
        model = desired.resources[action.subject] if action.step is StepKind.TRAIN else None
        if not isinstance(model, Model):
            continue
        rest = action.continues is not None  # of a run that goes on, an action has what is left; of a trial, its own tokens
        whole = estimate_model(model, desired.resources, desired.settings) if rest else action.estimate
        base, before = _base(model.spec), flops_of_base(model, desired.resources, desired.settings)
        found.append(Compute(action.id, whole.flops, base, before))
    return sorted(found, key=lambda item: (-(item.whole or item.flops or math.inf), item.step_id))


def _base(spec: PretrainSpec | BasedSpec) -> str | None:
    """What a model continues, in words."""
    if isinstance(spec, PretrainSpec):
        return None
    return f"the folder {spec.base.path}" if isinstance(spec.base, FolderBase) else spec.base.model


def _base_terms(model: Model | None) -> str | None:
    """What a model continues, and under which terms that stands."""
    base = model.spec.base if model is not None and isinstance(model.spec, BasedSpec) else None
    return f"{base.path}: {base.license}, {base.origin}" if isinstance(base, FolderBase) else base.model if base else None


def _chats(model: Model | None) -> CommittedChats | None:
    return chats_of(model.spec)[1] if model is not None and isinstance(model.spec, TunedSpec) else None


def _chat_terms(model: Model | None) -> dict[str, str]:
    """What a model learns to answer from, by its field, and under which terms that stands."""
    if model is None or not isinstance(model.spec, TunedSpec):
        return {}
    name, found = chats_of(model.spec)
    return {name: f"{found.path}: {found.license}, {found.origin}"}


def _of_resources(desired: Desired, base: Desired, changed: AbstractSet[str] | None) -> Iterator[Finding]:
    heirs = {previous: address for address, previous in desired.previous.items() if address not in base.compiled}
    was_protected = {heirs.get(address, address) for address in base.protected}
    for kind, now, before in (
        (FindingKind.PROTECTION, desired.protected, was_protected & desired.compiled.keys()),  # what left stays protected
        (FindingKind.SUSPENSION, desired.suspended, {heirs.get(address, address) for address in base.suspended}),
    ):
        for address in sorted(now ^ before):
            yield Finding(kind, address, "from now on" if address in now else "no longer")
    for address in sorted({*desired.compiled, *base.compiled}):
        path, earlier_path = desired.origins.get(address), base.origins.get(address)
        if changed is not None and path is not None and path == earlier_path and path not in changed:
            continue
        new = desired.resources[address] if address in desired.compiled else None
        old = base.resources[address] if address in base.compiled else None
        if new != old:
            yield from _of_resource(address, new, old, desired)


def _of_resource(address: str, new: Resource | None, old: Resource | None, desired: Desired) -> Iterator[Finding]:
    if isinstance(new or old, DataRecipe):
        yield from _of_data(address, _checked(new, DataRecipe), _checked(old, DataRecipe))
    elif isinstance(new or old, Model):
        was, is_now = _base_terms(_checked(old, Model)), _base_terms(_checked(new, Model))
        if was != is_now:
            yield Finding(FindingKind.BASE, address, "", was, is_now)
        earlier, later = _chat_terms(_checked(old, Model)), _chat_terms(_checked(new, Model))
        for name in sorted(earlier.keys() | later.keys()):
            if earlier.get(name) != later.get(name):
                yield Finding(FindingKind.SOURCE, address, name, earlier.get(name), later.get(name))
        yield from _of_cleaning(address, _chats(_checked(new, Model)), _chats(_checked(old, Model)))
    elif isinstance(new, InferencePolicy):
        yield from _of_policy(address, new, _checked(old, InferencePolicy), desired)
    elif isinstance(new, Deployment):
        yield from _of_deployment(address, new, _checked(old, Deployment))


def _checked(resource: Resource | None, kind: type[_Kind]) -> _Kind | None:
    return resource if isinstance(resource, kind) else None


def _of_data(address: str, new: DataRecipe | None, old: DataRecipe | None) -> Iterator[Finding]:
    now, before = ({source.place: source for source in item.spec.sources} if item else {} for item in (new, old))
    for path in sorted({*now, *before}):
        here, there = now.get(path), before.get(path)
        if here is None or there is None:
            source = here or there
            terms = f"{path}: {source.license}, {source.origin}" if source else path
            yield Finding(
                FindingKind.SOURCE, address, "added" if here else "removed", None if here else terms, terms if here else None
            )
        else:
            for word, was, is_now in (("licence", there.license, here.license), ("origin", there.origin, here.origin)):
                if was != is_now:
                    yield Finding(FindingKind.LICENSE, address, f"{word} of {path}", was, is_now)
    if new is not None and old is not None:
        allowed, allows = ({"allow_licenses": item.spec.allow_licenses} for item in (old, new))
        yield from _fields(FindingKind.LICENSE, address, allowed, allows)
        regions, may_be = ({"regions": item.spec.allowed_regions} for item in (old, new))
        yield from _fields(FindingKind.RESIDENCY, address, regions, may_be)
        yield from _of_cleaning(address, new.spec, old.spec)


def _of_cleaning(
    address: str, new: DataRecipeSpec | CommittedChats | None, old: DataRecipeSpec | CommittedChats | None
) -> Iterator[Finding]:
    """Personal data that is replaced, and suites that something is cleaned of."""
    if new is None or old is None:
        return
    yield from _fields(FindingKind.PERSONAL_DATA, address, old.pii.model_dump(), new.pii.model_dump())
    for suite in sorted({*new.decontaminate_against} ^ {*old.decontaminate_against}):
        is_new = suite in new.decontaminate_against
        yield Finding(FindingKind.DECONTAMINATION, address, f"{'from now on' if is_new else 'no longer'} cleaned of {suite}")


def _of_policy(address: str, new: InferencePolicy, old: InferencePolicy | None, desired: Desired) -> Iterator[Finding]:
    deployments = (read_facts(item.facts) for item in desired.compiled.values() if item.kind == "Deployment")
    serves = sorted(facts["environment"] for facts in deployments if facts["policy"] == address)
    where = f"serves {', '.join(serves)}" if serves else "serves no environment"
    if old is None:
        yield Finding(FindingKind.ACCESS, address, f"new; {where}")
        return
    if new.spec.access != old.spec.access:
        yield Finding(FindingKind.ACCESS, address, f"rules changed; {where}", old.spec.access, new.spec.access)
    roles = [_by_name(item.spec.roles) for item in (old, new)]
    yield from _named(FindingKind.ACCESS, address, "role", roles, where)
    redactions = [_by_name(item.spec.redactions) for item in (old, new)]
    yield from _named(FindingKind.REDACTION, address, "redaction", redactions, where)


def _by_name(parts: Sequence[RoleSpec] | Sequence[Redaction]) -> dict[str, dict[str, Any]]:
    return {part.name: part.model_dump() for part in parts}


def _named(
    kind: FindingKind, address: str, word: str, both: Sequence[Mapping[str, dict[str, Any]]], where: str
) -> Iterator[Finding]:
    """Parts of a policy that come, go or change."""
    before, now = both
    for name in sorted({*now, *before}):
        if name in before and name in now:
            yield from _fields(kind, address, before[name], now[name], f"{word} {name}: ")
        else:
            yield Finding(kind, address, f"{word} {name} {'added' if name in now else 'removed'}; {where}")


def _of_deployment(address: str, new: Deployment, old: Deployment | None) -> Iterator[Finding]:
    if old is None:
        yield Finding(FindingKind.SERVED, address, f"new: environment {new.spec.environment}", None, _served(new))
        return
    if (new.spec.environment, _served(new)) != (old.spec.environment, _served(old)):
        places = [f"{_served(item)} in {item.spec.environment}" for item in (old, new)]
        yield Finding(FindingKind.SERVED, address, "", *places)
    yield from _fields(FindingKind.GATE, address, _bounds(old), _bounds(new))


def _served(deployment: Deployment) -> str:
    return f"{deployment.spec.model} under {deployment.spec.policy}"


def _bounds(deployment: Deployment) -> dict[str, Any]:
    bounds: dict[str, Any] = {}
    for gate in deployment.spec.gates:
        for bound in gate.thresholds:
            words = f"at least {bound.min}" if bound.min is not None else f"at most {bound.max}"
            name = f"{gate.suite} {bound.task} {bound.metric}"
            bounds[name] = f"{bounds[name]}, {words}" if name in bounds else words
    return bounds


def _of_settings(desired: Desired, base: Desired) -> Iterator[Finding]:
    now, before = _flat(desired.settings.model_dump()), _flat(base.settings.model_dump())
    for name in sorted({*now, *before}):
        if now.get(name) != before.get(name):
            yield Finding(FindingKind.SETTING, name, "", _text(before.get(name)), _text(now.get(name)))


def _fields(
    kind: FindingKind, address: str, old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[Finding]:
    before, now = _flat(old), _flat(new)
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            yield Finding(kind, address, prefix + name, _text(before.get(name)), _text(now.get(name)))


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value})
    return flat


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
