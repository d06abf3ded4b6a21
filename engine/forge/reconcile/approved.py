"""A plan held against its approval: one in a file against the world as it is now, or the one for now against the ledger."""

from dataclasses import dataclass

from forge import __version__
from forge.errors import RefusedError
from forge.ledger.ledger import Snapshot
from forge.plan.approvals import Tally, tally
from forge.plan.recorded import EVERYTHING, Scope
from forge.plan.saved import Reading, SavedPlan, digest_of, from_bytes, what_moved
from forge.plan.upkeep import plans_may_need_approval
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
    found = _approvals(place, saved)
    if found is not None and not found.suffices:
        raise RefusedError(f"{name}: the plan {found}: `forge approve {name}` gives one")
    if saved.plan.commit != place.desired.commit:
        raise RefusedError(
            f"{name}: the plan is for commit {saved.plan.commit}, and the commit to apply is {place.desired.commit}: "
            f"`forge apply {name} --ref {(saved.plan.commit or '')[:12]}` applies it; for the other one make a new plan "
            "(`forge plan --out FILE`)"
        )
    moved = what_moved(saved, plan_to_save(place, saved.scope))
    if moved:
        rows = "".join(f"\n  {row}" for row in moved[:20])
        raise RefusedError(
            f"{name}: the plan is stale; since it was made:{rows}\n"
            "Make a new one (`forge plan --out FILE`), have it reviewed, and apply that."
        )
    return Approved(saved, _entries(found))


def how_to_go_on(place: Place, saved: SavedPlan, name: str | None) -> str:
    """What someone who stopped an approved plan half-way can do; ``name``: of its file, where it was applied from one."""
    if not what_moved(saved, plan_to_save(place, saved.scope)):
        return f"`{'forge apply' if name is None else f'forge apply {name}'}` goes on where it stopped"
    approval = ", have it approved" if saved.plan.approvals else ""
    return (
        "a part of the plan is done and recorded, so it is no longer the plan for what is left: make one of that "
        f"(`forge plan --out FILE`){approval}, and `forge apply FILE` goes on where it stopped"
    )


def approved_in_ledger(place: Place, scope: Scope = EVERYTHING) -> Approved | None:
    """The plan for now, where it needs approvals and the ledger holds as many of it; None where it does not.

    What people approved is a digest over the commit, every action, the engine and all that the ledger answered. So an approval
    counts for the very plan that they saw, whoever makes it again, and for no other.
    """
    if not plans_may_need_approval(place.desired):
        return None
    now = plan_to_save(place, scope)
    found = _approvals(place, now)
    return Approved(now, _entries(found)) if found is not None and found.suffices else None


def plan_to_save(place: Place, scope: Scope) -> SavedPlan:
    """The plan for now with what it was made of, as `forge plan --out` writes it."""
    readings: list[Reading] = []

    def reading(snapshot: Snapshot) -> Reading:
        readings.append(Reading(snapshot))
        return readings[-1]

    plan = look(place, scope, reading, with_blame=True).plan
    return SavedPlan(plan, scope, __version__, readings[-1].digest)


def _approvals(place: Place, saved: SavedPlan) -> Tally | None:
    """The approvals of a plan, counted; None where it needs none."""
    if not saved.plan.approvals:
        return None
    from forge.reconcile.approvals import plan_approvals

    digest = digest_of(saved)
    given = plan_approvals(place, place.ledger.snapshot(), digest)
    return tally(given, "plan", digest, None, saved.plan.approvals)


def _entries(found: Tally | None) -> tuple[str, ...]:
    return () if found is None else tuple(item.entry for item in found.counted)
