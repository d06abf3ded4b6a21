"""Collect what a verification looks at: the records that a subject descends from, their attestations, bytes and commits.

This half reads; ``rules`` decides. What cannot be read is a finding, not an exception: one run names every fault.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from forge.admission.approvals import Authors
from forge.admission.history import History, claimed_moment
from forge.admission.lifting import unfounded_lifts
from forge.admission.moves import Moves
from forge.admission.objects import LedgerObjects, read_objects
from forge.admission.plans import Done, authors_at
from forge.admission.signed import Read
from forge.admission.verdict import Finding, Rule
from forge.attest.authority import Signers
from forge.canonical import digest_of_bytes, is_digest
from forge.contract.kinds import StepKind
from forge.contract.manifest import Manifest
from forge.contract.record import (
    Approval,
    Delegation,
    Record,
    Release,
    Renaming,
    Reproduction,
    Retirement,
    RootChange,
    Withdrawal,
)
from forge.contract.release import RELEASE_FILE
from forge.contract.verdict import REPORT_FILE, VERDICT_FILE
from forge.errors import ForgeError, LedgerError, RepoError, StoreError, TrustError
from forge.ledger.entry import Body, Entry, attestation_path, index_paths, sequence_path
from forge.ledger.ledger import Snapshot
from forge.ledger.snapshot import read_entry
from forge.plan.desired import Desired
from forge.plan.graph import Step, build_graph
from forge.repo.desired import read_desired, settings_of
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree
from forge.store.store import Store


@dataclass(frozen=True)
class Measured:
    """An evaluation of a release's weights, or a gate's verdict on one, as its role signed it."""

    sequence: int
    record: Record
    decision: str | None = None
    """Of a gate: ``GO`` or ``NO-GO``; None where its statements do not tell."""


@dataclass
class Evidence:
    """Everything that was loaded, and everything that could not be."""

    entries: list[Entry] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    """By step key: the subject's record and all that it descends from."""
    continued: dict[tuple[str, str], Record] = field(default_factory=dict)
    """By step key and checkpoint: the records of runs that others went on from. Their statements are verified, their bytes
    are not hashed: weights that nothing serves any more, and checkpoints, may be gone from the store."""
    attestations: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    """By artifact digest; only artifacts whose bytes were hashed and are whole."""
    whole: set[str] = field(default_factory=set)
    """Blobs that were hashed: what several artifacts hold is hashed once."""
    documents: dict[str, bytes] = field(default_factory=dict)
    """By artifact digest: the one small JSON file of reports, verdicts and releases."""
    graphs: dict[str, Mapping[str, Step]] = field(default_factory=dict)
    """By commit: the steps that the commit asks for."""
    charters: dict[str, Mapping[str, Any] | None] = field(default_factory=dict)
    """By commit: its SupplyChain and People; None where it has no SupplyChain."""
    authors: Authors | None = None
    """Who signed the commits that a release brings, where authors and approvers are kept apart."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """By person: what they signed of the release as a role that is kept from approving."""
    retention_days: float | None = None
    """How long the commit of the delegation in force at a release keeps records; None where that commit is not here."""
    plan_authors: dict[int, Authors | None] = field(default_factory=dict)
    """By number of an approval's entry: who wrote what the plan brings, where authors and approvers are kept apart."""
    previous: Release | None = None
    """The last release of the environment before, that had the approvals it needed."""
    goes_back_from: str | None = None
    """The commit that the environment served before, where the release's commit does not descend from it."""
    measured: tuple[Measured, ...] = ()
    """What was measured of a release's weights before it, and decided on it, in the ledger's order."""
    unfounded_lifts: dict[int, str] = field(default_factory=dict)
    """By number of an entry that lifts a withdrawal: why its commit does not say so."""
    former_names: dict[str, set[str]] = field(default_factory=dict)
    """Address -> what it was called before, as the ledger notes and the commits say; known where something is withdrawn."""
    findings: list[Finding] = field(default_factory=list)
    listing: Mapping[str, str] = field(default_factory=dict)
    """Every path of the ledger's tree with its object id."""
    made: dict[tuple[str, str, str, str], bool] = field(default_factory=dict)
    """By commit, step id, product and digest: whether a record made it that the commit asks for, as far as was asked."""
    _places: dict[int, int] = field(default_factory=dict)
    """By the identity of an entry's body: its number. A body does not say its place, and what it lists anybody can list."""

    @cached_property
    def makers(self) -> Mapping[str, Sequence[Record]]:
        """By product: the records of the chain that made it. Asked for once everything is collected."""
        found: dict[str, list[Record]] = defaultdict(list)
        for record in self.records.values():
            for digest in record.products.values():
                found[digest].append(record)
        return found

    @cached_property
    def by_step(self) -> Mapping[tuple[str, str], Record]:
        """By product and step id: the record of that name which made it. Asked for once everything is collected."""
        return {(digest, record.step_id): record for digest, records in self.makers.items() for record in records}

    def locate(self, entries: Iterable[Entry]) -> None:
        """Note where the bodies of entries stand."""
        for entry in entries:
            self._places[id(entry.body)] = entry.sequence

    def sequence(self, body: Body) -> int:
        """The number of the entry that a body was read from; raises LedgerError for a body that no entry here holds.

        Told from the entry itself: two entries may list the same attestations, and whoever can write the ref could have put
        one of them there before a key was revoked.
        """
        try:
            return self._places[id(body)]
        except KeyError:
            raise LedgerError(f"a {body.kind} was judged that is no entry of this ledger: read it from one") from None

    def reader(self, snapshot: Snapshot) -> Read:
        """Any attestation of the ledger: what was collected, else what the snapshot has."""
        return lambda digest: self.attestations.get(digest) or snapshot.attestation(digest)


