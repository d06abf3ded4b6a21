"""Collect what a verification looks at: the records that a subject descends from, their attestations, bytes and commits.

What cannot be read is a finding of the evidence, not an exception: one run names every fault.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress

from forge.admission.closure import Closure
from forge.admission.evidence import Evidence
from forge.admission.history import History
from forge.admission.lifting import unfounded
from forge.admission.moves import Moves
from forge.admission.plans import Done, authors_at
from forge.admission.searches import beside_the_best
from forge.admission.verdict import Finding, Rule
from forge.canonical import digest_of_bytes, is_digest
from forge.contract.hyperparameters import HYPERPARAMETERS, HYPERPARAMETERS_FILE
from forge.contract.kinds import StepKind
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
from forge.ledger.entry import attestation_path, sequence_path
from forge.ledger.ledger import Snapshot
from forge.plan.desired import Desired
from forge.plan.graph import build_graph
from forge.plan.step import Step
from forge.repo.desired import read_desired, settings_of
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree
from forge.store.store import Store

_DOCUMENTS = {
    ("report", StepKind.EVALUATE): REPORT_FILE,
    (HYPERPARAMETERS, StepKind.SWEEP): HYPERPARAMETERS_FILE,
    ("verdict", StepKind.GATE): VERDICT_FILE,
    ("release", StepKind.RELEASE): RELEASE_FILE,
}


def collect(
    repository: Repository,
    snapshot: Snapshot,
    store: Store | None,
    evidence: Evidence,
    roots: list[Record],
    release: Release | None,
) -> None:
    """Add the closure of some records over their inputs; every artifact in it is hashed from its bytes, but ``beside``.

    Without a store no bytes are read: what records say is collected, and whether they are signed can be judged.
    """

    def graph_of(commit: str) -> Mapping[str, Step]:
        collect_graph(repository, commit, evidence)
        return evidence.graphs.get(commit, {})

    closure = Closure([entry.body for entry in evidence.entries if isinstance(entry.body, Record)], graph_of)
    evidence.records |= closure.of(roots, release)
    evidence.beside |= beside_the_best(roots, evidence.records.values(), closure)
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
    """Add the attestations of withdrawals, and what the commits say that lift or soften one; nothing where there is none."""
    noted = [(entry, entry.body) for entry in evidence.entries if isinstance(entry.body, Withdrawal)]
    for _, body in noted:
        _collect_attestations(snapshot, body.attestations, f"withdrawal of {body.subject}", evidence)
    read = evidence.reader(snapshot)
    signed = {entry.sequence for entry, _ in noted if history.is_signed(entry, read)}
    evidence.unfounded |= unfounded(repository, [entry for entry, _ in noted], lambda e: e.sequence in signed, history)
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


def _collect_bytes(store: Store, record: Record, evidence: Evidence) -> None:
    for name, digest in [*record.inputs.items(), *record.products.items()]:
        if digest not in evidence.manifests:
            try:
                beside = digest in evidence.beside
                evidence.manifests[digest] = store.manifest(digest) if beside else store.check(digest, evidence.whole)
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
