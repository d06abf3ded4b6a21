"""What the ledger has to note of resources: renamed, gone from the commit, serving nobody any more, protected or not."""

from collections.abc import Iterator, Mapping

from forge.contract.kinds import StepKind
from forge.contract.record import Subject
from forge.plan.action import Action, ActionKind
from forge.plan.desired import Desired
from forge.plan.reason import Reason, ReasonKind
from forge.plan.recorded import Recorded
from forge.plan.step import Step


def about_resources(desired: Desired, graph: Mapping[str, Step], recorded: Recorded) -> Iterator[Action]:
    """Renamings, retirements, environments that nobody serves, changed protection; in this order."""
    known = recorded.subjects()
    renamings = dict(_renamings(desired, graph, recorded, known))
    yield from renamings.values()
    unserved = _unserved(graph, recorded)
    gone = [name for name in sorted(known) if name not in desired.compiled and _is_given_up(name, desired, known)]
    for address in gone:
        environments = unserved.pop(address, [])
        if known[address].protected:
            yield Action(ActionKind.BLOCKED, address, address, (Reason(ReasonKind.PROTECTED, address),))
            continue
        first = environments.pop(0) if environments else None
        yield Action(ActionKind.RETIRE, address, address, (Reason(ReasonKind.REMOVED),), environment=first)
        yield from (_end_of_service(name, address) for name in environments)
    for address, environments in unserved.items():
        held = _what_holds(address, desired, known)
        yield from (_end_of_service(name, address, held) for name in environments)
    noted_as_protected = {name for name in known if known[name].protected}
    noted_as_protected |= {address for address in renamings if desired.previous[address] in noted_as_protected}
    for address in sorted({*desired.protected, *noted_as_protected}):
        wanted, noted = address in desired.protected, address in noted_as_protected
        if address in desired.compiled and wanted != noted:
            words = ("protected", "not protected") if noted else ("not protected", "protected")
            reason = Reason(ReasonKind.PROTECTION_CHANGED, "", *words)
            yield Action(ActionKind.PROTECT, address, address, (reason,), protect=wanted)


def _renamings(
    desired: Desired, graph: Mapping[str, Step], recorded: Recorded, known: Mapping[str, Subject]
) -> Iterator[tuple[str, Action]]:
    """By address, the renamings that the ledger does not know; one of something that it never heard of is none."""
    for address, previous in desired.previous.items():
        if known[previous].renamed != address if previous in known else _was_measured_by(previous, graph, recorded):
            reason = Reason(ReasonKind.RENAMED, previous)
            yield address, Action(ActionKind.RENAME, f"rename/{address}", address, (reason,))


def _was_measured_by(suite: str, graph: Mapping[str, Step], recorded: Recorded) -> bool:
    """Whether something is recorded of a suite under its previous name: as a subject, the ledger does not know any."""
    kind, name = suite.split("/", 1)
    if kind != "EvalSuite":
        return False
    evaluations = (step for step in graph.values() if step.kind is StepKind.EVALUATE)
    earlier = (step_id for step in evaluations for step_id in step.previous_ids if step_id.endswith(f".{name}"))
    return any(recorded.latest(step_id) is not None for step_id in earlier)


def _is_given_up(address: str, desired: Desired, known: Mapping[str, Subject]) -> bool:
    """Whether a resource that is not in the commit left it just now, under this name."""
    subject = known[address]
    return subject.retired is None and subject.renamed is None and address not in desired.previous.values()


def _unserved(graph: Mapping[str, Step], recorded: Recorded) -> dict[str, list[str]]:
    """The environments whose pointer stands and that no deployment of the commit serves, by the deployment that did."""
    wanted = {step.environment for step in graph.values() if step.environment is not None}
    pointers = recorded.pointers()
    found: dict[str, list[str]] = {}
    for environment in sorted(name for name in pointers if name not in wanted):
        found.setdefault(f"Deployment/{pointers[environment].deployment}", []).append(environment)
    return found


def _end_of_service(environment: str, address: str, held: Reason | None = None) -> Action:
    kind = ActionKind.RETIRE if held is None else ActionKind.BLOCKED
    reasons = (*([held] if held is not None else []), Reason(ReasonKind.UNSERVED, environment))
    return Action(kind, f"environment/{environment}", address, reasons, environment=environment)


def _what_holds(address: str, desired: Desired, known: Mapping[str, Subject]) -> Reason | None:
    """Why the environment that a deployment served goes on serving, although the deployment moved elsewhere.

    What the commit says of its protection counts, where it holds it: what the ledger notes follows in the same apply.
    """
    if address in desired.suspended:
        return Reason(ReasonKind.SUSPENDED, address)
    noted = address in known and known[address].protected
    is_protected = address in desired.protected if address in desired.compiled else noted
    return Reason(ReasonKind.PROTECTED, address) if is_protected else None