def signers_of(
    body: Record | Release | Retirement | Withdrawal, step: StepKind, evidence: Evidence, history: History
) -> Signers:
    """Who may have signed a body, as far as the ledger's order tells when."""
    sequence = evidence.sequence(body)
    authority = history.authority(sequence)
    return authority.signers(authority.role_of(step), history.moment(sequence, claimed_moment(body)))


_DOCUMENTS = {
    ("report", StepKind.EVALUATE): REPORT_FILE,
    ("verdict", StepKind.GATE): VERDICT_FILE,
    ("release", StepKind.RELEASE): RELEASE_FILE,
}


def collect_ledger(repository: Repository, snapshot: Snapshot) -> Evidence:
    """Read every object that the ledger's head reaches, each re-hashed, then all entries in order.

    Entries are read on after a fault: a withdrawal has to be seen behind one.
    """
    evidence = Evidence()
    _collect_ledger(repository, snapshot, evidence)
    return evidence


def collect(
    repository: Repository,
    snapshot: Snapshot,
    store: Store | None,
    evidence: Evidence,
    roots: list[Record],
    release: Release | None,
) -> None:
    """Add the closure of some records over their inputs; every artifact in it is hashed from its bytes.

    Without a store no bytes are read: what records say is collected, and whether they are signed can be judged.
    """
    makers: dict[str, list[Record]] = defaultdict(list)  # two models may give the same report: both made it
    for entry in evidence.entries:
        if isinstance(entry.body, Record):
            for digest in entry.body.products.values():
                makers[digest].append(entry.body)
    pending, followed = list(roots), set[str]()
    while pending:
        record = pending.pop()
        if record.key in evidence.records:
            continue
        evidence.records[record.key] = record
        for digest in record.inputs.values():
            if digest not in followed:  # a thousand records may have read one artifact
                pending.extend(makers.get(digest, ()))
                followed.add(digest)
    _prefetch(repository, evidence)
    for record in evidence.records.values():
        _collect_attestations(snapshot, record.attestations, record.step_id, evidence)
        if store is not None:
            _collect_bytes(store, record, evidence)
        collect_graph(repository, record.commit, evidence)
    for record in list(evidence.records.values()):
        _collect_continued(repository, snapshot, record, evidence)
    if release is not None:
        _collect_attestations(snapshot, release.attestations, f"release of {release.environment}", evidence)
        collect_graph(repository, release.commit, evidence)


