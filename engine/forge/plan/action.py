"""The plan as a value: ordered actions with reasons and cost. Plain data, so that it is printed, saved, compared and read back.

An action names its step by id; what the step is made of stands in the graph (``graph.build_graph``) of the same commit.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from enum import StrEnum

from forge.contract.kinds import StepKind
from forge.plan.cost import NO_ESTIMATE, Estimate
from forge.plan.reason import Reason


class ActionKind(StrEnum):
    """What will be done about a step or a resource."""

    RUN = "run"
    """The step runs; or, decided later, may run."""
    EXTEND = "extend"
    """The step runs from a checkpoint of an earlier run, and gives the same bytes as from the start."""
    RE_EVALUATE = "re-evaluate"
    """An evaluation or a gate is done again; nothing is trained."""
    RELEASE = "release"
    """The environment's pointer moves to other weights."""
    RELOAD = "reload"
    """The pointer moves, the weights stay: serving picks up another policy or engine setting."""
    ROLL_BACK = "roll back"
    """The pointer moves back to a release that the environment served before; nothing is made."""
    RETIRE = "retire"
    """The resource has left the commit, or a deployment serves another environment: the ledger notes it, and the environment
    that it served serves nothing more. Nothing is deleted."""
    PROTECT = "protect"
    """The ledger notes that the resource is protected, or no longer is."""
    RENAME = "rename"
    """The ledger notes that the resource has another name: history, artifacts and protection stay its own."""
    WITHDRAW = "withdraw"
    """The ledger notes, signed, that something is withdrawn, or no longer is."""
    REUSE = "reuse"
    """What the step would make is there, made under another name; nothing is done."""
    BLOCKED = "blocked"
    """Something holds the action back; the reason says what, and what would lift it."""
    NOTHING = "nothing"
    """The record and its artifacts are there."""


IDLE = frozenset({ActionKind.NOTHING, ActionKind.REUSE, ActionKind.BLOCKED})
"""Kinds under which nothing is done."""

SETTLED = frozenset({ActionKind.NOTHING, ActionKind.REUSE})
"""Kinds under which a step's products are there to be read."""


@dataclass(frozen=True)
class Continuation:
    """The run that an extension goes on from."""

    key: str
    """Its step key."""
    checkpoint: str | None
    """Digest of the checkpoint's artifact; None where that run is not recorded: then its newest on this machine is taken."""


@dataclass(frozen=True)
class Withdraw:
    """What the ledger is to note of something withdrawn."""

    subject: str
    reason: str
    serving: str
    """``stop`` or ``refuse``."""
    lifted: bool


@dataclass(frozen=True)
class Action:
    """What happens to one step, or to one resource."""

    kind: ActionKind
    id: str
    """``KIND/NAME`` of a step; for ``retire`` and ``protect`` the address of the resource; ``withdraw/SUBJECT``;
    ``rename/ADDRESS``; ``environment/NAME`` for one that no deployment serves any more."""
    subject: str
    """Address of the resource that the step belongs to."""
    reasons: tuple[Reason, ...]
    step: StepKind | None = None
    """None for an action about a resource."""
    key: str | None = None
    """None while an input is not known."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Input name -> artifact digest, when the key is known."""
    products: Mapping[str, str] = field(default_factory=dict)
    """Product name -> artifact digest, when recorded."""
    estimate: Estimate = NO_ESTIMATE
    again: bool = False
    """The key is recorded and is made once more: the new record supersedes the earlier one."""
    continues: Continuation | None = None
    replaces: str | None = None
    """Key of a run in flight under the same step id, which is asked to stop first."""
    environment: str | None = None
    """Of a release, and of the retirement of a deployment."""
    approvals: tuple[str, ...] = ()
    """Of a release: digests of the ledger's approvals that it rests on."""
    protect: bool | None = None
    """Of ``protect``: what the ledger is to note."""
    withdraw: Withdraw | None = None
    """Of ``withdraw``."""

    @property
    def does_something(self) -> bool:
        """Whether applying the plan acts on it."""
        return self.kind not in IDLE


@dataclass(frozen=True)
class Plan:
    """The ordered actions for one commit."""

    commit: str | None
    currency: str
    actions: tuple[Action, ...]
    refusals: tuple[str, ...] = ()
    """Why the plan may not be applied (a budget); empty when it may."""
    approvals: int = 0
    """How many people have to approve the plan itself before it is applied."""
    num_unlisted: int = 0
    """Steps that are in sync and not among the actions, because it took no plan to tell."""
    num_reused: int = 0
    """How many of them are so because something else made the same."""
    base: str | None = None
    """A commit whose own plan was left out of this one: then it is for reading only."""

    @property
    def changes(self) -> tuple[Action, ...]:
        """The actions that do something."""
        return tuple(action for action in self.actions if action.does_something)

    @property
    def blocked(self) -> tuple[Action, ...]:
        """The actions that something holds back."""
        return tuple(action for action in self.actions if action.kind is ActionKind.BLOCKED)

    @property
    def at_most(self) -> float:
        """What it can cost, in the currency; steps whose cost cannot be told are not in it (``unpriced``)."""
        return sum(action.estimate.cost or 0.0 for action in self.changes)

    @property
    def unpriced(self) -> tuple[Action, ...]:
        """Trainings to be done whose cost cannot be told, however much it is.

        Only they: a step of another kind that never ran has no estimate by design, and a limit lets it pass.
        """
        return tuple(action for action in self.changes if action.step is StepKind.TRAIN and action.estimate.cost is None)

    @property
    def at_least(self) -> float:
        """What it costs if every step that is decided later turns out not to be needed."""
        return sum(action.estimate.cost or 0.0 for action in self.changes if action.key is not None)

    def beyond(self, base: "Plan", unchanged: AbstractSet[str]) -> "Plan":
        """What this plan does, or holds back, and the plan of an earlier commit does not: what a change adds.

        ``unchanged``: the steps that both commits ask for alike (``graph.unchanged_steps``). Equal actions do not tell that:
        two different trainings may both be "decided after" the same tokenization. What an action is estimated to cost, and
        which commit brought its reason, make no difference: a new price in forge.toml adds no work.
        """
        known = {action.id: _what_is_done(action) for action in base.actions}

        def is_added(action: Action) -> bool:
            return known.get(action.id) != _what_is_done(action) or (action.step is not None and action.id not in unchanged)

        added = tuple(action for action in self.actions if action.kind in SETTLED or is_added(action))
        return replace(self, actions=added, base=base.commit)


def _what_is_done(action: Action) -> Action:
    reasons = tuple(replace(reason, commit=None) for reason in action.reasons)
    return replace(action, reasons=reasons, estimate=NO_ESTIMATE)
