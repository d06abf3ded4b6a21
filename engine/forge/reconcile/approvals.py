"""The approvals in the ledger, each judged as of now: what planning and `forge apply FILE` count."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from forge.admission.approvals import Authors, authors_of, judge_approvals, separates_authors
from forge.admission.duties import kept_from_approving, parts_taken
from forge.admission.history import History, read_history
from forge.admission.moves import Moves, signed_releases
from forge.admission.plans import authors_at
from forge.attest.approval import APPROVED_PLAN
from forge.attest.authority import Authority
from forge.attest.layout import recorded_behind
from forge.attest.timestamps import read_timestamp_authority
from forge.attest.trust import read_trust_root
from forge.contract.kinds import StepKind
from forge.contract.record import Approval, Delegation, Record, Release, Reproduction, RootChange
from forge.errors import LedgerError, TrustError
from forge.ledger.entry import APPROVALS, DELEGATIONS, RELEASES, ROOTS, Entry, key_folder, reproduction_folder
from forge.ledger.ledger import Snapshot
from forge.plan.approvals import Given
from forge.plan.graph import build_graph
from forge.plan.upkeep import environments_with_approvals
from forge.reconcile.place import Place


def release_approvals(place: Place, snapshot: Snapshot) -> dict[str, tuple[Given, ...]]:
    """By environment, for those to which the commit's supply chain lets nothing be released without approvals."""
    trust = trust_of(snapshot)
    found: dict[str, tuple[Given, ...]] = {}
    for environment in environments_with_approvals(place.desired):
        entries = snapshot.entries_in(f"{APPROVALS}/release/{environment}")
        found[environment] = _judged(place, snapshot, trust, entries, environment)
    return found


def plan_approvals(place: Place, snapshot: Snapshot, digest: str) -> tuple[Given, ...]:
    """The approvals of a plan; its authors are those of its commit since what had been released when it was approved."""
    entries = [
        entry
        for entry in snapshot.entries_in(f"{APPROVALS}/plan")
        if isinstance(entry.body, Approval) and entry.body.digest == digest
    ]
    if not entries:
        return ()
    attestations, history = read_trusted(place, snapshot, trust_of(snapshot), entries)
    moves = _moves(place, snapshot, history, snapshot.environments())
    sequence = snapshot.head[0] + 1
    found = []
    for entry in entries:
        authors = authors_at(place.repository, moves, history, entry)
        (given,) = judge_approvals([entry], attestations, history, sequence, authors)
        if given.refusal is None and isinstance(entry.body, Approval) and APPROVED_PLAN not in entry.body.attestations:
            given = replace(given, refusal="an older engine gave it, which did not keep the plan: approve it again")
        found.append(given)
    return tuple(found)


def signed_moves(place: Place, snapshot: Snapshot, environment: str) -> tuple[Release, ...]:
    """An environment's releases that their releaser signed, oldest first; raises TrustError where no root is pinned here."""
    _, history = read_trusted(place, snapshot, trust_of(snapshot), ())
    return signed_releases(snapshot.entries_in(f"{RELEASES}/{environment}"), snapshot.attestation, history)


def trust_of(snapshot: Snapshot) -> list[Entry]:
    """What the root has signed."""
    return [*snapshot.entries_in(DELEGATIONS), *snapshot.entries_in(ROOTS)]


def _judged(
    place: Place, snapshot: Snapshot, trust: Sequence[Entry], entries: Sequence[Entry], environment: str
) -> tuple[Given, ...]:
    if not entries:
        return ()
    attestations, history = read_trusted(place, snapshot, trust, entries)
    sequence = snapshot.head[0] + 1
    release = _moves(place, snapshot, history, [environment]).approved(environment, sequence)
    authors = _authors(place, history, sequence, [release.commit] if release else [])
    behind = _behind(place, snapshot, environment) if kept_from_approving(history.authority(sequence)) else []
    parts = parts_taken(behind, snapshot.attestation, history, sequence)
    return tuple(judge_approvals(entries, attestations, history, sequence, authors, parts))


def read_trusted(
    place: Place, snapshot: Snapshot, trust: Sequence[Entry], entries: Sequence[Entry]
) -> tuple[dict[str, bytes], History]:
    """The attestations of some entries, and who was trusted when; raises TrustError where that does not hold."""
    attestations: dict[str, bytes] = {}
    for entry in (*trust, *entries):
        if isinstance(entry.body, Approval | Delegation | Record | Reproduction | RootChange):
            for digest in entry.body.attestations.values():
                try:
                    attestations[digest] = snapshot.attestation(digest)
                except LedgerError:
                    continue  # judged as unsigned
    ordered = sorted((*trust, *entries), key=lambda entry: entry.sequence)
    history = read_history(ordered, attestations, read_trust_root(place.config), read_timestamp_authority(place.config))
    if history.findings:
        raise TrustError("\n".join(str(finding) for finding in history.findings))
    return attestations, history


def _behind(place: Place, snapshot: Snapshot, environment: str) -> list[Entry]:
    """The entries of what is recorded of an environment's next release, and of its reproductions."""
    graph = build_graph(place.desired)
    found: list[Entry] = []
    for step in graph.values():
        if step.kind is StepKind.RELEASE and step.environment == environment:
            for done in recorded_behind(step, graph, snapshot.record).values():
                found += snapshot.entries_in(key_folder(done.record.key))
                found += snapshot.entries_in(reproduction_folder(done.record.key))
    return found


def _authors(place: Place, history: History, sequence: int, before: Sequence[str]) -> Authors | None:
    authority: Authority = history.authority(sequence)
    if not separates_authors(authority) or place.desired.commit is None:
        return None
    return authors_of(place.repository, place.desired.commit, before, authority, history.authors_since())


def _moves(place: Place, snapshot: Snapshot, history: History, environments: Iterable[str]) -> Moves:
    """The releases of some environments; whether the records behind them hold is asked when the pointer moves."""
    folders = [folder for name in environments for folder in (f"{RELEASES}/{name}", f"{APPROVALS}/release/{name}")]
    entries = sorted((entry for folder in folders for entry in snapshot.entries_in(folder)), key=lambda entry: entry.sequence)
    return Moves(place.repository, entries, snapshot.attestation, history, snapshot.record)