def collect_governance(
    repository: Repository, snapshot: Snapshot, evidence: Evidence, history: History, release: Release, moves: Moves
) -> None:
    """Add what the supply chain asks beside the chain itself: approvals, the commits' authors, where the pointer comes from."""
    sequence = evidence.sequence(release)
    authority = history.authority(sequence)
    if authority.charter is None:
        evidence.previous = moves.served(release.environment, sequence)
        return
    for entry in evidence.entries:
        if isinstance(entry.body, Approval) and entry.digest in release.approvals:
            _collect_attestations(snapshot, entry.body.attestations, sequence_path(entry.sequence), evidence)
    delegation = history.delegation(sequence)
    if delegation is not None:
        with suppress(ForgeError):
            tree = CommitTree(repository, repository.resolve_commit(delegation.commit))
            evidence.retention_days = settings_of(tree).retention.days
    try:
        earlier = moves.served(release.environment, sequence)
        if earlier is not None and not repository.is_ancestor(earlier.commit, release.commit):
            evidence.goes_back_from = earlier.commit
        evidence.previous = moves.approved(release.environment, sequence)
        if release.approvals:
            evidence.authors = moves.authors(release, sequence)
            evidence.parts = moves.parts(release, sequence)
    except (RepoError, TrustError) as error:
        evidence.findings.append(Finding(Rule.COMMIT, release.commit, str(error)))


def collect_plans(
    repository: Repository, snapshot: Snapshot, evidence: Evidence, history: History, done: Iterable[Done], moves: Moves
) -> None:
    """Add the approvals of plans that some records and a release name, and who wrote what those plans bring."""
    named = {digest for each in done for digest in each.body.plan_approvals}
    for entry in evidence.entries if named else ():
        if not isinstance(entry.body, Approval) or entry.digest not in named:
            continue
        _collect_attestations(snapshot, entry.body.attestations, sequence_path(entry.sequence), evidence)
        try:
            evidence.plan_authors[entry.sequence] = authors_at(repository, moves, history, entry)
        except (RepoError, TrustError) as error:
            evidence.findings.append(Finding(Rule.COMMIT, entry.body.commit, str(error)))


def collect_delegations(snapshot: Snapshot, evidence: Evidence) -> None:
    """Add what the root signed."""
    for entry in evidence.entries:
        if isinstance(entry.body, Delegation | RootChange):
            _collect_attestations(snapshot, entry.body.attestations, sequence_path(entry.sequence), evidence)


def collect_retirement(snapshot: Snapshot, evidence: Evidence, retirement: Retirement) -> None:
    """Add the attestations of an environment's retirement."""
    _collect_attestations(snapshot, retirement.attestations, f"retirement of {retirement.environment}", evidence)


def collect_reproductions(repository: Repository, snapshot: Snapshot, evidence: Evidence) -> None:
    """Add what the reproductions of the chain's records are signed with, and the commits of the records that they name."""
    for entry in evidence.entries:
        if isinstance(entry.body, Reproduction) and entry.body.key in evidence.records:
            _collect_attestations(snapshot, entry.body.attestations, sequence_path(entry.sequence), evidence)
    reproduced = {entry.body.record for entry in evidence.entries if isinstance(entry.body, Reproduction)}
    for entry in evidence.entries if reproduced else ():
        if isinstance(entry.body, Record) and entry.body.key in evidence.records and entry.digest in reproduced:
            collect_graph(repository, entry.body.commit, evidence)


def collect_withdrawals(repository: Repository, snapshot: Snapshot, evidence: Evidence, history: History) -> None:
    """Add the attestations of every withdrawal, and what the commits say that lift one. Nothing is read where there is none."""
    noted = [(entry, entry.body) for entry in evidence.entries if isinstance(entry.body, Withdrawal)]
    for _, body in noted:
        _collect_attestations(snapshot, body.attestations, f"withdrawal of {body.subject}", evidence)
    read = evidence.reader(snapshot)
    signed = {entry.sequence for entry, _ in noted if history.is_signed(entry, read)}
    evidence.unfounded_lifts |= unfounded_lifts(
        repository, [entry for entry, _ in noted], lambda e: e.sequence in signed, history
    )
    if noted:
        _collect_renamings(repository, evidence)


