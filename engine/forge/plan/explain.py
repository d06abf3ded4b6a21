"""The whole chain of why: from one action back to what set it off, in words that need no other source."""

from collections.abc import Iterator

from forge.errors import UsageError, printable
from forge.plan.action import SETTLED, Action, Plan
from forge.plan.graph import FromStep, Step
from forge.plan.reason import Reason, ReasonKind
from forge.plan.recorded import Recorded
from forge.plan.withdrawn import is_withdrawn
from forge.spec.load import did_you_mean

_SHORT = 19


def explain(plan: Plan, name: str, graph: dict[str, Step], recorded: Recorded) -> str:
    """Why a step would or would not run; ``name`` is a step id or the address of a resource.

    Raises UsageError for a name that the plan does not hold.
    """
    actions = {action.id: action for action in plan.actions}
    wanted = [action.id for action in plan.actions if name in (action.id, action.subject)]
    if not wanted:
        known = [*actions, *(action.subject for action in plan.actions)]
        raise UsageError(f"the plan holds no step or resource {name!r}{did_you_mean(name, known)}")
    told: set[str] = set()
    lines: list[str] = []
    for step_id in wanted:
        lines.extend(_chain(step_id, actions, graph, recorded, told, 0))
        lines.extend(_consequences(step_id, actions, graph))
    return "\n".join(lines) + "\n"


def _chain(
    step_id: str, actions: dict[str, Action], graph: dict[str, Step], recorded: Recorded, told: set[str], depth: int
) -> Iterator[str]:
    indent = "  " * depth
    action = actions[step_id]
    if step_id in told:
        yield f"{indent}{step_id}: {action.kind} (told above)"
        return
    told.add(step_id)
    yield f"{indent}{step_id}: {action.kind}"
    for reason in action.reasons:
        yield f"{indent}  because {_sentence(reason)}"
    if action.kind in SETTLED:
        yield from (f"{indent}  {line}" for line in _made(action, recorded))
    for upstream in _causes(action, actions, graph):
        yield from _chain(upstream, actions, graph, recorded, told, depth + 1)


def _causes(action: Action, actions: dict[str, Action], graph: dict[str, Step]) -> list[str]:
    """The steps whose own story belongs to this one's: those it waits for, and those whose products changed."""
    step = graph.get(action.id)
    if step is None:
        return []
    sources = {name: source.step_id for name, source in step.inputs.items() if isinstance(source, FromStep)}
    if any(reason.kind is ReasonKind.WITHDRAWN for reason in action.reasons):
        return [each for each in dict.fromkeys(sources.values()) if is_withdrawn(actions[each])]
    if action.key is None:
        return [each for each in dict.fromkeys(sources.values()) if actions[each].kind not in SETTLED]
    changed = {reason.subject.split(" ", 1)[0] for reason in action.reasons if reason.kind is ReasonKind.INPUT_CHANGED}
    return list(dict.fromkeys(source for name, source in sources.items() if name in changed))


def _made(action: Action, recorded: Recorded) -> Iterator[str]:
    made = recorded.made(action.key or "")
    if made is None:
        return
    yield f"its identity is {action.key}"
    yield f"it was made by {made.step_id} for commit {made.commit[:12]} (entry {made.sequence} of the ledger)"
    for name, digest in action.products.items():
        yield f"{name} is {digest}"


def _consequences(step_id: str, actions: dict[str, Action], graph: dict[str, Step]) -> Iterator[str]:
    after = [
        step.id
        for step in graph.values()
        if step.id in actions and any(isinstance(item, FromStep) and item.step_id == step_id for item in step.inputs.values())
    ]
    if after and actions[step_id].does_something:
        yield f"  what reads it and is decided after it: {', '.join(after)}"


_SENTENCES = {
    ReasonKind.FIELD_CHANGED: "`{subject}` was {old} and is {new}{by}{means}",
    ReasonKind.GATE_CHANGED: "`{subject}` was {old} and is {new}{by}{means}",
    ReasonKind.INPUT_CHANGED: "its input {subject} was {old} and is {new}{by}",
    ReasonKind.VERSION_CHANGED: "this engine has version {new} of the step, the record was made by version {old}",
    ReasonKind.UPSTREAM: "{subject} must be done first; if what comes out is the same as before, nothing is done here",
    ReasonKind.CREATED: "nothing was ever recorded for it",
    ReasonKind.IN_SYNC: "its identity is recorded and its products are in the store",
    ReasonKind.ARTIFACT_MISSING: "the store has lost its product {subject} ({old})",
    ReasonKind.ARTIFACT_CORRUPT: "its product {subject} ({old}) was found damaged",
    ReasonKind.FORCED: "someone asked for it by name (--force)",
    ReasonKind.IN_FLIGHT: "{subject} works at it, for commit {commit}: its result is awaited",
    ReasonKind.SUPERSEDES: "{subject} works at what commit {commit} asked for: that run is stopped and its checkpoint kept",
    ReasonKind.AWAITS_RUN: "{subject} works for commit {commit}, which this one does not descend from: its end is awaited",
    ReasonKind.POINTER: "{subject} serves {old} and should serve {new}",
    ReasonKind.DRIFTED: "{subject} served {new} as the commit asks, and no newer commit moved it to {old}{by}",
    ReasonKind.RELEASED_BEFORE: "{subject} served {new} before (commit {commit}): it moves back",
    ReasonKind.MADE_ELSEWHERE: "{subject} made the same, for commit {commit}",
    ReasonKind.CONTINUES: "an earlier run left the checkpoint {subject}, and going on from it gives the same bytes",
    ReasonKind.FROM_SCRATCH: "the earlier run cannot be continued: {subject}",
    ReasonKind.GATE: "its gate says NO-GO: {subject}",
    ReasonKind.APPROVAL: "{subject}",
    ReasonKind.WAITS: "{subject} is blocked",
    ReasonKind.SUSPENDED: "{subject} is suspended: remove the annotation forge/suspend to let it go on",
    ReasonKind.WITHDRAWN: "{subject} is withdrawn{through}: {new}",
    ReasonKind.LIFTED: "the commit no longer withdraws {subject}",
    ReasonKind.REMOVED: "the commit no longer holds it; nothing is deleted",
    ReasonKind.PROTECTED: "it is protected: a commit that holds it with `protect: false` has to be applied before it can leave",
    ReasonKind.PROTECTION_CHANGED: "the ledger notes it as {old}, the commit says {new}",
}
"""Every kind of reason as a sentence; a test fails for a kind without one."""


def _sentence(reason: Reason) -> str:
    return _SENTENCES[reason.kind].format(
        subject=_short(reason.subject),
        old=_short(reason.old),
        new=_short(reason.new),
        by=f", by commit {reason.commit[:12]}" if reason.commit else "",
        commit=(reason.commit or "")[:12],
        through=f", and this descends from it by {printable(reason.old)}" if reason.old else "",
        means=f"; a change of it means {reason.meaning}" if reason.meaning else "",
    )


def _short(digest: str | None) -> str:
    return digest[:_SHORT] if digest and digest.startswith("sha256:") else printable(digest or "nothing")
