"""Chain, evaluations, approvals and changes: the parts of a report that are rows rather than fields."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from forge.admission.approvals import author_of, commits_between, judge_approvals
from forge.admission.evidence import signers_of
from forge.admission.reproductions import Run
from forge.admission.stamps import moment_of
from forge.admission.thresholds import runs_in
from forge.attest.bundle import signed_by
from forge.attest.timestamps import PREFIX, signature_in
from forge.contract.hyperparameters import HYPERPARAMETERS, Pick
from forge.contract.kinds import StepKind
from forge.contract.record import Approval, Record, Reproduction
from forge.contract.verdict import REPORT_FILE, VERDICT_FILE, Bound
from forge.errors import RepoError, TrustError
from forge.report.facts import Facts, specs_of
from forge.report.model import (
    ChainStep,
    Changes,
    CommitRow,
    Evidence,
    FieldChange,
    GivenApproval,
    MeasuredBefore,
    Measurement,
    ReproducedBy,
)
from forge.report.searches import measured_by_searches

_LONGEST = 200
_MOST_ROWS = 500


def chain(facts: Facts) -> tuple[ChainStep, ...]:
    """The steps in the ledger's order, each with its place in the picture."""
    evidence = facts.examined.evidence
    runs = runs_in(evidence, facts.examined.history, facts.release)
    records = sorted(evidence.records.values(), key=evidence.sequence)
    reads = _reads(records)
    by_key = {record.key: record for record in records}
    levels: dict[str, int] = {}

    def level(key: str, above: frozenset[str]) -> int:
        if key not in levels:
            levels[key] = 1 + max((level(each, above | {key}) for each in reads[key] if each not in above), default=-1)
        return levels[key]

    return tuple(
        ChainStep(
            id=record.step_id,
            level=level(record.key, frozenset()),
            reads=tuple(by_key[key].step_id for key in reads[record.key]),
            signer=_signer(facts, record),
            commit=record.commit,
            products=tuple(sorted(record.products.items())),
            finished=record.finished,
            evidence=facts.attested(record.step_id, *sorted(record.attestations)),
            holds=facts.holds(record),
            stamped=_stamped(facts, record),
            threshold=facts.authority.threshold(record.step),
            reproductions=tuple(_reproduced(facts, runs.of(record))),
            trial_of=_trial_of(facts, record),
        )
        for record in records
    )


def _trial_of(facts: Facts, record: Record) -> str | None:
    step = facts.examined.evidence.graphs.get(record.commit, {}).get(record.step_id)
    if step is None or step.trial is None:
        return None
    is_picked = record.step is StepKind.TRAIN and record.products.get("weights") not in facts.beside
    return None if is_picked else record.subject


def _reads(records: Sequence[Record]) -> dict[str, list[str]]:
    """By key: the keys of the records whose products each record reads; ``records`` in the ledger's order.

    What was made later was not read where something earlier was the same: a search picks what one of its trials had already.
    Whoever reads the weights that a search picked rests on that choice, too.
    """
    makers: dict[str, list[tuple[int, Record]]] = {}
    for number, record in enumerate(records):
        for digest in record.products.values():
            makers.setdefault(digest, []).append((number, record))

    def made(digest: str, before: int) -> list[Record]:
        found = makers.get(digest, [])
        return [maker for number, maker in found if number < before] or [maker for _, maker in found]

    reads: dict[str, list[str]] = {}
    for number, record in enumerate(records):
        found = [maker for digest in record.inputs.values() for maker in made(digest, number)]
        chosen = [maker.inputs[HYPERPARAMETERS] for maker in found if HYPERPARAMETERS in maker.inputs]
        picks = [pick for digest in chosen for pick in made(digest, number) if pick.parameters.get("pick") == Pick.BEST]
        reads[record.key] = sorted({maker.key for maker in (*found, *picks)} - {record.key})
    return reads


def measurements(facts: Facts) -> tuple[Measurement, ...]:
    """Every metric of every evaluation, with the bound that the gate of this release holds it to."""
    bounds = {}
    gates = facts.records(StepKind.GATE)
    for gate in gates:
        document = facts.document(gate, "verdict", VERDICT_FILE)
        for check in document["checks"] if document else ():
            bounds[check["suite"], check["task"], check["metric"], check["bound"]] = check, gate
    rows: list[Measurement] = []
    by_searches = measured_by_searches(facts)  # what a model was chosen by is told with the search
    for record in facts.records(StepKind.EVALUATE):
        if record.products.get("report") in by_searches:
            continue
        report = facts.document(record, "report", REPORT_FILE)
        suite = f"EvalSuite/{record.step_id.rpartition('.')[2]}"
        for task, found in report["tasks"].items() if report else ():
            for metric, value in found["metrics"].items():
                place = (suite, task, metric)
                own = [bounds.pop(key) for key in list(bounds) if key[:3] == place]
                rows += [_measurement(facts, record, place, value, found, check, gate) for check, gate in own]
                if not own:
                    rows.append(_measurement(facts, record, place, value, found, None, None))
    for (suite, task, metric, _), (check, gate) in bounds.items():  # a bound that nothing measured: a NO-GO
        rows.append(_measurement(facts, None, (suite, task, metric), check["value"], {}, check, gate))
    return tuple(rows)


def measured_before(facts: Facts) -> tuple[MeasuredBefore, ...]:
    """Every evaluation of the released weights, and every verdict on one, that its role signed."""
    return tuple(
        MeasuredBefore(item.sequence, item.record.step_id, item.record.commit, item.record.finished, item.decision)
        for item in facts.examined.evidence.measured
    )


