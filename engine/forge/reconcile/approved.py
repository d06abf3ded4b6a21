"""A plan held against its approval: one in a file against the world as it is now, or the one for now against the ledger."""

from forge import __version__
from forge.errors import RefusedError
from forge.ledger.ledger import Snapshot
from forge.plan.action import Plan
from forge.plan.approvals import Tally, tally
from forge.plan.recorded import EVERYTHING, Scope
from forge.plan.saved import Reading, SavedPlan, digest_of, from_bytes, what_moved
from forge.plan.upkeep import plans_may_need_approval
from forge.reconcile.place import Place, look


def approved(place: Place, data: bytes, name: str) -> SavedPlan:
    """The plan in a file; raises RefusedError, naming what moved, unless planning again gives the very same."""
    saved = from_bytes(data, name)
    needed = saved.plan.approvals
    if needed and not (found := _approvals(place, saved)).suffices:
        raise RefusedError(f"{name}: the plan {found}: `forge approve {name}` gives one")
    moved = what_moved(saved, plan_to_save(place, saved.scope))
    if moved:
        rows = "".join(f"\n  {row}" for row in moved[:20])
        raise RefusedError(
            f"{name}: the plan is stale; since it was made:{rows}\n"
            "Make a new one (`forge plan --out FILE`), have it reviewed, and apply that."
        )
    return saved


def approved_in_ledger(place: Place, scope: Scope = EVERYTHING) -> Plan | None:
    """The plan for now, where it needs approvals and the ledger holds as many of it; None where it does not.

    What people approved is a digest over the commit, every action, the engine and all that the ledger answered. So an approval
    counts for the very plan that they saw, whoever makes it again, and for no other.
    """
    if not plans_may_need_approval(place.desired):
        return None
    now = plan_to_save(place, scope)
    return now.plan if now.plan.approvals and _approvals(place, now).suffices else None


def plan_to_save(place: Place, scope: Scope) -> SavedPlan:
    """The plan for now with what it was made of, as `forge plan --out` writes it."""
    readings: list[Reading] = []

    def reading(snapshot: Snapshot) -> Reading:
        readings.append(Reading(snapshot))
        return readings[-1]

    plan = look(place, scope, reading, with_blame=True).plan
    return SavedPlan(plan, scope, __version__, readings[-1].digest)


def _approvals(place: Place, saved: SavedPlan) -> Tally:
    from forge.reconcile.approvals import plan_approvals

    given = plan_approvals(place, place.ledger.snapshot())
    return tally(given, "plan", digest_of(saved), None, saved.plan.approvals)
