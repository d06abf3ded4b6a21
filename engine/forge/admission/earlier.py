"""Whether an earlier release holds, as far as that can be told without bytes: they may be gone from the store.

Asked of releases whose approvals were given for another commit, or whose plan had to be approved (``moves``). What cannot be
read here any more does not hold: then more commits are judged for their authors, never fewer.
"""

from collections.abc import Callable

from forge.admission.collect import collect, collect_plans
from forge.admission.duties import Behind
from forge.admission.evidence import Evidence
from forge.admission.history import History
from forge.admission.moves import Moves
from forge.admission.plans import Done, judge_plans
from forge.admission.rules import judge_move, record_holds
from forge.admission.verdict import Finding
from forge.contract.record import Record, Release
from forge.errors import LedgerError
from forge.ledger.entry import Entry
from forge.ledger.snapshot import Snapshot
from forge.repo.repository import Repository


def earlier_moves(repository: Repository, snapshot: Snapshot, evidence: Evidence, history: History) -> Moves:
    """The releases of a whole ledger, each judged by those before it."""
    records = {entry.body.key: entry.body for entry in evidence.entries if isinstance(entry.body, Record)}

    def read(digest: str) -> bytes:
        found = evidence.attestations.get(digest)
        return snapshot.attestation(digest) if found is None else found

    def holds(entry: Entry) -> bool:
        return _holds(entry, repository, snapshot, evidence, history, moves, records.get)

    moves = Moves(repository, evidence.entries, read, history, records.get, Behind(evidence.entries), holds)
    return moves


def _holds(
    entry: Entry,
    repository: Repository,
    snapshot: Snapshot,
    ledger: Evidence,
    history: History,
    moves: Moves,
    record_of: Callable[[str], Record | None],
) -> bool:
    release = entry.body
    record = record_of(release.key) if isinstance(release, Release) else None
    if record is None or not isinstance(release, Release):
        return False
    evidence = Evidence(
        entries=ledger.entries,
        attestations=dict(ledger.attestations),
        graphs=ledger.graphs,
        charters=ledger.charters,
        listing=ledger.listing,
    )
    evidence.locate(ledger.entries)
    done = [Done(release, entry.sequence)]
    try:
        collect(repository, snapshot, None, evidence, [record], release)
        collect_plans(repository, snapshot, evidence, history, done, moves)
    except LedgerError:
        return False
    judged = judge_plans(done, evidence.entries, evidence.attestations, evidence.plan_authors, history)
    return (
        not evidence.findings
        and not any(judge_move(release, evidence, history))
        and not any(isinstance(item, Finding) for item in judged)
        and all(record_holds(each, evidence, history) for each in evidence.records.values())
    )