def approvals(facts: Facts) -> tuple[int, tuple[GivenApproval, ...]]:
    """How many are needed, and those that the release names."""
    release, evidence, history = facts.release, facts.examined.evidence, facts.examined.history
    charter = facts.authority.charter
    needed = charter.supply_chain.release.approvals.get(release.environment, 0) if charter else 0
    entries = [entry for entry in evidence.entries if entry.digest in release.approvals]
    place = evidence.sequence(release)
    given = judge_approvals(entries, evidence.attestations, history, place, evidence.authors, evidence.parts)
    refusals = {item.entry: item.refusal for item in given}
    return needed, tuple(
        GivenApproval(
            person=body.person,
            given=body.given,
            commit=body.commit,
            refusal=refusals.get(entry.digest, "it came after the release"),
            evidence=(Evidence(f"approval of {body.person}", f"approvals/{body.person}-{entry.sequence}.json"),),
        )
        for entry in entries
        if isinstance(body := entry.body, Approval)
    )


def changes(facts: Facts) -> Changes:
    """What differs from the release that the environment served before."""
    release = facts.release
    before = facts.examined.evidence.previous
    if before is None:
        return Changes(None, None, (), ())
    unread: list[str] = []
    earlier = specs_of(facts.repository, before.commit, unread)
    fields: tuple[FieldChange, ...] = ()
    if earlier is not None and facts.desired is not None:
        fields = tuple(_fields(_plain(earlier), _plain(facts.desired)))
    try:
        names = commits_between(facts.repository, release.commit, [before.commit])
    except TrustError as error:
        unread.append(str(error))
        names = [release.commit]
    commits = tuple(_commit(facts, name) for name in names[:_MOST_ROWS])
    return Changes(before.commit, before.moved, commits, fields[:_MOST_ROWS], "; ".join(unread) or None)


def _reproduced(facts: Facts, runs: list[Run]) -> Iterator[ReproducedBy]:
    for run in runs:
        if isinstance(run.body, Reproduction):
            ran_on = run.body.hardware
            accelerators = f", {', '.join(ran_on.accelerators)}" if ran_on.accelerators else ""
            about = f"{run.body.step_id} entry {run.sequence}"
            yield ReproducedBy(
                run.signer,
                run.body.finished,
                f"{ran_on.cpu}, {ran_on.cores} cores{accelerators}",
                run.sequence,
                run.refusal,
                facts.attested(about, *sorted(run.body.attestations)),
            )


def _stamped(facts: Facts, record: Record) -> str | None:
    """When the pinned authority saw the last of a record's signatures; nothing where one of its time stamps does not hold."""
    evidence, history = facts.examined.evidence, facts.examined.history
    found = []
    for name, digest in record.attestations.items():
        sealed = evidence.attestations.get(digest)
        if name.startswith(PREFIX) or sealed is None:
            continue
        try:
            place = evidence.sequence(record)
            found.append(moment_of(name, record.attestations, sealed, signature_in, evidence.attestations, history, place))
        except TrustError:  # a finding of the verdict
            return None
    return max((moment for moment in found if moment is not None), default=None)


def _signer(facts: Facts, record: Record) -> str:
    """The name of the key that signed a record's link, as the supply chain has it."""
    evidence = facts.examined.evidence
    data = evidence.attestations.get(record.attestations.get("link", ""))
    if data is None:
        return "nobody"
    try:
        ids = signed_by(data)
        known = signers_of(record, record.step, evidence, facts.examined.history).known
    except TrustError:
        return "nobody that can be told"
    return ", ".join(signer.name for signer in known if signer.key.keyid in ids and signer.refusal is None) or "a stranger"


def _measurement(
    facts: Facts,
    record: Record | None,
    place: tuple[str, str, str],
    value: float | None,
    found: Mapping[str, Any],
    check: Mapping[str, Any] | None,
    gate: Record | None,
) -> Measurement:
    evidence = (
        *(facts.attested(record.step_id, "test-result") if record else ()),
        *((facts.in_bundle(record, "report", REPORT_FILE),) if record else ()),
        *(facts.attested(gate.step_id, "svr", "provenance")[:1] if gate else ()),
    )
    return Measurement(
        *place,
        value=value,
        stderr=found.get("stderr", {}).get(place[2]),
        num_items=found.get("items", 0),
        bound=Bound(check["bound"]) if check else None,
        threshold=check["threshold"] if check else None,
        passed=check["passed"] if check else None,
        evidence=evidence,
    )


def _commit(facts: Facts, name: str) -> CommitRow:
    try:
        found = facts.repository.read_object(name)
        signer = author_of(facts.repository, name, facts.authority)
    except (RepoError, TrustError) as error:
        return CommitRow(name, str(error), None)
    message = found.data.partition(b"\n\n")[2] if found is not None else b""
    return CommitRow(name, message.decode("utf-8", "replace").strip().split("\n", 1)[0][:_LONGEST], signer)


def _plain(desired: Any) -> dict[str, dict[str, Any]]:
    """Every spec as flat fields."""
    found = {}
    for address in desired.compiled:
        resource = desired.resources[address]
        found[address] = dict(_flat(resource.model_dump(mode="json", exclude={"apiVersion", "kind"}), ""))
    return found


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _flat(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _flat(item, f"{path}[{index}]")
    else:
        yield path, value


def _fields(old: Mapping[str, dict[str, Any]], new: Mapping[str, dict[str, Any]]) -> Iterator[FieldChange]:
    for address in sorted({*old, *new}):
        if address not in old or address not in new:
            was, now_is = ("was there" if address in side else None for side in (old, new))
            yield FieldChange(address, "the whole spec", was, "new" if now_is else None)
            continue
        before, now = old[address], new[address]
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                yield FieldChange(address, name, _text(before.get(name)), _text(now.get(name)))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)[:_LONGEST]
