"""The ledger's withdrawals, held against a chain of evidence: what may no longer serve, and whether who said so may say so.

Rules:
1. The newest entry of a subject that holds is the one in force. A withdrawal holds when the releaser signed it; the end of one,
   or what lets a service go on that one before it stopped, holds when, besides, its commit says so and descends from the commit
   that withdrew.
2. What does not hold changes nothing by itself, but where it concerns the subject that is verified it is a finding: nobody can
   end a service by writing the ref, and nobody can start one.
3. Only records that hold count as makers: a record that nobody signed neither clears nor accuses anything.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from forge.admission.descent import Cause, Descent, Known
from forge.admission.evidence import Evidence, signers_of
from forge.admission.history import History
from forge.admission.rules import Judgement, record_holds
from forge.admission.timestamps import judge_timestamps
from forge.admission.verdict import Check, Finding, Rule, WithdrawnSubject
from forge.attest.envelope import unseal
from forge.attest.statements import withdrawal_statement
from forge.contract.hyperparameters import Pick
from forge.contract.kinds import StepKind
from forge.contract.record import Record, Release, Withdrawal
from forge.errors import TrustError
from forge.ledger.signers import named_signers
from forge.plan.step import FromCommit
from forge.plan.withdrawn import KEY, addresses_of

REMEDY = (
    "make it of something else, or remove the entry from the commit's Withdrawals, in a commit that descends from that one, "
    "and apply"
)


@dataclass(frozen=True)
class Standing:
    """What the ledger's withdrawals come to."""

    in_force: Mapping[str, tuple[int, Withdrawal]] = field(default_factory=dict)
    """By subject: the entry's number and the withdrawal."""
    faulty: Mapping[str, Finding] = field(default_factory=dict)
    """By subject: what is wrong with an entry that would be in force."""


def standing(evidence: Evidence, history: History) -> Standing:
    """Which withdrawals are in force, and which entries say so without right."""
    by_subject: dict[str, list[tuple[int, Withdrawal]]] = {}
    newest: dict[str, str] = {}
    for entry in evidence.entries:
        body = entry.body
        if isinstance(body, Withdrawal):
            if body.supersedes == newest.get(body.subject):  # else it was appended again, which is the ledger's fault
                by_subject.setdefault(body.subject, []).append((entry.sequence, body))
            newest[body.subject] = entry.digest
    in_force: dict[str, tuple[int, Withdrawal]] = {}
    faulty: dict[str, Finding] = {}
    for subject, rows in by_subject.items():
        for sequence, body in reversed(rows):
            finding = _fault(sequence, body, evidence, history)
            if finding is None:
                if not body.lifted:
                    in_force[subject] = sequence, body
                break
            faulty.setdefault(subject, finding)
    return Standing(in_force, faulty)


def judge_withdrawals(
    evidence: Evidence, history: History, roots: Sequence[Record], release: Release | None
) -> tuple[list[Judgement], tuple[WithdrawnSubject, ...]]:
    """Findings about what is withdrawn among all that some records descend from; and those withdrawals, which are signed."""
    found = standing(evidence, history)
    if not found.in_force and not found.faulty:
        return [], ()
    subjects = {*found.in_force, *found.faulty}
    records = [entry.body for entry in evidence.entries if isinstance(entry.body, Record)]
    known = Known(_files(evidence), _signers(evidence) if any(map(_is_key, subjects)) else {}, _aliases(evidence))
    named = Descent(records, subjects, known)
    if not any(map(named.named, evidence.records.values())) and not any(_signed_move(release, subjects, evidence)):
        return [Check(Rule.WITHDRAWN, f"it descends from none of the {len(found.in_force)} subjects that are withdrawn")], ()
    records = [record for record in records if _counts(record, evidence, history)]
    judgements: list[Judgement] = []
    withdrawn: dict[str, WithdrawnSubject] = {}
    # What a search picked is what one of its trials had already, which descends from no report: the choice does.
    roots = [*roots, *(record for record in evidence.records.values() if record.parameters.get("pick") == Pick.BEST)]
    for cause in _causes(records, found.in_force, known, roots, release, evidence):
        sequence, body = found.in_force[cause.subject]
        if cause.subject not in withdrawn:
            judgements.append(Finding(Rule.WITHDRAWN, cause.step_id, _message(cause, sequence, body)))
        withdrawn[cause.subject] = WithdrawnSubject(body.subject, body.reason, body.serving, sequence, body.commit)
    if found.faulty:
        concerned = _causes(records, {*found.in_force, *found.faulty}, known, roots, release, evidence)
        judgements.extend(
            found.faulty[name] for name in dict.fromkeys(cause.subject for cause in concerned) if name in found.faulty
        )
    if not judgements:
        judgements.append(
            Check(Rule.WITHDRAWN, f"it descends from none of the {len(found.in_force)} subjects that are withdrawn")
        )
    return judgements, tuple(withdrawn.values())


