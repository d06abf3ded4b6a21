"""Why a step's key is another than that of its newest record: fields, inputs, version, and which commit brought each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from forge.contract.kinds import StepKind
from forge.contract.record import Record
from forge.plan.action import Action
from forge.plan.blame import Blame, owner_of, same_policy
from forge.plan.changes import Brought, changed_fields, changed_inputs, changed_policy
from forge.plan.live import Live
from forge.plan.reason import Reason, ReasonKind
from forge.plan.recorded import Recorded
from forge.plan.step import FromCommit, FromStep, Step, version_of


@dataclass(frozen=True)
class Causes:
    """What reasons are found in: what was recorded, what the store holds, who changed what, and what was decided before."""

    recorded: Recorded
    live: Live
    blame: Blame | None
    actions: Mapping[str, Action]
    """Those of the steps that come earlier in the graph."""

    def of(self, step: Step, inputs: Mapping[str, str], latest: Record | None) -> Iterator[Reason]:
        """A reason for each difference between a step and its newest record; none where it has no record."""
        if latest is None:
            return
        kind = ReasonKind.GATE_CHANGED if step.kind is StepKind.GATE else ReasonKind.FIELD_CHANGED
        yield from changed_fields(step, latest.parameters, kind, self._brought(owner_of(step), latest.commit))
        for name, old, new in changed_inputs(latest.inputs, inputs):
            source = step.inputs.get(name)
            if isinstance(source, FromStep):
                subject = f"{name} ({source.step_id})"
                upstream = self.recorded.made(self.actions[source.step_id].key or "")
                commit = upstream.commit if upstream else None
            elif source is not None:
                subject = f"{name} ({source.address})"
                commit = self._brought_by_files(name, source, latest)
            else:
                subject, commit = f"{name} (removed)", None
            yield Reason(ReasonKind.INPUT_CHANGED, subject, old, new, commit=commit)
            if isinstance(source, FromCommit) and name == "policy" and old is not None:
                yield from self._of_policy(source, old, latest)
        if latest.step_version != version_of(step.kind):
            yield Reason(ReasonKind.VERSION_CHANGED, "", str(latest.step_version), str(version_of(step.kind)))

    def _of_policy(self, source: FromCommit, old: str, latest: Record) -> Iterator[Reason]:
        """The fields of a policy that are others than in the one that was released, as long as the store holds that."""
        now = next((file.inline for file in source.bundle.files.values() if file.inline is not None), None)
        before = self.live.policy(old) if now is not None else None
        if now is not None and before is not None:
            yield from changed_policy(before, now, self._brought(source.address, latest.commit))

    def _brought(self, address: str, since: str) -> Brought:
        """Who brought a value, asked only where a plan is to say it."""
        blame = self.blame
        return lambda alike: blame.value_since(address, since, None, alike) if blame is not None else None

    def _brought_by_files(self, name: str, source: FromCommit, latest: Record) -> str | None:
        if self.blame is None:
            return None
        if not source.bundle.sources:  # the spec itself is what is read
            return self.blame.value_since(source.address, latest.commit, None, same_policy)
        return self.blame.files_since(
            latest.sources.get(name, {}).values(), source.bundle.sources.values(), latest.commit, None
        )
