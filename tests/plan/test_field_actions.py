"""Every field of every kind: change it, plan against what was recorded before, and the plan does what the field declares.

The table of fields and of other values is that of test_field_meanings, which compares keys; here the whole plan is made.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tests.plan import test_field_meanings as table
from tests.plan.test_field_meanings import CHANGES, CONTINUED, FIELDS, MOVES_STEPS, OWN_STEP, PREFERRED, PRETRAINED, TUNED
from tests.plan.world import World

from forge.canonical import digest_of_json
from forge.errors import printable
from forge.plan.action import Action, ActionKind, Plan
from forge.plan.approvals import Given
from forge.plan.desired import Desired
from forge.plan.graph import build_graph
from forge.plan.live import Live
from forge.plan.reason import Reason, ReasonKind
from forge.plan.step import key_of
from forge.spec.meaning import EXTEND, GOVERN, NONE, REBUILD

ALIKE = {
    ("DataRecipe", "spec.sources[].path"),
    ("Model", PRETRAINED + "training.intra_document_masking"),
    *(("Model", f"{body}base{{ModelBase}}.model") for body in (CONTINUED, TUNED, PREFERRED)),
}
"""With the other value, everything that the step is made of is what another resource has: nothing is made."""

INPUTS = {
    ("EvalSuite", "spec.include"): "tasks",
    ("Tokenizer", "spec.data"): "documents",
    ("Model", TUNED + "conversations.path"): "conversations",
    ("Model", PREFERRED + "preferences.path"): "preferences",
    ("Model", TUNED + "base{FolderBase}.path"): "base",
    ("Model", PREFERRED + "base{FolderBase}.path"): "base",
}
"""Fields that enter a step by the bytes of what they name: the input whose digest is another."""

KINDS = {
    "curate": ActionKind.RUN,
    "tokenizer": ActionKind.RUN,
    "train": ActionKind.RUN,
    "evaluate": ActionKind.RE_EVALUATE,
    "gate": ActionKind.RE_EVALUATE,
    "release": ActionKind.RELOAD,
}
AMOUNTS = {"k": 1_000, "M": 1_000_000}
every_field = pytest.mark.parametrize(
    ("kind", "path"),
    sorted(set(FIELDS) - table.ONE_VALUE - {(kind, "metadata.name") for kind in table.RESOURCE_TYPES}),
)


@dataclass
class Approved(World):
    """A world in which people approve every release that waits for them, and the store keeps policies."""

    given: dict[str, tuple[Given, ...]] = field(default_factory=dict)
    policies: dict[str, bytes] = field(default_factory=dict)

    @property
    def live(self) -> Live:
        return replace(super().live, approvals=dict(self.given), policy=self.policies.get)

    def approved_plan(self, desired: Desired) -> Plan:
        """The plan once every release that could be approved is."""
        for action in self.plan(desired).blocked:
            if any(reason.kind is ReasonKind.APPROVAL for reason in action.reasons):
                environment = action.reasons[0].subject.split(" ")[0].removeprefix("release/")
                about = f"release/{environment}", action.inputs["weights"], action.inputs["verdict"]
                release = key_of(build_graph(desired)[action.id], action.inputs)
                approval = Given(*about, "ben", f"sha256:{'e' * 64}", release=release)
                self.given[environment] = (*self.given.get(environment, ()), approval)
        return self.plan(desired)


def applied(desired: Desired) -> Approved:
    """A world in which everything that a commit asks for is recorded."""
    world = Approved(signed_charter=digest_of_json(desired.charter) if desired.charter else None)
    for (_, name), bundle in desired.bundles.items():
        if name == "policy":
            world.policies[bundle.digest] = bundle.files["file"].inline or b""
    for _ in range(20):
        plan = world.approved_plan(desired)
        if not plan.changes:
            return world
        for action in plan.changes:
            if action.key is not None or action.step is None:
                world.finish(desired, action)
    raise AssertionError("it is never in sync")


BRANCHES = {
    PRETRAINED + "from.step": (ActionKind.EXTEND, "trunk[0].steps", "1", "2"),
    PRETRAINED + "from.model": (ActionKind.RUN, "trunk[0].optimizer.lr", "0.001", "0.002"),
}
"""How a branch is made anew, and for what: another step from a checkpoint on the way, another model's way from its start."""