def _fault(sequence: int, body: Withdrawal, evidence: Evidence, history: History) -> Finding | None:
    signers = signers_of(body, StepKind.RELEASE, evidence, history)
    place = f"{'end of the ' if body.lifted else ''}withdrawal of {body.subject} (entry {sequence})"
    sealed = evidence.attestations.get(body.attestations.get("withdrawal", ""))
    if sealed is None:
        return Finding(
            Rule.WITHDRAWN,
            place,
            f"it is not signed: the {signers.role} signs an entry that replaces it, or the ledger is mended",
        )
    try:
        if unseal(sealed, signers, place) != withdrawal_statement(body):
            return Finding(Rule.STATEMENT, place, "what was signed is not what the ledger says")
    except TrustError as error:
        return Finding(Rule.SIGNATURE, place, str(error).removeprefix(f"{place}: "))
    if body.lifted:  # what stops a service stops it, stamped or not: only what starts one has to be beyond doubt
        late = [item for item in judge_timestamps([body], evidence, history) if isinstance(item, Finding)]
        if late:
            return Finding(late[0].rule, place, late[0].message)
    why = evidence.unfounded.get(sequence)
    return Finding(Rule.COMMIT, place, why) if why is not None else None


def _causes(
    records: Sequence[Record],
    subjects: Collection[str],
    known: Known,
    roots: Sequence[Record],
    release: Release | None,
    evidence: Evidence,
) -> Iterator[Cause]:
    if not subjects:
        return
    descent = Descent(records, subjects, known)
    for record in roots:
        yield from descent.causes(record)
    yield from _signed_move(release, subjects, evidence)


def _signed_move(release: Release | None, subjects: Collection[str], evidence: Evidence) -> Iterator[Cause]:
    """The move of the pointer itself, where a key signed it that is withdrawn."""
    for digest in release.attestations.values() if release is not None else ():
        for keyid in sorted(named_signers(evidence.attestations.get(digest, b""))):
            if KEY + keyid in subjects and release is not None:
                yield Cause(KEY + keyid, f"release of {release.environment}", "this key signed it")


def _is_key(subject: str) -> bool:
    return subject.startswith(KEY)


def _aliases(evidence: Evidence) -> dict[str, list[str]]:
    """What the resources of each record were called before, as the record's commit says, and as the ledger notes."""
    found: dict[str, list[str]] = {}
    for key, record in evidence.records.items():
        step = evidence.graphs.get(record.commit, {}).get(record.step_id)
        names = list(_former_names(addresses_of(record.step, record.step_id, record.subject), evidence))
        for earlier in step.previous_ids if step is not None else ():
            name = earlier.split("/", 1)[1]
            if record.step is StepKind.EVALUATE:
                model, _, suite = name.rpartition(".")
                names.extend((f"Model/{model}", f"EvalSuite/{suite}"))
            else:
                names.append(f"{record.subject.split('/', 1)[0]}/{name}")
        if names:
            found[key] = names
    return found


def _former_names(addresses: Iterable[str], evidence: Evidence) -> set[str]:
    found: set[str] = set()
    pending = list(addresses)
    while pending:
        before = evidence.former_names.get(pending.pop(), set()) - found
        found |= before
        pending.extend(before)
    return found


def _counts(record: Record, evidence: Evidence, history: History) -> bool:
    """Whether a record may be taken for a maker; what is not part of the chain is nobody's maker in it."""
    collected = evidence.records.get(record.key)
    return collected is None or collected != record or record_holds(record, evidence, history)


def _files(evidence: Evidence) -> dict[str, dict[str, str]]:
    """The files of every artifact in the chain: as its manifest lists them, and as the commits hold them."""
    files = {
        str(digest): {str(file.sha256): file.path for file in manifest.files} for digest, manifest in evidence.manifests.items()
    }
    for graph in evidence.graphs.values():
        for step in graph.values():
            for source in step.inputs.values():
                if isinstance(source, FromCommit):
                    paths = {file.sha256: file.origin or path for path, file in source.bundle.files.items()}
                    files.setdefault(source.bundle.digest, {}).update(paths)
    return files


def _signers(evidence: Evidence) -> dict[str, frozenset[str]]:
    return {
        key: frozenset(
            keyid for digest in record.attestations.values() for keyid in named_signers(evidence.attestations.get(digest, b""))
        )
        for key, record in evidence.records.items()
    }


def _message(cause: Cause, sequence: int, body: Withdrawal) -> str:
    return f"{body.subject} is withdrawn ({body.reason}; entry {sequence}, commit {body.commit}); here: {cause.place}; {REMEDY}"
