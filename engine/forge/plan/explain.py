"""The whole chain of why: from one action back to what set it off, in words that need no other source.

Where a step before it is done already, the chain goes on through what the ledger recorded: the record that its reader was made
of beside the one that is there now, and how the two differ. It is pure, and asks for what changed only.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from forge.contract.kinds import StepKind
from forge.contract.record import Record
from forge.errors import UsageError, printable
from forge.plan.action import SETTLED, Action, Plan
from forge.plan.blame import owner_of, same_policy, same_references
from forge.plan.changes import changed_fields, changed_inputs
from forge.plan.desired import Desired
from forge.plan.explanation import Chain, Explanation, Told
from forge.plan.graph import build_graph
from forge.plan.lineage import Lineage
from forge.plan.past import Past, changed_files
from forge.plan.reason import Reason, ReasonKind, shortened
from forge.plan.recorded import Recorded
from forge.plan.step import FromCommit, FromStep, Step
from forge.plan.withdrawn import is_withdrawn
from forge.spec.load import did_you_mean

_SHORT = 19
_STEPS_OF = {"DataRecipe": ("curate",), "Tokenizer": ("tokenizer",), "Model": ("train",), "Deployment": ("release", "gate")}
"""The steps that are named after a resource of each kind."""


def explain(plan: Plan, name: str, desired: Desired, recorded: Recorded, past: Past) -> Explanation:
    """Why a step would or would not run; ``name`` is a step id or the address of a resource.

    A resource that no step makes anything of (a suite, a policy) is explained by the steps that read it. Raises UsageError
    for a name that neither the plan nor the commit holds.
    """
    actions = {action.id: action for action in plan.actions}
    story = _Story(actions, build_graph(desired), desired, recorded, past, Lineage(desired, recorded))
    wanted = [action.id for action in plan.actions if name in (action.id, action.subject)]
    chains: list[Chain] = []
    if not wanted and name in desired.compiled:
        wanted = [step.id for step in story.graph.values() if step.id in actions and _reads(step, name, desired)]
        readers = ", ".join(f"{step_id} ({actions[step_id].kind})" for step_id in wanted)
        said = f"no step is its own; what reads it: {readers}" if wanted else "no step of this plan reads it"
        chains.append(Chain((Told(name, None, 0, (said,)),)))
    elif not wanted:
        known = [*actions, *(action.subject for action in plan.actions), *desired.compiled]
        raise UsageError(f"the plan holds no step or resource {name!r}{did_you_mean(name, known)}")
    chains += [Chain(tuple(story.chain(each, 0)), _consequences(each, actions, story.graph)) for each in wanted]
    return Explanation(plan.commit, name, tuple(chains))


def _reads(step: Step, address: str, desired: Desired) -> bool:
    """Whether a step reads a resource that it is not named after, as its tasks or its policy, or is cleaned of it."""
    if step.kind is StepKind.SWEEP and step.settings["sweep"] == address:
        return True
    if any(isinstance(source, FromCommit) and source.address == address for source in step.inputs.values()):
        return True
    return any(name.startswith("suite-") for name in step.inputs) and address in desired.compiled[step.subject].references


class _Read(NamedTuple):
    """Whoever asks for the story of a step has read another product of it before."""

    product: str
    digest: str
    by: Step
    since: str
    """The commit that the reader's own record is of."""


