"""A plan file held against the world as it is now."""

import json

from forge import __version__
from forge.errors import RefusedError
from forge.ledger.ledger import Snapshot
from forge.plan.approvals import tally
from forge.plan.saved import Reading, SavedPlan, from_bytes, what_moved
from forge.reconcile.place import Place, look


def approved(place: Place, data: bytes, name: str) -> SavedPlan:
    """The plan in a file; raises RefusedError, naming what moved, unless planning again gives the very same."""
    saved = from_bytes(data, name)
    readings: list[Reading] = []

    def reading(snapshot: Snapshot) -> Reading:
        readings.append(Reading(snapshot))
        return readings[-1]

    needed = saved.plan.approvals
    if needed:
        _must_be_approved(place, data, name, needed)
    now = SavedPlan(look(place, saved.scope, reading, with_blame=True).plan, saved.scope, __version__, readings[-1].digest)
    moved = what_moved(saved, now)
    if moved:
        rows = "".join(f"\n  {row}" for row in moved[:20])
        raise RefusedError(
            f"{name}: the plan is stale; since it was made:{rows}\n"
            "Make a new one (`forge plan --out FILE`), have it reviewed, and apply that."
        )
    return saved


def _must_be_approved(place: Place, data: bytes, name: str, needed: int) -> None:
    from forge.reconcile.approvals import plan_approvals

    digest = str(json.loads(data)["digest"])
    found = tally(plan_approvals(place, place.ledger.snapshot()), "plan", digest, None, needed)
    if not found.suffices:
        raise RefusedError(f"{name}: the plan {found}: `forge approve {name}` gives one")
