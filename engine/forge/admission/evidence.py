"""Collect what a verification looks at: the records that a subject descends from, their attestations, bytes and commits.

This half reads; ``rules`` decides. What cannot be read is a finding, not an exception: one run names every fault.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from forge.admission.approvals import Authors, authors_of, separates_authors
from forge.admission.history import History, claimed_moment
from forge.admission.verdict import Finding, Rule
from forge.attest.authority import Signers
from forge.contract.checkpoints import BYPRODUCT
from forge.contract.kinds import StepKind
from forge.contract.manifest import Manifest
from forge.contract.record import Approval, Attempt, Delegation, Record, Release, Retirement, RootChange, Withdrawal
from forge.contract.release import RELEASE_FILE
from forge.contract.verdict import REPORT_FILE, VERDICT_FILE
from forge.errors import ForgeError, LedgerError, RepoError, StoreError, TrustError
from forge.ledger.entry import Entry, index_paths, sequence_path
from forge.ledger.ledger import Snapshot
from forge.plan.desired import Desired
from forge.plan.graph import Step, build_graph
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree
from forge.store.store import Store


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
    goes_back_from: str | None = None
    """The commit that the environment served before, where the release's commit does not descend from it."""
    unfounded_lifts: dict[int, str] = field(default_factory=dict)
    """By number of an entry that lifts a withdrawal: why its commit does not say so."""
    findings: list[Finding] = field(default_factory=list)
    sequences: dict[tuple[str, ...], int] = field(default_factory=dict)
    """By its attestations: the first place of a body in the ledger."""

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
    pending = list(roots)
    while pending:
        record = pending.pop()
        if record.key in evidence.records:
            continue
        evidence.records[record.key] = record
        pending.extend(maker for digest in record.inputs.values() for maker in makers.get(digest, ()))
    for record in evidence.records.values():
        _collect_attestations(snapshot, record.attestations, record.step_id, evidence)
        if store is not None:
            _collect_bytes(store, record, evidence)
        _collect_graph(repository, record.commit, evidence)
    for record in list(evidence.records.values()):
        _collect_continued(repository, snapshot, record, evidence)
    if release is not None:
        _collect_attestations(snapshot, release.attestations, f"release of {release.environment}", evidence)
        _collect_graph(repository, release.commit, evidence)


def collect_governance(
    repository: Repository, snapshot: Snapshot, evidence: Evidence, history: History, release: Release
) -> None:
    """Add what the supply chain asks beside the chain itself: approvals, the commits' authors, where the pointer comes from."""
    sequence = evidence.sequence(release)
    authority = history.authority(sequence)
    if authority.charter is None:
        return
    for entry in evidence.entries:
        if isinstance(entry.body, Approval) and entry.digest in release.approvals:
            _collect_attestations(snapshot, entry.body.attestations, sequence_path(entry.sequence), evidence)
    earlier = [
        entry.body.commit
        for entry in evidence.entries
        if isinstance(entry.body, Release) and entry.body.environment == release.environment and entry.sequence < sequence
    ]
    delegation = history.delegation(sequence)
    try:
        if earlier and not repository.is_ancestor(earlier[-1], release.commit):
            evidence.goes_back_from = earlier[-1]
        if separates_authors(authority) and release.approvals:
            before = [*earlier[-1:], *([delegation.commit] if delegation else [])]
            evidence.authors = authors_of(repository, release.commit, before, authority)
    except (RepoError, TrustError) as error:
        evidence.findings.append(Finding(Rule.COMMIT, release.commit, str(error)))


def collect_delegations(snapshot: Snapshot, evidence: Evidence) -> None:
    """Add what the root signed."""
    for entry in evidence.entries:
        if isinstance(entry.body, Delegation | RootChange):
            _collect_attestations(snapshot, entry.body.attestations, sequence_path(entry.sequence), evidence)


def collect_retirement(snapshot: Snapshot, evidence: Evidence, retirement: Retirement) -> None:
    """Add the attestations of an environment's retirement."""
    _collect_attestations(snapshot, retirement.attestations, f"retirement of {retirement.environment}", evidence)


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
    commits = _read_objects(repository, snapshot, evidence)
    if evidence.findings:
        return
    for older, newer in commits:
        for path in _lost(repository, f"{older}^{{tree}}", f"{newer}^{{tree}}"):
            evidence.findings.append(Finding(Rule.LEDGER, path, f"commit {newer} removes or changes it"))
    listing = snapshot.paths()
    previous: str | None = None
    listed: set[str] = set()
    last = snapshot.head[0]
    for sequence in range(1, last + 1):
        path = sequence_path(sequence)
        try:
            entry = snapshot.entry_at(path)
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
        evidence.findings.extend(_replays(entry, evidence.entries))
        evidence.entries.append(entry)
        evidence.locate((entry,))
    if (last, previous) != snapshot.head:
        evidence.findings.append(Finding(Rule.LEDGER, str(snapshot.commit), "the head names another last entry than there is"))
    for path in sorted(set(listing) - listed):
        if not path.startswith("attestations/"):
            evidence.findings.append(Finding(Rule.LEDGER, path, "no entry belongs to this path"))


