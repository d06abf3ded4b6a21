"""Read a ledger for a verification: every object re-hashed, every entry in its place, whatever cannot be read a finding."""

from collections.abc import Iterator

from forge.admission.evidence import Evidence
from forge.admission.objects import LedgerObjects, read_objects
from forge.admission.verdict import Finding, Rule
from forge.contract.record import Record, Withdrawal
from forge.errors import LedgerError
from forge.ledger.entry import Entry, index_paths, sequence_path
from forge.ledger.ledger import Snapshot
from forge.ledger.snapshot import read_entry
from forge.repo.repository import Repository


def collect_ledger(repository: Repository, snapshot: Snapshot) -> Evidence:
    """Read every object that the ledger's head reaches, each re-hashed, then all entries in order.

    Entries are read on after a fault: a withdrawal has to be seen behind one.
    """
    evidence = Evidence()
    objects = read_objects(repository, snapshot.commit)
    _collect_entries(objects, snapshot, evidence)
    if objects.faults:  # the rest follows from them
        evidence.findings = [Finding(Rule.LEDGER, path, message) for path, message in objects.faults]
    return evidence


def _collect_entries(objects: LedgerObjects, snapshot: Snapshot, evidence: Evidence) -> None:
    for (older, newer), name in zip(objects.commits, objects.names, strict=True):
        for path in objects.lost(older, newer):
            evidence.findings.append(Finding(Rule.LEDGER, path, f"commit {name} removes or changes it"))
    listing = evidence.listing = objects.paths()
    previous: str | None = None
    listed: set[str] = set()
    last, is_read = 0, True
    places = _Places()
    while (path := sequence_path(last + 1)) in listing:
        last = sequence = last + 1
        try:
            entry = read_entry(path, objects.blobs.get(listing[path]))
        except LedgerError as error:
            evidence.findings.append(Finding(Rule.LEDGER, path, str(error)))
            previous, is_read = None, False
            continue
        if entry.sequence != sequence or (entry.previous != previous and (previous is not None or is_read)):
            message = f"it does not follow entry {sequence - 1}: expected previous {previous}, found {entry.previous}"
            evidence.findings.append(Finding(Rule.LEDGER, path, message))
        for index in index_paths(entry):
            listed.add(index)
            if listing.get(index) != listing.get(path):
                evidence.findings.append(Finding(Rule.LEDGER, index, f"it should be the same object as {path}"))
        listed.add(path)
        previous = entry.digest
        evidence.findings.extend(places.replays(entry))
        evidence.entries.append(entry)
        evidence.locate((entry,))
    if not is_read:
        return  # what belongs to an entry that cannot be read is not known
    try:
        if (last, previous) != snapshot.head:
            message = "the head names another last entry than there is"
            evidence.findings.append(Finding(Rule.LEDGER, str(snapshot.commit), message))
    except LedgerError as error:
        evidence.findings.append(Finding(Rule.LEDGER, str(snapshot.commit), str(error)))
    for path in sorted(set(listing) - listed):
        if not path.startswith("attestations/"):
            evidence.findings.append(Finding(Rule.LEDGER, path, "no entry belongs to this path"))


class _Places:
    """The newest entry in each place of the ledger: what the next one there has to follow."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, str], Entry] = {}

    def replays(self, entry: Entry) -> Iterator[Finding]:
        """A signed body says nothing of its place in the chain: whoever can write the ref could append an old one again.

        Of moves a rule of its own tells (``rules.judge_moves``), when it is known which of them are signed.
        """
        body, path = entry.body, sequence_path(entry.sequence)
        if isinstance(body, Record):
            known = self._follow(("record", body.key), entry)
            if body.supersedes != (known.digest if known else None):
                message = f"the record of {body.step_id} does not supersede the one before it ({_place(known)})"
                yield Finding(Rule.LEDGER, path, message)
        elif isinstance(body, Withdrawal):
            known = self._follow(("withdrawal", body.subject), entry)
            if body.supersedes != (known.digest if known else None):
                message = f"the withdrawal of {body.subject} does not follow the one before it ({_place(known)})"
                yield Finding(Rule.LEDGER, path, message)

    def _follow(self, place: tuple[str, str], entry: Entry) -> Entry | None:
        known = self._newest.get(place)
        self._newest[place] = entry
        return known


def _place(entry: Entry | None) -> str:
    return f"entry {entry.sequence}" if entry else "none"