def _collect_renamings(repository: Repository, evidence: Evidence) -> None:
    """A renaming is not signed: it counts where the commit that it names says the same."""
    for entry in evidence.entries:
        body = entry.body
        if isinstance(body, Renaming):
            with suppress(ForgeError):  # a commit that is gone says nothing
                desired = read_desired(CommitTree(repository, repository.resolve_commit(body.commit)))
                if desired.previous.get(body.subject) == body.previous:
                    evidence.former_names.setdefault(body.subject, set()).add(body.previous)


def _collect_ledger(repository: Repository, snapshot: Snapshot, evidence: Evidence) -> None:
    objects = read_objects(repository, snapshot.commit)
    _collect_entries(objects, snapshot, evidence)
    if objects.faults:  # the rest follows from them
        evidence.findings = [Finding(Rule.LEDGER, path, message) for path, message in objects.faults]


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


def _collect_bytes(store: Store, record: Record, evidence: Evidence) -> None:
    for name, digest in [*record.inputs.items(), *record.products.items()]:
        if digest not in evidence.manifests:
            try:
                evidence.manifests[digest] = store.check(digest, evidence.whole)
            except StoreError as error:
                evidence.findings.append(Finding(Rule.BYTES, f"{record.step_id}/{name}", str(error)))
    for name, digest in record.products.items():
        document = _DOCUMENTS.get((name, record.step))
        if document is not None and digest in evidence.manifests and digest not in evidence.documents:
            try:
                evidence.documents[digest] = store.read_file(digest, document)
            except StoreError as error:
                evidence.findings.append(Finding(Rule.BYTES, f"{record.step_id}/{name}", str(error)))


def _collect_continued(repository: Repository, snapshot: Snapshot, record: Record, evidence: Evidence) -> None:
    """The run that a record continued, the one that this one continued, and so on."""
    while record.continued is not None:
        place = (record.continued.key, record.continued.checkpoint)
        named = [
            entry.body
            for entry in evidence.entries
            if isinstance(entry.body, Record)
            and entry.body.key == record.continued.key
            and entry.body.byproducts.get(record.continued.byproduct) == record.continued.checkpoint
        ]
        if not named or place in evidence.continued:
            return
        record = evidence.continued[place] = named[-1]
        _collect_attestations(snapshot, record.attestations, record.step_id, evidence)
        collect_graph(repository, record.commit, evidence)


def collect_graph(repository: Repository, commit: str, evidence: Evidence) -> None:
    """Add the steps that a commit asks for."""
    if commit not in evidence.graphs:
        try:
            desired: Desired = read_desired(CommitTree(repository, repository.resolve_commit(commit)))
            evidence.graphs[commit] = build_graph(desired)
            evidence.charters[commit] = desired.charter
        except ForgeError as error:
            evidence.findings.append(Finding(Rule.COMMIT, commit, f"cannot be read again: {error}"))


def _prefetch(repository: Repository, evidence: Evidence) -> None:
    """Read the records' attestations in one go; those that cannot be read, or are damaged, are left to be read one by one."""
    wanted = {
        name: digest
        for record in evidence.records.values()
        for digest in record.attestations.values()
        if digest not in evidence.attestations
        and is_digest(digest)
        and (name := evidence.listing.get(attestation_path(digest))) is not None
    }
    try:
        found = repository.objects_there(wanted)
    except RepoError:
        return
    for name, item in found.items():
        if digest_of_bytes(item.data) == wanted[name]:
            evidence.attestations[wanted[name]] = item.data


def _collect_attestations(snapshot: Snapshot, names: Mapping[str, str], owner: str, evidence: Evidence) -> None:
    for name, digest in names.items():
        if digest in evidence.attestations:
            continue
        try:
            evidence.attestations[digest] = snapshot.attestation(digest)
        except LedgerError as error:
            evidence.findings.append(Finding(Rule.SIGNATURE, f"{owner} {name}", str(error)))