def _replays(entry: Entry, before: list[Entry]) -> Iterator[Finding]:
    """A signed body says nothing of its place in the chain, so whoever can write the ref could append an old one again."""
    body, path = entry.body, sequence_path(entry.sequence)
    if isinstance(body, Record):
        known = next((old for old in reversed(before) if isinstance(old.body, Record) and old.body.key == body.key), None)
        if body.supersedes != (known.digest if known else None):
            place = f"entry {known.sequence}" if known else "none"
            yield Finding(Rule.LEDGER, path, f"the record of {body.step_id} does not supersede the one before it ({place})")
    elif isinstance(body, Withdrawal):
        known = next((e for e in reversed(before) if isinstance(e.body, Withdrawal) and e.body.subject == body.subject), None)
        if body.supersedes != (known.digest if known else None):
            place = f"entry {known.sequence}" if known else "none"
            yield Finding(Rule.LEDGER, path, f"the withdrawal of {body.subject} does not follow the one before it ({place})")
    elif isinstance(body, Release | Retirement) and body.environment is not None:
        bodies = (old.body for old in before)
        moves = [old.moved for old in bodies if isinstance(old, Release | Retirement) and old.environment == body.environment]
        if moves and body.moved <= moves[-1]:
            yield Finding(
                Rule.LEDGER, path, f"a {body.kind} of {body.environment} moved {body.moved} follows one of {moves[-1]}"
            )


def _lost(repository: Repository, older: str, newer: str, prefix: str = "") -> Iterator[str]:
    """Paths of the older tree that the newer lacks or has other bytes for; equal subtrees are not entered."""
    kept = {row.path: row for row in repository.children(newer)}
    for row in repository.children(older):
        now = kept.get(row.path)
        if now == row:
            continue
        if now is not None and now.mode == row.mode == "40000":
            yield from _lost(repository, row.name, now.name, f"{prefix}{row.path}/")
        else:
            yield prefix + row.path


def _read_objects(repository: Repository, snapshot: Snapshot, evidence: Evidence) -> list[tuple[str, str]]:
    """Walk commits, trees and blobs from the head, each read once; git's own walk does not re-hash what it meets.

    Returns the commits as (parent, child).
    """
    pending = [(snapshot.commit, "the head")] if snapshot.commit else []
    seen: set[str] = set()
    steps: list[tuple[str, str]] = []
    while pending:
        name, path = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = repository.read_object(name)
        except RepoError as error:
            evidence.findings.append(Finding(Rule.LEDGER, path, str(error)))
            continue
        if found is None:
            evidence.findings.append(Finding(Rule.LEDGER, path, f"Git object {name} is absent"))
        elif found.kind == "commit":
            names = [line.split(" ", 1) for line in _headers(found.data) if line.startswith(("tree ", "parent "))]
            pending += [(target, f"commit {name}") for _, target in names]
            steps += [(target, name) for kind, target in names if kind == "parent"]
        elif found.kind == "tree":
            try:
                pending += [(row.name, row.path) for row in repository.children(name)]
            except RepoError as error:
                evidence.findings.append(Finding(Rule.LEDGER, path, str(error)))
        elif found.kind != "blob":
            evidence.findings.append(Finding(Rule.LEDGER, path, f"Git object {name} is a {found.kind}"))
    return steps


def _headers(commit: bytes) -> list[str]:
    return commit.split(b"\n\n", 1)[0].decode("utf-8", "replace").splitlines()


def _collect_bytes(store: Store, record: Record, evidence: Evidence) -> None:
    for name, digest in [*record.inputs.items(), *record.products.items()]:
        if digest not in evidence.manifests:
            try:
                evidence.manifests[digest] = store.check(digest, evidence.whole)
            except StoreError as error:
                evidence.findings.append(Finding(Rule.BYTES, f"{record.step_id}/{name}", str(error)))
    for name, digest in record.products.items():
        document = _DOCUMENTS.get((name, record.step))
        if document is not None and digest in evidence.manifests:
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
            if isinstance(entry.body, Record) and (entry.body.key, entry.body.byproducts.get(BYPRODUCT)) == place
        ]
        if not named or place in evidence.continued:
            return
        record = evidence.continued[place] = named[-1]
        _collect_attestations(snapshot, record.attestations, record.step_id, evidence)
        _collect_graph(repository, record.commit, evidence)


def _collect_graph(repository: Repository, commit: str, evidence: Evidence) -> None:
    if commit not in evidence.graphs:
        try:
            desired: Desired = read_desired(CommitTree(repository, repository.resolve_commit(commit)))
            evidence.graphs[commit] = build_graph(desired)
            evidence.charters[commit] = desired.charter
        except ForgeError as error:
            evidence.findings.append(Finding(Rule.COMMIT, commit, f"cannot be read again: {error}"))


def _collect_attestations(snapshot: Snapshot, names: Mapping[str, str], owner: str, evidence: Evidence) -> None:
    for name, digest in names.items():
        if digest in evidence.attestations:
            continue
        try:
            evidence.attestations[digest] = snapshot.attestation(digest)
        except LedgerError as error:
            evidence.findings.append(Finding(Rule.SIGNATURE, f"{owner} {name}", str(error)))
