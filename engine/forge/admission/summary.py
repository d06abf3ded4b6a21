"""What a release rests on, and what is said of it: rules over evidence, beside those of ``rules``. Pure.

1. The entries that a release names (``rests_on``) are records which stood in the ledger before it.
2. They hold together: they made the weights and the verdict of the release, and everything that those were made of, up to
   the files of the commit. So its verification summary names every attestation that was looked at, and a record that is
   added later changes nothing about it.
3. The summary is signed by the releaser and is what release and records say.
4. Weights that a gate's record is about are those that its reports are about.
5. Every record whose statements name a lock has the lock's text in the ledger.

A release with statements 1 was made before there were summaries: it says so itself, signed, and has none. Under a delegation
that says otherwise it may not say so.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from forge.admission.evidence import Evidence, signers_of
from forge.admission.history import History
from forge.admission.verdict import Check, Finding, Rule
from forge.attest.envelope import unseal
from forge.attest.statements import VERIFICATION_SUMMARY, verification_summary
from forge.contract.kinds import StepKind
from forge.contract.record import Record, Release
from forge.errors import TrustError
from forge.ledger.entry import Entry


def judge_summary(release: Release, evidence: Evidence, history: History) -> list[Finding | Check]:
    """Whether a release's verification summary holds (rules 1 to 3)."""
    place = f"release of {release.environment}"
    if release.statements == 1:
        outdated = history.outdated(evidence.sequence(release), release)
        return [Finding(Rule.SIGNATURE, place, f"{outdated}: it has no verification summary")] if outdated is not None else []
    weights = _given(release, evidence).get("weights")
    if weights is None:
        return [Finding(Rule.RELEASE, place, "its release step is not recorded, so its summary is about nothing")]
    found = list(_named(release, evidence))
    records = [entry.body for entry in found if isinstance(entry, Entry) and isinstance(entry.body, Record)]
    findings = [item for item in found if isinstance(item, Finding)] or list(_gaps(place, _given(release, evidence), records))
    findings += _signature(release, verification_summary(release, weights, records), evidence, history)
    if findings:
        return [*findings]
    return [Check(Rule.RELEASE, f"{place}: its verification summary names the attestations of {len(records)} records")]


def judge_subjects(evidence: Evidence) -> list[Finding]:
    """Whether each gate is about the weights that it names (rule 4)."""
    findings = []
    for gate in evidence.records.values():
        for name, weights in gate.about.items():
            for report in gate.inputs.values():
                makers = evidence.makers.get(report, ())
                if not any(maker.step is StepKind.EVALUATE and maker.inputs.get("weights") == weights for maker in makers):
                    message = (
                        f"it says that it is about {name} ({weights}), but no evaluation of those gave its report {report}"
                    )
                    findings.append(Finding(Rule.GATE, gate.step_id, message))
    return findings


def _signature(release: Release, payload: bytes, evidence: Evidence, history: History) -> list[Finding]:
    """What is wrong with a summary's signature."""
    place = f"release of {release.environment} {VERIFICATION_SUMMARY}"
    sealed = evidence.attestations.get(release.attestations.get(VERIFICATION_SUMMARY, ""))
    if sealed is None:  # one that is named and could not be read is a finding of its own
        absent = VERIFICATION_SUMMARY not in release.attestations
        return [Finding(Rule.SIGNATURE, place, "the release has no such attestation")] if absent else []
    try:
        signed = unseal(sealed, signers_of(release, StepKind.RELEASE, evidence, history), place)
    except TrustError as error:
        return [Finding(Rule.SIGNATURE, place, str(error).removeprefix(f"{place}: "))]
    if signed != payload:
        return [Finding(Rule.STATEMENT, place, "what was signed is not what the release and the records it rests on say")]
    return []


def _given(release: Release, evidence: Evidence) -> Mapping[str, str]:
    """The artifacts that the release step read, of those that steps made."""
    record = evidence.records.get(release.key)
    return {} if record is None else _made(record)


def _made(record: Record) -> dict[str, str]:
    """The inputs of a record that other steps made: the rest lies in the commit."""
    return {name: digest for name, digest in record.inputs.items() if name not in record.sources}


def _named(release: Release, evidence: Evidence) -> Iterator[Entry | Finding]:
    """The entries that a release rests on, in its order."""
    place = f"release of {release.environment}"
    entries = {str(entry.digest): entry for entry in evidence.entries}
    own = evidence.sequence(release)
    last = 0
    for digest in release.rests_on:
        entry = entries.get(digest)
        if entry is None or not isinstance(entry.body, Record) or entry.sequence >= own:
            yield Finding(Rule.RELEASE, place, f"it rests on {digest}, which is no record that the ledger held before it")
        elif entry.sequence <= last:
            yield Finding(Rule.RELEASE, place, "the entries that it rests on are not in the ledger's order")
        else:
            last = entry.sequence
            yield entry


def _gaps(place: str, given: Mapping[str, str], records: Sequence[Record]) -> Iterable[Finding]:
    """What the records do not account for, from the release step's inputs down to the files of the commit."""
    makers: dict[str, list[Record]] = {}
    for record in records:
        for digest in record.products.values():
            makers.setdefault(digest, []).append(record)
    pending, seen = list(given.items()), set()
    while pending:
        name, digest = pending.pop()
        if digest in seen:
            continue
        seen.add(digest)
        if digest not in makers:
            yield Finding(Rule.RELEASE, place, f"no record that it rests on made {name} ({digest})")
        for record in makers.get(digest, ()):
            pending.extend(_made(record).items())