class _State(NamedTuple):
    """What a step is made of: as planned (no commit), or as a record of it says."""

    commit: str | None
    inputs: Mapping[str, str]
    sources: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class _Story:
    """What an explanation rests on, and which steps it has told."""

    actions: Mapping[str, Action]
    graph: Mapping[str, Step]
    desired: Desired
    recorded: Recorded
    past: Past
    lineage: Lineage
    told: set[str] = field(default_factory=set)

    def chain(self, step_id: str, depth: int, read: _Read | None = None) -> Iterator[Told]:
        """The story of a step, and then of those that it comes from."""
        action = self.actions[step_id]
        if step_id in self.told:
            yield Told(step_id, action.kind.value, depth, is_told_above=True)
            return
        self.told.add(step_id)
        causes: dict[str, _Read | None] = {}
        yield Told(step_id, action.kind.value, depth, tuple(self._own(action, read, causes)))
        for upstream, its_read in causes.items():
            yield from self.chain(upstream, depth + 1, its_read)

    def _own(self, action: Action, read: _Read | None, causes: dict[str, _Read | None]) -> Iterator[str]:
        """The lines about one step alone; the steps that it comes from are added to ``causes``."""
        step = self.graph.get(action.id)
        if step is None:
            for reason in action.reasons:
                gone = self._removed(action) if reason.kind is ReasonKind.REMOVED else reason.commit
                yield f"because {_sentence(replace(reason, commit=gone))}"
            return
        latest = self._latest(step)
        planned = _State(None, self._known_inputs(step), _sources_of(step))
        for reason in action.reasons:
            yield f"because {_sentence(reason)}"
            if reason.kind is ReasonKind.INPUT_CHANGED and latest is not None:
                yield from self._files(step, reason.subject.split(" ", 1)[0], _state_of(latest), planned)
        if action.kind in SETTLED:
            yield from _made(action, self.recorded)
            if read is not None:
                yield from self._history(step, action, read, causes)
            return
        causes.update(dict.fromkeys(self._waited_for(action, step)))
        if latest is None or not action.does_something:
            return
        if action.key is None:
            yield from (f"besides, {line}" for line in self._differences(step, latest, planned))
        self._add_causes(step, latest, planned, causes)

    def _removed(self, action: Action) -> str | None:
        """The commit that took a resource out, as far as it can be told."""
        kind, _, name = action.subject.partition("/")
        made = (self.recorded.latest(f"{step}/{name}") for step in _STEPS_OF.get(kind, ()))
        known = next((record for record in made if record is not None), None)
        return self.past.removed_since(action.subject, known.commit) if known is not None else None

    def _history(self, step: Step, action: Action, read: _Read, causes: dict[str, _Read | None]) -> Iterator[str]:
        """Why a step that is recorded made another product than its reader had before."""
        found = self._find(step, lambda record: record.products.get(read.product) == read.digest)
        made = self.recorded.made(action.key or "")
        now = self._find(step, lambda record: record.key == action.key, *([made.step_id] if made else []))
        if found is None or now is None:
            commit = self.past.value_since(read.by.subject, read.since, None, same_references)
            yield (
                f"{read.product} was {_short(read.digest)} for {read.by.id}, and no record of {step.id} made that: "
                f"{read.by.subject} read from another step{_by(commit)}"
            )
            return
        (entry, before), (_, after) = found, now
        yield f"{read.product} was {_short(read.digest)} as made for commit {before.commit[:12]} (entry {entry} of the ledger)"
        if before.key == after.key:
            yield "it was made again under the same identity, and gave other bytes"
            for name in sorted({*before.environment, *after.environment}):
                old, new = before.environment.get(name), after.environment.get(name)
                if old != new:
                    yield f"its environment differs: {name} was {_short(old)} and is {_short(new)}"
            return
        state = _state_of(after)
        yield from (f"it is another because {line}" for line in self._differences(step, before, state))
        self._add_causes(step, before, state, causes)

    def _differences(self, step: Step, before: Record, now: _State) -> Iterator[str]:
        """How a step as it was recorded differs from what it is made of now, with the commits that brought that."""
        kind = ReasonKind.GATE_CHANGED if step.kind is StepKind.GATE else ReasonKind.FIELD_CHANGED
        owner = owner_of(step)
        for reason in changed_fields(
            step, before.parameters, kind, lambda alike: self.past.value_since(owner, before.commit, now.commit, alike)
        ):
            yield _sentence(reason)
        for name, old, new in changed_inputs(before.inputs, now.inputs):
            source = step.inputs.get(name)
            if source is not None and new is None:
                continue  # it is being made
            place = source.step_id if isinstance(source, FromStep) else source.address if source else "removed"
            yield _sentence(Reason(ReasonKind.INPUT_CHANGED, f"{name} ({place})", old, new))
            yield from self._files(step, name, _state_of(before), now)

    def _files(self, step: Step, name: str, before: _State, now: _State) -> Iterator[str]:
        """Which files of the commit made an input another one; nothing for an input that a step makes."""
        source = step.inputs.get(name)
        if isinstance(source, FromStep) or before.commit is None:
            return
        old, new = before.sources.get(name, {}), now.sources.get(name, {})
        if old or new:
            yield from (f"  {line}" for line in changed_files(self.past, (before.commit, old), (now.commit, new)))
        elif (
            source is not None and (origin := self.desired.origins.get(source.address)) is not None
        ):  # the spec itself is what is read
            commit = self.past.value_since(source.address, before.commit, now.commit, same_policy)
            yield f"  {printable(origin)} says otherwise{_by(commit)}"

    def _waited_for(self, action: Action, step: Step) -> Iterator[str]:
        """The steps before this one that are not done, or that hold it back."""
        sources = [source.step_id for source in step.inputs.values() if isinstance(source, FromStep)]
        if any(reason.kind is ReasonKind.WITHDRAWN for reason in action.reasons):
            yield from (each for each in sources if is_withdrawn(self.actions[each]))
        elif action.key is None:
            yield from (each for each in sources if self.actions[each].kind not in SETTLED)

    def _add_causes(self, step: Step, before: Record, now: _State, causes: dict[str, _Read | None]) -> None:
        """The steps that are done and whose product is another one than it was."""
        for name, old, _ in changed_inputs(before.inputs, now.inputs):
            source = step.inputs.get(name)
            if isinstance(source, FromStep) and name in now.inputs and old is not None:
                causes.setdefault(source.step_id, _Read(source.product, old, step, before.commit))

    def _known_inputs(self, step: Step) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, source in step.inputs.items():
            if isinstance(source, FromCommit):
                found[name] = source.bundle.digest
            elif self.actions[source.step_id].kind in SETTLED:
                found[name] = self.actions[source.step_id].products[source.product]
        return found

    def _latest(self, step: Step) -> Record | None:
        return self.lineage.latest(step)

    def _find(self, step: Step, fits: Callable[[Record], bool], *others: str) -> tuple[int, Record] | None:
        """The newest record of a step, under whichever of its names, that is the one sought."""
        for name in dict.fromkeys((*others, *self.lineage.ids(step))):
            for entry, record in self.past.records(name):
                if fits(record):
                    return entry, record
        return None