@every_field
def test_the_plan_does_what_a_changed_field_declares_and_says_why(kind: str, path: str) -> None:
    value = table.SAME_FOR_ALL[path] if path in table.SAME_FOR_ALL else CHANGES[kind][path]
    before, after = table.changed(kind, path, value)
    world = applied(before)
    plan = world.approved_plan(replace(after, commit="d" * 40))
    actions = {action.id: action for action in plan.actions}
    meaning = FIELDS[kind, path]
    assert plan.refusals == ()
    if path == "metadata.protect":
        (action,) = plan.changes
        assert (action.kind, action.id) == (ActionKind.PROTECT, f"{kind}/a")
        assert action.reasons == (Reason(ReasonKind.PROTECTION_CHANGED, "", "not protected", "protected"),)
    elif kind == "Withdrawals" and meaning is GOVERN:
        assert {action.kind for action in plan.changes} == {ActionKind.WITHDRAW}
        assert {action.id for action in plan.blocked} == ({"train/c"} if path.endswith("subject") else set())
    elif meaning in (NONE, GOVERN):
        assert plan.changes == plan.blocked == ()
    elif (kind, path) in ALIKE:
        (own,) = (name.replace("/a", f"/{table.name_at(path)}", 1) for name in OWN_STEP[kind, meaning])
        assert not actions[own].does_something
    elif kind == "Sweep" and path not in ("spec.objective.suite", table.ROUND + "trials"):
        expect_chosen([actions[name] for name in MOVES_STEPS[kind, path]], path)
    elif (kind, path) in MOVES_STEPS:
        for name in MOVES_STEPS[kind, path] & set(actions):
            expect_moved(actions[name], name not in build_graph(before))
    else:
        (own,) = (name.replace("/a", f"/{table.name_at(path)}", 1) for name in OWN_STEP[kind, meaning])
        expect_own(actions[own], kind, path, value)
        left = {f"environment/{before.resources['Deployment/a'].spec.environment}"} if path == "spec.environment" else set()
        for action in plan.changes:
            assert action.id in {own, *left} or only_waits(action)
        assert left <= {action.id for action in plan.changes}


def expect_own(action: Action, kind: str, path: str, value: Any) -> None:
    """The step that the field belongs to is done, in the way that its meaning says, and the reason names field and values."""
    meaning = FIELDS[kind, path]
    if path in BRANCHES:  # named by how the shared steps are taken, in the place of whose they are
        (reason,) = [reason for reason in action.reasons if reason.kind is ReasonKind.FIELD_CHANGED]
        assert (action.kind, reason.subject, reason.old, reason.new) == BRANCHES[path]
        assert reason.meaning is REBUILD
        return
    moved = (kind, path) == ("Deployment", "spec.environment")  # a reload there, and the first release here
    assert action.kind is (
        ActionKind.EXTEND
        if meaning is EXTEND and path.startswith((PRETRAINED, CONTINUED))
        else ActionKind.RELEASE
        if moved
        else KINDS[action.id.split("/", 1)[0]]
    )
    if (kind, path) in INPUTS:
        names = [reason.subject.split(" ")[0] for reason in action.reasons if reason.kind is ReasonKind.INPUT_CHANGED]
        assert INPUTS[kind, path] in names
        return
    field_changed = ReasonKind.GATE_CHANGED if action.id.startswith("gate/") else ReasonKind.FIELD_CHANGED
    (reason,) = [
        reason
        for reason in action.reasons
        if reason.kind is field_changed and re.sub(r"\[[^\]]*\]", "", reason.subject) == as_written(path)
    ]
    assert reason.meaning is meaning
    assert reason.old != reason.new
    assert reason.new == "default" or isinstance(value, list | dict) or same(reason.new, value)
    assert f"{field_changed}: {reason.subject}: {printable(reason.old or 'nothing')} -> " in str(reason)
    assert str(reason).endswith(f"-> {printable(reason.new or 'nothing')} ({meaning})")


def expect_chosen(found: list[Action], path: str) -> None:
    """Of the steps of a search, those that nothing is to come before name the field; the others wait for them."""
    name, meaning = as_written(path).removeprefix("rounds.").replace("space.", "space.training.optimizer.lr."), REBUILD
    if name == "trial":  # it sets that field of the model for the trials, none of which goes on from an earlier one
        name, meaning = "training.tokens", EXTEND
    told = 0
    for action in found:
        if not only_waits(action):
            reason = next(reason for reason in action.reasons if re.sub(r"\[[^\]]*\]", "", reason.subject) == name)
            assert (action.kind, reason.kind, reason.meaning) == (ActionKind.RUN, ReasonKind.FIELD_CHANGED, meaning)
            assert reason.old != reason.new
            told += 1
    assert told > 0


def as_written(path: str) -> str:
    """``spec{PretrainSpec}.training.schedule{WsdSchedule}.name`` -> ``training.schedule.name``."""
    return re.sub(r"\{\w+\}|\[\*?\]", "", path).removeprefix("spec.")


def same(told: str | None, value: Any) -> bool:
    """Whether a reason gives the value that was written, as people write it (2M) or as it is normalised."""
    text = str(value).removeprefix("InferencePolicy/")
    amount = re.fullmatch(r"([0-9]+)([kM])", text)
    if amount:
        text = str(int(amount[1]) * AMOUNTS[amount[2]])
    try:
        return told == text or float(told or "") == float(text)
    except ValueError:
        return False


def only_waits(action: Action) -> bool:
    return all(reason.kind is ReasonKind.UPSTREAM for reason in action.reasons)


def expect_moved(action: Action, is_new: bool) -> None:
    """A step that a reference brought is new, or was made before; one that reads from another says so, or waits for it."""
    found = {reason.kind for reason in action.reasons}
    new = {ReasonKind.CREATED, ReasonKind.INPUT_CHANGED, ReasonKind.UPSTREAM, ReasonKind.MADE_ELSEWHERE}
    old = {
        ReasonKind.FIELD_CHANGED,
        ReasonKind.INPUT_CHANGED,
        ReasonKind.UPSTREAM,
        ReasonKind.MADE_ELSEWHERE,
        ReasonKind.IN_SYNC,
    }
    assert found <= (new if is_new else old), action
