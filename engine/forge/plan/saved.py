"""A plan in a file: what was reviewed is what is applied, or nothing is.

The file holds the plan and what it was made of: commit, engine version, scope, and a digest over every answer that the
ledger gave while it was made. Applying makes the plan again and compares: an append that the plan did not ask about (its own
approval, another team's record) changes nothing; one that it did makes it stale. Rules:
1. The file is in its one canonical form and carries its own digest; any other byte is refused.
2. Another commit, engine or ledger answer is refused, and the refusal says which.
3. Whatever is decided while it is applied stays within the plan: the same steps or fewer, at the same cost or less.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from forge.canonical import canonical_json, digest_of_bytes
from forge.contract.record import Made, Pointer, Record, Release, Renamed, Subject, Withdrawal
from forge.errors import RefusedError
from forge.plan.action import IDLE, Action, ActionKind, Plan
from forge.plan.recorded import Recorded, Scope, Span

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class SavedPlan:
    """What a plan file says."""

    plan: Plan
    scope: Scope
    engine: str
    ledger: str
    """Digest of what the ledger answered."""


_ADAPTER = TypeAdapter(SavedPlan)


class Reading:
    """A ledger that keeps account of what it was asked and what it answered; itself a ``Recorded``."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self._sha256 = hashlib.sha256()

    @property
    def digest(self) -> str:
        """Over every question and answer so far, in order."""
        return "sha256:" + self._sha256.hexdigest()

    def made(self, key: str) -> Made | None:
        """As ``Recorded.made``."""
        answer = self._recorded.made(key)
        self._note("made", key, answer and (answer.sequence, sorted(answer.products.items())))
        return answer

    def made_many(self, keys: Iterable[str]) -> Mapping[str, Made]:
        """As ``Recorded.made_many``."""
        wanted = tuple(keys)
        answer = self._recorded.made_many(wanted)
        for key in wanted:
            made = answer.get(key)
            self._note("made", key, made and (made.sequence, sorted(made.products.items())))
        return answer

    def latest(self, step_id: str) -> Record | None:
        """As ``Recorded.latest``."""
        answer = self._recorded.latest(step_id)
        self._note("latest", step_id, answer and answer.model_dump_json())
        return answer

    def latest_of(self, spans: Iterable[Span]) -> Record | None:
        """As ``Recorded.latest_of``."""
        places = tuple(spans)
        answer = self._recorded.latest_of(places)
        self._note("latest of", str([tuple(span) for span in places]), answer and answer.model_dump_json())
        return answer

    def renamings(self) -> Sequence[Renamed]:
        """As ``Recorded.renamings``."""
        answer = self._recorded.renamings()
        self._note("renamings", "", [tuple(event) for event in answer])
        return answer

    def release(self, environment: str) -> Release | None:
        """As ``Recorded.release``."""
        answer = self._recorded.release(environment)
        self._note("release", environment, answer and answer.model_dump_json())
        return answer

    def releases(self, environment: str) -> tuple[Release, ...]:
        """As ``Recorded.releases``."""
        answer = self._recorded.releases(environment)
        self._note("releases", environment, [move.model_dump_json() for move in answer])
        return answer

    def pointers(self) -> Mapping[str, Pointer]:
        """As ``Recorded.pointers``; only an environment that is asked for counts."""
        return _Noted(self._recorded.pointers(), lambda name, answer: self._note("pointer", name, answer))

    def charter(self) -> str | None:
        """As ``Recorded.charter``."""
        answer = self._recorded.charter()
        self._note("charter", "", answer)
        return answer

    def subjects(self) -> Mapping[str, Subject]:
        """As ``Recorded.subjects``; what is noted of a subject, not its steps, is what a plan rests on."""
        answer = self._recorded.subjects()
        self._note("subjects", "", [tuple(answer[name]) for name in sorted(answer)])
        return answer

    def withdrawals(self) -> Mapping[str, Withdrawal]:
        """As ``Recorded.withdrawals``."""
        answer = self._recorded.withdrawals()
        self._note("withdrawals", "", [answer[subject].model_dump_json() for subject in sorted(answer)])
        return answer

    def signed_by(self, keyid: str) -> frozenset[str]:
        """As ``Recorded.signed_by``."""
        answer = self._recorded.signed_by(keyid)
        self._note("signed", keyid, sorted(answer))
        return answer

    def _note(self, question: str, about: str, answer: object) -> None:
        self._sha256.update(f"{question}\0{about}\0{answer!r}\n".encode())


class _Noted(Mapping[str, Pointer]):
    """A mapping that tells of each answer it gives, absent ones included."""

    def __init__(self, answers: Mapping[str, Pointer], note: Callable[[str, Pointer | None], None]) -> None:
        self._answers = answers
        self._tell = note

    def __getitem__(self, name: str) -> Pointer:
        self._tell(name, self._answers.get(name))
        return self._answers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._answers)

    def __len__(self) -> int:
        return len(self._answers)


def to_bytes(saved: SavedPlan) -> bytes:
    """The one form of the file."""
    content = _content(saved)
    content["digest"] = digest_of_bytes(canonical_json(content))
    return canonical_json(content) + b"\n"


