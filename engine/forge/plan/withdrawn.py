"""What a commit's withdrawals hold back: every step that descends from one, by name, by bytes or through what it reads.

Invariant: a step that is withdrawn is blocked whatever else is true of it, and so is every step that reads what it makes.
Descent follows the digests of inputs; names count for addresses only, which stand for everything that was ever made of a
resource: under its earlier name, and under another name by the same step key. What lies inside an artifact that a step made is
not visible here: a file in it is found by admission (``forge.admission.withdrawals``), which reads manifests.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from forge.contract.inventory import pinned_files
from forge.contract.kinds import StepKind
from forge.contract.record import Made, Record
from forge.plan.action import Action, ActionKind, Withdraw
from forge.plan.desired import Desired
from forge.plan.lineage import Lineage
from forge.plan.reason import Reason, ReasonKind
from forge.plan.recorded import Recorded
from forge.plan.step import FromCommit, FromStep, Step

KEY = "key:"
"""How a subject begins that is a signing key."""


def is_withdrawn(action: Action) -> bool:
    """Whether an action is held back by a withdrawal."""
    return action.kind is ActionKind.BLOCKED and any(reason.kind is ReasonKind.WITHDRAWN for reason in action.reasons)


def addresses_of(step: StepKind, step_id: str, subject: str) -> tuple[str, ...]:
    """The addresses that a recorded step was made of, as far as they can be withdrawn; its inputs come beside them."""
    if step is StepKind.EVALUATE:  # evaluate/MODEL.SUITE: names hold no dot
        return subject, f"EvalSuite/{step_id.rpartition('.')[2]}"
    return (subject,)


class Descent:
    """Tells which steps of a plan descend from something withdrawn."""

    def __init__(self, desired: Desired, recorded: Recorded) -> None:
        self._named = {item.subject: item for item in desired.withdrawn}
        self._lineage = Lineage(desired, recorded)
        self._signed: dict[str, Withdraw] = {}
        for subject, item in self._named.items():
            if subject.startswith(KEY):
                self._signed.update(dict.fromkeys(recorded.signed_by(subject.removeprefix(KEY)), item))

    def reason(self, step: Step, key: str | None, made: Made | None, decided: Mapping[str, Action]) -> Reason | None:
        """Why a step is withdrawn, the nearest cause first; None where it is not. ``decided``: the steps that it reads."""
        return next(self._reasons(step, key, made, decided), None)

    def hinders_continuing(self, record: Record) -> str | None:
        """Why no run may go on from what a record left; None where one may."""
        if record.key in self._signed:
            return f"the earlier run was signed by a key that is withdrawn: {self._signed[record.key].reason}"
        digests = [*record.products.values(), *record.byproducts.values()]
        if record.continued is not None:
            digests.append(record.continued.checkpoint)
        found = next((self._named[digest] for digest in digests if digest in self._named), None)
        return f"{found.subject} of the earlier run is withdrawn: {found.reason}" if found else None

    def _reasons(self, step: Step, key: str | None, made: Made | None, decided: Mapping[str, Action]) -> Iterator[Reason]:
        sources = [(name, source) for name, source in step.inputs.items() if isinstance(source, FromCommit)]
        for address in dict.fromkeys((step.subject, *(source.address for _, source in sources))):
            for name in (address, *self._lineage.former_names(address)):
                yield from self._named_by(name, None if name == address else f"{address}, its name since")
        if made is not None:
            for address in addresses_of(step.kind, made.step_id, made.subject):
                yield from self._named_by(address, made.step_id)
            for name, digest in (*made.products.items(), *made.byproducts.items()):
                yield from self._named_by(digest, f"its {name}")
        if key is not None and key in self._signed:
            item = self._signed[key]
            yield Reason(ReasonKind.WITHDRAWN, item.subject, "its record", item.reason)
        for name, source in sources:
            yield from self._named_by(source.bundle.digest, f"its input {name}")
            for path, file in source.bundle.files.items():
                yield from self._named_by(file.sha256, file.origin or f"{name}/{path}")
        if step.kind is StepKind.CURATE and '"sha256"' in step.canonical_parameters:
            for name, digest in pinned_files(step.parameters):
                yield from self._named_by(digest, name)
        for upstream in (decided[item.step_id] for item in step.inputs.values() if isinstance(item, FromStep)):
            if is_withdrawn(upstream):
                cause = next(reason for reason in upstream.reasons if reason.kind is ReasonKind.WITHDRAWN)
                yield Reason(ReasonKind.WITHDRAWN, cause.subject, upstream.id, cause.new)

    def _named_by(self, subject: str | None, through: str | None) -> Iterator[Reason]:
        item = self._named.get(subject or "")
        if item is not None:
            yield Reason(ReasonKind.WITHDRAWN, item.subject, through, item.reason)


def about_withdrawals(desired: Desired, recorded: Recorded, unheld: AbstractSet[str] = frozenset()) -> Iterator[Action]:
    """What the ledger has to note: what the commit withdraws and it does not know, and what the commit no longer withdraws.

    ``unheld``: subjects whose newest entry does not hold; whatever it says, the releaser signs one that replaces it.
    """
    noted = recorded.withdrawals()
    wanted = {item.subject: item for item in desired.withdrawn}
    for subject, item in wanted.items():
        known = noted.get(subject)
        is_known = known is not None and not known.lifted and (known.reason, known.serving) == (item.reason, item.serving)
        if not is_known or subject in unheld:
            reason = Reason(ReasonKind.WITHDRAWN, subject, None, item.reason)
            yield Action(ActionKind.WITHDRAW, f"withdraw/{subject}", subject, (reason,), withdraw=item)
    others = [noted[subject] for subject in sorted(noted) if subject not in wanted]
    lifted = [known for known in others if not known.lifted or known.subject in unheld]
    kept = _kept_by_protection(desired, recorded) if lifted else None
    for known in lifted:
        name = f"withdraw/{known.subject}"
        if kept is not None:
            yield Action(ActionKind.BLOCKED, name, known.subject, (Reason(ReasonKind.PROTECTED, kept),))
            continue
        item = Withdraw(known.subject, known.reason, known.serving, lifted=True)
        reason = Reason(ReasonKind.LIFTED, known.subject, commit=known.commit)
        yield Action(ActionKind.WITHDRAW, name, known.subject, (reason,), withdraw=item)


def _kept_by_protection(desired: Desired, recorded: Recorded) -> str | None:
    """The protected Withdrawals that left the commit whole: what they withdrew stays withdrawn."""
    known = recorded.subjects()
    gone = (name for name in sorted(known) if name.startswith("Withdrawals/") and name not in desired.compiled)
    return next((name for name in gone if known[name].protected), None)
