"""A plan file held against the world as it is now."""

import json
from dataclasses import dataclass

from forge import __version__
from forge.errors import RefusedError
from forge.ledger.ledger import Snapshot
from forge.plan.approvals import tally
from forge.plan.saved import Reading, SavedPlan, from_bytes, what_moved
from forge.reconcile.place import Place, look


@dataclass(frozen=True)
class Approved:
    """A plan that may be carried out."""

    saved: SavedPlan
    approvals: tuple[str, ...]
    """Digests of the ledger's approvals by which it may; empty where it needs none."""


def approved(place: Place, data: bytes, name: str) -> Approved:
    """The plan in a file; raises RefusedError, naming what moved, unless planning again gives the very same."""
    saved = from_bytes(data, name)
    readings: list[Reading] = []

    def reading(snapshot: Snapshot) -> Reading:
        readings.append(Reading(snapshot))
        return readings[-1]

    needed = saved.plan.approvals
    approvals = _must_be_approved(place, data, name, needed) if needed else ()
    now = SavedPlan(look(place, saved.scope, reading, with_blame=True).plan, saved.scope, __version__, readings[-1].digest)
    moved = what_moved(saved, now)
    if moved:
        rows = "".join(f"\n  {row}" for row in moved[:20])
        raise RefusedError(
            f"{name}: the plan is stale; since it was made:{rows}\n"
            "Make a new one (`forge plan --out FILE`), have it reviewed, and apply that."
        )
    return Approved(saved, approvals)


def _must_be_approved(place: Place, data: bytes, name: str, needed: int) -> tuple[str, ...]:
    """The approvals that count."""
    from forge.reconcile.approvals import plan_approvals

    digest = str(json.loads(data)["digest"])
    found = tally(plan_approvals(place, place.ledger.snapshot(), digest), "plan", digest, None, needed)
    if not found.suffices:
        raise RefusedError(f"{name}: the plan {found}: `forge approve {name}` gives one")
    return tuple(item.entry for item in found.counted)
