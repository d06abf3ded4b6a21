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
from forge.admission.moves import Moves
from forge.admission.objects import read_objects
from forge.admission.plans import Done, authors_at
from forge.admission.verdict import Finding, Rule
from forge.attest.authority import Signers
from forge.canonical import digest_of_bytes, is_digest
from forge.contract.kinds import StepKind
from forge.contract.manifest import Manifest
from forge.contract.record import (
    Approval,
    Attempt,
    Delegation,
    Record,
    Release,
    Reproduction,
    Retirement,
    RootChange,
    Withdrawal,
)
from forge.contract.release import RELEASE_FILE
from forge.contract.verdict import REPORT_FILE, VERDICT_FILE
from forge.errors import ForgeError, LedgerError, RepoError, StoreError, TrustError
from forge.ledger.entry import Entry, attestation_path, index_paths, sequence_path
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
    findings: list[Finding] = field(default_factory=list)
    listing: Mapping[str, str] = field(default_factory=dict)
    """Every path of the ledger's tree with its object id."""
    made: dict[tuple[str, str, str, str], bool] = field(default_factory=dict)
    """By commit, step id, product and digest: whether a record made it that the commit asks for, as far as was asked."""
    sequences: dict[tuple[str, ...], int] = field(default_factory=dict)
    """By its attestations: the first place of a body in the ledger."""

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
        """Note where bodies stand."""
        for entry in entries:
            if not isinstance(entry.body, Attempt):
                self.sequences.setdefault(tuple(sorted(entry.body.attestations.values())), entry.sequence)

    def sequence(self, body: Record | Release | Retirement | Withdrawal) -> int:
        """The place of a body in the ledger."""
        return self.sequences.get(tuple(sorted(body.attestations.values())), len(self.entries))


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
    """Read every object that the ledger's head reaches, each re-hashed, then all entries in order."""
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


def collect_withdrawals(repository: Repository, snapshot: Snapshot, evidence: Evidence) -> None:
    """Add the attestations of every withdrawal, and what the commits say that lift one. Nothing is read where there is none."""
    before: dict[str, Withdrawal] = {}
    for entry in evidence.entries:
        body = entry.body
        if not isinstance(body, Withdrawal):
            continue
        _collect_attestations(snapshot, body.attestations, f"withdrawal of {body.subject}", evidence)
        fault = _unfounded(repository, body, before.get(body.subject)) if body.lifted else None
        if fault is not None:
            evidence.unfounded_lifts[entry.sequence] = fault
        before[body.subject] = body


def _unfounded(repository: Repository, lift: Withdrawal, before: Withdrawal | None) -> str | None:
    """Why a commit does not lift a withdrawal: it never knew of it, or withdraws the same."""
    if before is None:
        return "it ends a withdrawal that was never made"
    if not repository.is_ancestor(before.commit, lift.commit):
        return (
            f"commit {lift.commit} does not descend from commit {before.commit}, which made the withdrawal: it never knew of it"
        )
    try:
        desired = read_desired(CommitTree(repository, repository.resolve_commit(lift.commit)))
    except ForgeError as error:
        return f"commit {lift.commit} cannot be read again: {error}"
    if any(item.subject == lift.subject for item in desired.withdrawn):
        return f"commit {lift.commit} still withdraws it"
    return None


def _collect_ledger(repository: Repository, snapshot: Snapshot, evidence: Evidence) -> None:
    objects = read_objects(repository, snapshot.commit)
    evidence.findings += [Finding(Rule.LEDGER, path, message) for path, message in objects.faults]
    if evidence.findings:
        return
    for (older, newer), name in zip(objects.commits, objects.names, strict=True):
        for path in objects.lost(older, newer):
            evidence.findings.append(Finding(Rule.LEDGER, path, f"commit {name} removes or changes it"))
    listing = evidence.listing = objects.paths()
    previous: str | None = None
    listed: set[str] = set()
    last = snapshot.head[0]
    places = _Places()
    for sequence in range(1, last + 1):
        path = sequence_path(sequence)
        try:
            entry = read_entry(path, objects.blobs.get(listing.get(path, "")))
        except LedgerError as error:
            evidence.findings.append(Finding(Rule.LEDGER, path, str(error)))
            return
        if entry.sequence != sequence or entry.previous != previous:
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
    if (last, previous) != snapshot.head:
        evidence.findings.append(Finding(Rule.LEDGER, str(snapshot.commit), "the head names another last entry than there is"))
    for path in sorted(set(listing) - listed):
        if not path.startswith("attestations/"):
            evidence.findings.append(Finding(Rule.LEDGER, path, "no entry belongs to this path"))


class _Places:
    """The newest entry in each place of the ledger: what the next one there has to follow."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, str], Entry] = {}

    def replays(self, entry: Entry) -> Iterator[Finding]:
        """A signed body says nothing of its place in the chain: whoever can write the ref could append an old one again."""
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
        elif isinstance(body, Release | Retirement) and body.environment is not None:
            known = self._follow(("move", body.environment), entry)
            before = known.body.moved if known is not None and isinstance(known.body, Release | Retirement) else None
            if before is not None and body.moved <= before:
                message = f"a {body.kind} of {body.environment} moved {body.moved} follows one of {before}"
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
