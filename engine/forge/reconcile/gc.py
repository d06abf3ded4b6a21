"""Delete what nothing reaches. It is shown before it is done, and doing it finds the same again or less.

Rules:
1. What is kept is decided in one place (``plan.reach``), from a ledger whose every entry could be read.
2. What was stored within the grace time is kept: a step stores its products before it records them. Where the store does
   not tell when something was stored, it is kept as well, and that is said.
3. No apply of this clone is at work meanwhile (the caller holds its lock); leases say what runners elsewhere read.
4. Manifests go first, then the blobs that no manifest names: a kill in between leaves nothing half-deleted that is named.
"""

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass

from forge.contract.record import Record, Release
from forge.executors.open_runs import open_runs
from forge.executors.workspace import Workspace, requested
from forge.ledger.entry import sequence_path
from forge.ledger.ledger import Snapshot
from forge.plan.graph import build_graph
from forge.plan.lineage import Lineage
from forge.plan.reach import History, Retention, reachable, removable
from forge.plan.step import FromCommit
from forge.reconcile.place import Look, Place
from forge.store.store import is_young


@dataclass(frozen=True)
class Collection:
    """What a collection would remove, or has removed."""

    artifacts: tuple[str, ...]
    size: int
    """Bytes of their files; some may be shared with artifacts that stay."""
    kept: int
    """Number of artifacts that stay."""
    young: int
    """How many of those stay only because they were stored within the grace time."""
    undated: int
    """How many stay only because the store does not tell when they were stored, so that the grace time cannot be judged."""


def find_garbage(place: Place, now: Look) -> Collection:
    """What nothing reaches; raises LedgerError when the ledger cannot be read whole, for then nothing may be deleted."""
    kept = reachable(_history(place, now), _retention(place))
    ages = place.store.ages(time.time())
    grace = place.desired.settings.retention.grace_hours * 3600
    unreached = removable(ages, kept)
    old = [digest for digest in unreached if not is_young(ages[digest], grace)]
    undated = [digest for digest in unreached if ages[digest] is None and digest not in old]
    size = sum(place.store.manifest(digest).size for digest in old if digest not in place.store.damaged())
    young = len(unreached) - len(old) - len(undated)
    return Collection(tuple(old), size, len(ages) - len(old), young, len(undated))


def collect_garbage(place: Place, garbage: Collection) -> tuple[int, int]:
    """Remove what was found; returns the number and the bytes of the blobs that went with it."""
    for digest in garbage.artifacts:
        place.store.remove(digest)
    grace = place.desired.settings.retention.grace_hours * 3600
    return place.store.sweep(time.time(), grace)


def _retention(place: Place) -> Retention:
    rule = place.desired.settings.retention
    since = place.now().astimezone(datetime.UTC) - datetime.timedelta(days=rule.days)
    return Retention(since.isoformat(timespec="milliseconds"), rule.releases)


def _history(place: Place, now: Look) -> History:
    snapshot = now.snapshot
    records: list[Record] = []
    for sequence in range(1, snapshot.head[0] + 1):
        entry = snapshot.entry_at(sequence_path(sequence))  # every one has to be read, or nothing is deleted
        if isinstance(entry.body, Record):
            records.append(entry.body)
    wanted: set[str] = set()
    for action in now.plan.actions:
        wanted.update(action.products.values(), action.inputs.values())
        if action.continues is not None and action.continues.checkpoint is not None:
            wanted.add(action.continues.checkpoint)
    for step in build_graph(place.desired).values():
        wanted.update(source.bundle.digest for source in step.inputs.values() if isinstance(source, FromCommit))
    return History(
        records=records,
        releases={name: _releases(place, snapshot, name) for name in snapshot.environments()},
        protected=_protected(place, snapshot),
        wanted=frozenset(wanted),
        at_work=frozenset(_read_by_work(place)),
    )


def _protected(place: Place, snapshot: Snapshot) -> frozenset[str]:
    """The protected resources, under every name that they had."""
    lineage = Lineage(place.desired, snapshot)
    found = [name for name, subject in snapshot.subjects().items() if subject.protected]
    return frozenset(name for address in found for name in (address, *lineage.former_names(address)))


def _releases(place: Place, snapshot: Snapshot, environment: str) -> Sequence[Release]:
    """All of an environment's; where only the newest are kept, those that are signed: others would push them out."""
    if place.desired.settings.retention.releases is None:
        return snapshot.releases(environment)
    from forge.reconcile.approvals import signed_moves

    return signed_moves(place, snapshot, environment)


def _read_by_work(place: Place) -> set[str]:
    """Inputs of every lease, alive or not, and of every run that this clone launched and did not record."""
    found: set[str] = set()
    for lease in place.leases.current().values():
        found.update(digest for digest in lease.handle.get("inputs", "").split(",") if digest)
    for run in open_runs(place.work):
        request = requested(Workspace(place.work / run.key.removeprefix("sha256:")))
        if request is not None:
            found.update(item.digest for item in request.inputs.values())
            if request.continues is not None:
                found.add(request.continues.digest)
    return found