def digest_of(saved: SavedPlan) -> str:
    """The digest that the file carries, and that an approval names: over plan, scope, engine and the ledger's answers."""
    return str(digest_of_bytes(canonical_json(_content(saved))))


def _content(saved: SavedPlan) -> dict[str, Any]:
    content: dict[str, Any] = {"schema_version": 1, **_ADAPTER.dump_python(saved, mode="json")}
    content["scope"] = {name: sorted(values) for name, values in content["scope"].items()}
    return content


def from_bytes(data: bytes, name: str) -> SavedPlan:
    """Read a plan file; raises RefusedError for anything but the bytes that ``forge plan --out`` wrote."""
    try:
        saved = _ADAPTER.validate_json(data)
        whole = to_bytes(saved) == data
    except (ValidationError, ValueError) as error:
        raise RefusedError(
            f"{name}: not a plan that this engine wrote, or damaged: make one with `forge plan --out`"
        ) from error
    if not whole:
        raise RefusedError(f"{name}: the plan was altered after it was written: make a new one with `forge plan --out`")
    return saved


@dataclass(frozen=True)
class PlannedSteps:
    """What a plan file lets be done, read by whoever verifies what was done under it."""

    digest: str
    commit: str | None
    steps: Mapping[str, str | None]
    """Step id -> step key; None for one that was to be decided later."""


def planned_steps(data: bytes) -> PlannedSteps:
    """Read a plan file, whichever engine wrote it; raises RefusedError for one that does not carry its own digest."""
    try:
        content: dict[str, Any] = json.loads(data)
        digest = content.pop("digest")
        if canonical_json({**content, "digest": digest}) + b"\n" != data or digest_of_bytes(canonical_json(content)) != digest:
            raise RefusedError("the plan was altered after it was written")
        plan = content["plan"]
        idle = {kind.value for kind in IDLE}
        steps = {
            str(action["id"]): action["key"] and str(action["key"]) for action in plan["actions"] if action["kind"] not in idle
        }
        return PlannedSteps(str(digest), plan["commit"] and str(plan["commit"]), steps)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RefusedError(f"not a plan file: {error!r}") from error


def what_moved(saved: SavedPlan, now: SavedPlan) -> list[str]:
    """Why a saved plan no longer describes the world; empty when it does. ``now`` is the plan made again."""
    moved = []
    if saved.engine != now.engine:
        moved.append(f"it was made by Forge {saved.engine}, this is Forge {now.engine}")
    if saved.plan.commit != now.plan.commit:
        moved.append(f"it is for commit {saved.plan.commit}, the commit to apply is {now.plan.commit}")
    if saved.ledger != now.ledger:
        moved.append("the ledger was asked otherwise, or answers otherwise")
    before, after = ({action.id: action for action in plan.actions} for plan in (saved.plan, now.plan))
    moved.extend(
        f"{name}: {_told(before.get(name))}, now {_told(after.get(name))}"
        for name in [*before, *(name for name in after if name not in before)]
        if before.get(name) != after.get(name)
    )
    if not moved and saved.plan != now.plan:
        moved.append("budgets or prices in the plan are others now")
    return moved


def exceeds(allowed: Plan, now: Plan, spent: float) -> list[str]:
    """How a plan made while another is applied goes beyond it; empty when it only shrank.

    ``spent`` is what the steps that were done since have cost, in the plan's currency.
    """
    kinds = {action.id: action for action in allowed.changes}
    beyond = []
    for action in now.changes:
        planned = kinds.get(action.id)
        if planned is None:
            beyond.append(f"{action.id} was not to be done, and now is to {action.kind}")
        elif not _is_within(planned, action):
            beyond.append(f"{action.id} was to {planned.kind}, and now is to {action.kind}")
    limit = allowed.at_most
    if spent + now.at_most > limit * (1 + _TOLERANCE) + _TOLERANCE and now.at_most > _planned_cost(allowed, now) + _TOLERANCE:
        beyond.append(f"it may now cost {now.at_most:.4f} {now.currency} more, and {limit:.4f} was the most")
    return beyond


def _planned_cost(allowed: Plan, now: Plan) -> float:
    left = {action.id for action in now.changes}
    return sum(action.estimate.cost or 0.0 for action in allowed.changes if action.id in left)


_SHRINKS_TO = {
    ActionKind.RUN: {ActionKind.RUN, ActionKind.EXTEND, ActionKind.RE_EVALUATE},
    ActionKind.RELEASE: {ActionKind.RELEASE, ActionKind.RELOAD, ActionKind.ROLL_BACK},
}


def _is_within(planned: Action, now: Action) -> bool:
    """A step that was to be decided later may turn out cheaper; one that was decided stays what it was."""
    return now.kind in _SHRINKS_TO.get(planned.kind, {planned.kind}) and planned.key in (None, now.key)


def _told(action: Action | None) -> str:
    if action is None:
        return "not in the plan"
    return f"{action.kind} ({'; '.join(str(reason) for reason in action.reasons)})"
