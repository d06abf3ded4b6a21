"""What resources and their steps were called before: as the commit says (``previous_name``), and as the ledger notes.

Invariant: what is recorded under a name belongs to one resource of the commit. A renaming gives the new name all that was
recorded under the old one until then; what is recorded under the old name afterwards is whose name it is then. Where the heir
has left the commit (a renaming that was reverted), the history is the old name's again. Nothing here shapes an identity:
history says what a change is and may cost, and which checkpoint a training goes on from.
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from forge.contract.kinds import StepKind
from forge.contract.record import Record, Renamed
from forge.plan.desired import Desired
from forge.plan.graph import tokenize_name
from forge.plan.recorded import NOW, Recorded, Span
from forge.plan.step import Step


class _Era(NamedTuple):
    """How long a name was a resource's: after one entry of the ledger, until another."""

    address: str
    after: int
    until: int


class Lineage:
    """The histories of a commit's resources, under all their names."""

    def __init__(self, desired: Desired, recorded: Recorded) -> None:
        self._desired = desired
        self._recorded = recorded
        self._heirs = {previous: address for address, previous in desired.previous.items()}
        self._eras: dict[str, list[_Era]] = {}
        self._renamings: dict[str, list[Renamed]] = {}
        """Those that a name was part of, newest first."""
        for event in reversed(recorded.renamings()):
            for name in {event.address, event.previous}:
                self._renamings.setdefault(name, []).append(event)

    def latest(self, step: Step) -> Record | None:
        """The newest record of a step, under whichever of its names."""
        if not self._renamings and not self._heirs:
            return self._recorded.latest(step.id)
        spans = self._spans(step)
        return self._recorded.latest(step.id) if spans == [Span(step.id, 0, NOW)] else self._recorded.latest_of(spans)

    def newest(self, step: Step) -> Iterator[Record]:
        """The newest record under each of the names that a step has or had, where there is one; its present name first."""
        if not self._renamings and not self._heirs:
            found = [self._recorded.latest(step.id)]
        else:
            spans = sorted(self._spans(step), key=lambda span: span.step_id != step.id)
            found = [self._recorded.latest_of([span]) for span in spans]
        return (record for record in found if record is not None)

    def _spans(self, step: Step) -> list[Span]:
        spans = []
        for eras in product(*map(self._eras_of, _named_after(step))):
            span = Span(_id_of(step, eras), max(era.after for era in eras), min(era.until for era in eras))
            if span.after < span.until:
                spans.append(span)
        return spans

    def ids(self, step: Step) -> list[str]:
        """The step's id first, then what it was before, as far as no other resource of the commit is called that now."""
        if not self._renamings and not self._heirs:
            return [step.id]
        free = [[era for era in self._eras_of(each) if self._is_free(era, each)] for each in _named_after(step)]
        return list(dict.fromkeys([step.id, *(_id_of(step, eras) for eras in product(*free))]))

    def former_names(self, address: str) -> list[str]:
        """Everything that a resource was ever called before, whosever name that is now."""
        found: dict[str, None] = {}
        pending = [address]
        while pending:
            name = pending.pop()
            before = [event.previous for event in self._renamings.get(name, ()) if event.address == name]
            before += [self._desired.previous[name]] if name in self._desired.previous else []
            pending += [each for each in before if each not in found]
            found.update(dict.fromkeys(before))
        return [name for name in found if name != address]

    def later_names(self, address: str) -> list[str]:
        """Everything that what had this name was ever called afterwards."""
        return sorted(name for name in {*self._renamings, *self._desired.previous} if address in self.former_names(name))

    def _is_free(self, era: _Era, address: str) -> bool:
        return era.address == address or era.address not in self._desired.compiled

    def _eras_of(self, address: str) -> list[_Era]:
        if address not in self._eras:
            found: dict[_Era, None] = {}
            for name in (address, self._desired.previous.get(address)):
                if name is not None:
                    self._follow(name, NOW, address, found)
            self._eras[address] = list(found)
        return self._eras[address]

    def _follow(self, name: str, until: int, heir: str, found: dict[_Era, None]) -> None:
        """Add what a resource of the commit inherits of what was recorded under a name, until an entry of the ledger."""
        after = 0
        taken: list[Renamed] = []
        for event in self._renamings.get(name, ()):
            if event.sequence >= until:
                continue
            if event.address == name:
                taken.append(event)
            elif (holder := self._holder(event)) != heir and holder in self._desired.compiled:
                after = event.sequence
                break
        found[_Era(name, after, until)] = None
        for event in taken:
            self._follow(event.previous, event.sequence, heir, found)

    def _holder(self, event: Renamed) -> str:
        """What the resource is called now that a renaming gave its new name."""
        address, since = event.address, event.sequence
        while True:
            later = [each for each in self._renamings[address] if each.previous == address and each.sequence > since]
            if not later:
                return self._heirs.get(address, address)
            address, since = later[-1].address, later[-1].sequence


def _named_after(step: Step) -> list[str]:
    """The resources that a step's id is made of."""
    if step.kind is StepKind.EVALUATE:
        return [step.subject, f"EvalSuite/{step.name.rpartition('.')[2]}"]
    if step.kind is StepKind.TOKENIZE:
        return [f"DataRecipe/{step.name.partition('.')[0]}", step.subject]
    return [step.subject]


def _id_of(step: Step, eras: tuple[_Era, ...]) -> str:
    """The step's id when its resources had other names."""
    names = [era.address.split("/", 1)[1] for era in eras]
    if step.trial is not None:
        names.insert(1, str(step.trial))
    if step.kind is StepKind.TOKENIZE and step.subject.startswith("Tokenizer/"):
        names = [tokenize_name(*names)]
    elif step.kind is StepKind.TOKENIZE:
        names.insert(1, "base")
    return f"{step.kind}/{'.'.join(names)}"
