"""Claims on steps: the lease that this runner takes before it launches one, and the request to whoever is in the way.

A run in flight that a newer commit replaces is asked to stop, wherever it is at work: through its lease where its holder
lives, by a signal where only its process outlived the holder. What is at work for a commit that this one does not descend
from is awaited instead: nobody stops what he does not know of.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from forge.executors import local
from forge.executors.workspace import workspace
from forge.ledger.lease import AlreadyRecordedError, Lease, LeaseHeldError, LeaseLostError
from forge.ledger.leases import Leases
from forge.ledger.ledger import Ledger
from forge.plan.action import Action
from forge.reconcile.place import Look, Place, gives_way
from forge.repo.repository import Repository


def take_lease(place: Place, action: Action, now: Look) -> Lease | None:
    """This run's lease on a step; None while another runner holds it that lives, or may live."""
    key, commit = action.key or "", place.desired.commit or ""
    handle = {
        "executor": "local",
        "workspace": str(place.work / key.removeprefix("sha256:")),
        "inputs": ",".join(sorted(set(action.inputs.values()))),
    }
    left_behind = place.leases.current().get(key)
    try:
        if left_behind is None:
            known = now.snapshot.made(key)
            return place.leases.take(key, action.id, commit, handle, recorded=known.sequence if known else 0)
        if place.holders.holder_may_live(left_behind):
            return None
        return place.leases.take_over(left_behind, commit, handle)
    except (LeaseHeldError, LeaseLostError, AlreadyRecordedError):
        return None  # another runner was faster: the next look sees its lease, or its record


def ask_to_stop(place: Place, lease: Lease) -> bool:
    """Ask whoever is at work under a lease to stop and keep its checkpoint; whether it is one that gives way to this commit.

    Asking again changes nothing.
    """
    if not gives_way(place, lease):
        return False
    if place.holders.holder_may_live(lease):
        place.leases.ask_to_stop(lease, place.desired.commit or "")
    else:
        local.adopt(workspace(place.work, lease.key), lambda _event: None).ask_to_stop()
    return True


def end_left_behind(place: Place, key: str) -> None:
    """End the lease of a run that was asked to stop, where its holder is dead: nobody comes back for it."""
    lease = place.leases.current().get(key)
    if lease is not None and not place.holders.may_live(lease, place.work):
        place.leases.end(lease)


@contextmanager
def own_leases(place: Place) -> Iterator[Leases]:
    """The same leases on behalf of the same holder, through a repository that nobody else reads from."""
    with Repository(place.repository.root) as repository:
        remote = place.ledger.remote.name if place.ledger.remote else None
        yield Leases(Ledger(repository, place.ledger.ref, remote), place.leases.holder)