def _state_of(record: Record) -> _State:
    return _State(record.commit, record.inputs, record.sources)


def _sources_of(step: Step) -> dict[str, Mapping[str, str]]:
    return {name: source.bundle.sources for name, source in step.inputs.items() if isinstance(source, FromCommit)}


def _by(commit: str | None) -> str:
    return f", by commit {commit[:12]}" if commit else ""


def _made(action: Action, recorded: Recorded) -> Iterator[str]:
    made = recorded.made(action.key or "")
    if made is None:
        return
    yield f"its identity is {action.key}"
    yield f"it was made by {made.step_id} for commit {made.commit[:12]} (entry {made.sequence} of the ledger)"
    for name, digest in action.products.items():
        yield f"{name} is {digest}"


def _consequences(step_id: str, actions: Mapping[str, Action], graph: Mapping[str, Step]) -> tuple[str, ...]:
    if not actions[step_id].does_something:
        return ()
    return tuple(
        step.id
        for step in graph.values()
        if step.id in actions and any(isinstance(item, FromStep) and item.step_id == step_id for item in step.inputs.values())
    )


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
    ReasonKind.AWAITS_RUN: "{subject} works for commit {commit}, which this one does not descend from: a controller stops its "
    "own run once it takes this commit up, anyone else awaits that run's end",
    ReasonKind.POINTER: "{subject} serves {old} and should serve {new}",
    ReasonKind.DRIFTED: "{subject} served {new} as the commit asks, and no newer commit moved it to {old}{by}",
    ReasonKind.MOVED_BY: "that move was for {subject}",
    ReasonKind.RELEASED_BEFORE: "{subject} served {new} before (commit {commit}): it moves back",
    ReasonKind.MADE_ELSEWHERE: "{subject} made the same, for commit {commit}",
    ReasonKind.CONTINUES: "an earlier run left the checkpoint {subject}, and going on from it gives the same bytes",
    ReasonKind.FROM_SCRATCH: "the earlier run cannot be continued: {subject}",
    ReasonKind.GATE: "its gate says NO-GO: {subject}",
    ReasonKind.APPROVAL: "{subject}",
    ReasonKind.REPRODUCTION: "{subject}",
    ReasonKind.WAITS: "{subject} is blocked",
    ReasonKind.SUSPENDED: "{subject} is suspended: remove the annotation forge/suspend to let it go on",
    ReasonKind.WITHDRAWN: "{subject} is withdrawn{through}: {new}",
    ReasonKind.LIFTED: "the commit no longer withdraws {subject}",
    ReasonKind.REMOVED: "the commit no longer holds it{by}; nothing is deleted",
    ReasonKind.RENAMED: "it was called {subject} before: the ledger notes that its history is one",
    ReasonKind.UNSERVED: "no deployment of the commit serves {subject} any more; nothing is deleted",
    ReasonKind.PROTECTED: "it is protected: a commit that holds it with `protect: false` has to be applied before it can leave",
    ReasonKind.PROTECTION_CHANGED: "the ledger notes it as {old}, the commit says {new}",
}
"""Every kind of reason as a sentence; a test fails for a kind without one."""
_CONTINUES_HERE = "it goes on from {subject}, and that gives the same bytes"
"""For the checkpoint of a run that is not recorded: it has no digest yet."""


def _sentence(reason: Reason) -> str:
    old, new = shortened(reason.old, reason.new)
    is_here = reason.kind is ReasonKind.CONTINUES and not reason.subject.startswith("sha256:")
    return (_CONTINUES_HERE if is_here else _SENTENCES[reason.kind]).format(
        subject=_short(reason.subject),
        old=old,
        new=new,
        by=f", by commit {reason.commit[:12]}" if reason.commit else "",
        commit=(reason.commit or "")[:12],
        through=f", and this descends from it by {printable(reason.old)}" if reason.old else "",
        means=f"; a change of it means {reason.meaning}" if reason.meaning else "",
    )


def _short(digest: str | None) -> str:
    return digest[:_SHORT] if digest and digest.startswith("sha256:") else printable(digest or "nothing")
