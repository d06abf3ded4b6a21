"""Where a commit is applied: the parts that hold state, and one look at them."""

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from forge.contract.kinds import STEPS, Role, StepKind
from forge.errors import RepoError, StoreError
from forge.executors.open_runs import open_runs
from forge.executors.workspace import Workspace, requested
from forge.ledger.lease import Lease
from forge.ledger.leases import Leases
from forge.ledger.ledger import Ledger, Snapshot
from forge.plan.action import Action, ActionKind, Plan
from forge.plan.approvals import Given
from forge.plan.desired import Desired
from forge.plan.live import EVERY_ARTIFACT, Live, Running
from forge.plan.recorded import EVERYTHING, Recorded, Scope
from forge.plan.reproductions import Count, asks_for_reproductions
from forge.plan.upkeep import environments_with_approvals
from forge.reconcile.glance import Scene
from forge.reconcile.holder import Holders
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree, Tree
from forge.store.store import Store

if TYPE_CHECKING:
    from forge.reconcile.blame import BlameOf


@dataclass(frozen=True)
class Place:
    """Everything that a reconciler works on."""

    repository: Repository
    desired: Desired
    ledger: Ledger
    leases: Leases
    holders: Holders
    store: Store
    work: Path
    config: Path
    """The folder with keys and trust root."""
    now: Callable[[], datetime.datetime]
    roles: frozenset[Role] = frozenset(Role)
    """The roles that this machine acts as; what is others' to sign is left to their machines."""

    @property
    def tree(self) -> Tree:
        """The files of the commit."""
        return CommitTree(self.repository, self.desired.commit or "")

    def role_of(self, step: StepKind) -> Role:
        """Who answers for a step: the commit's supply chain says so, or the engine where the commit has none."""
        roles = self.desired.charter["supply_chain"]["roles"] if self.desired.charter is not None else {}
        return next((Role(role) for role, rules in roles.items() if step.value in rules.get("steps", ())), STEPS[step].role)

    def acts_for(self, step: StepKind) -> bool:
        """Whether this machine acts as the role that answers for a step."""
        return self.role_of(step) in self.roles

    def acts_on(self, action: Action) -> bool:
        """Whether an action is for a role that this machine acts as, or for nobody in particular.

        Of notes about resources, a withdrawal and the end of an environment's service are the releaser's word.
        """
        if action.step is not None:
            return self.acts_for(action.step)
        is_signed = action.withdraw is not None or (action.kind is ActionKind.RETIRE and action.environment is not None)
        return self.acts_for(StepKind.RELEASE) or not is_signed

    @property
    def scene(self) -> Scene:
        """What a glance looks at."""
        return Scene(
            self.repository, self.desired, self.ledger.refs, lambda: self.ledger.snapshot().commit, self.store, self.work
        )


@dataclass(frozen=True)
class Look:
    """One look at the world, and the plan that follows from it."""

    plan: Plan
    snapshot: Snapshot
    leases: dict[str, Lease]
    """By step key: those whose holder may live, or whose step is still at work here."""


def look(
    place: Place,
    scope: Scope = EVERYTHING,
    recorded: Callable[[Snapshot], Recorded] | None = None,
    *,
    without_store: bool = False,
    with_blame: bool = False,
) -> Look:
    """The plan for the state of this moment. ``recorded`` may stand between planner and ledger, to keep account.

    ``without_store``: the store is not read, and taken to hold what the ledger records.
    ``with_blame``: reasons say which commit brought a change; Git is asked once for each.
    """
    from forge.plan.plan import make_plan  # the decision and all kinds of specs: a place where nothing changed needs neither

    snapshot = place.ledger.snapshot()
    held = {lease.key: lease for lease in place.leases.current().values() if place.holders.may_live(lease, place.work)}
    live = Live(
        EVERY_ARTIFACT if without_store else place.store.index(),
        frozenset() if without_store else place.store.damaged(),
        {key: _running(lease, place) for key, lease in held.items() if snapshot.made(key) is None},
        _stopped(place, snapshot, held),
        _approvals(place, snapshot),
        _reproductions(place, snapshot),
        _unheld(place, snapshot),
        lambda digest: _policy(place, digest),
        lambda commit: _is_elsewhere(place, commit),
    )
    plan = make_plan(
        place.desired, recorded(snapshot) if recorded else snapshot, live, scope, blame_of(place) if with_blame else None
    )
    return Look(plan, snapshot, held)


def _approvals(place: Place, snapshot: Snapshot) -> dict[str, tuple[Given, ...]]:
    """What people approved, for the environments where it counts. Judging loads cryptography: nobody else pays for that."""
    if not environments_with_approvals(place.desired):
        return {}
    from forge.reconcile.approvals import release_approvals

    return release_approvals(place, snapshot)


def _reproductions(place: Place, snapshot: Snapshot) -> dict[str, tuple[Count, ...]]:
    """How often steps were carried out, where that is asked for; as with approvals, nobody else pays for it."""
    if not asks_for_reproductions(place.desired):
        return {}
    from forge.reconcile.reproductions import release_counts

    return release_counts(place, snapshot)


def _unheld(place: Place, snapshot: Snapshot) -> frozenset[str]:
    """Withdrawals that do not hold; nobody pays for looking where nothing was ever withdrawn."""
    if not snapshot.withdrawals():
        return frozenset()
    from forge.reconcile.withdrawals import unheld

    return unheld(place, snapshot)


def _policy(place: Place, digest: str) -> bytes | None:
    """The policy in an artifact; None where it cannot be read: a reason is then less precise, and nothing else."""
    try:
        return place.store.read_file(digest, "policy.json")
    except StoreError:
        return None


def _is_elsewhere(place: Place, commit: str) -> bool:
    """Whether a commit is here, and none that the planned one descends from."""
    try:
        is_here = place.repository.read_object(commit) is not None
    except RepoError:
        return False
    return is_here and not place.repository.is_ancestor(commit, place.desired.commit or "HEAD")


def blame_of(place: Place) -> "BlameOf":
    """Git's history: asked only for what changed, and loaded only then."""
    from forge.reconcile.blame import BlameOf

    return BlameOf(place.repository, place.desired)


def gives_way(place: Place, lease: Lease) -> bool:
    """Whether a run belongs to a commit that this one descends from: then what this one wants in its place comes first."""
    return place.repository.is_ancestor(lease.commit, place.desired.commit or "HEAD")


def _running(lease: Lease, place: Place) -> Running:
    holder = f"process {lease.holder.pid} on {lease.holder.host}"
    run = _run(lease.key, lease.step_id, holder, lease.commit, place.work)
    is_own = lease.holder.id == place.leases.holder.id  # a controller stops what it started itself, whatever the commit
    return replace(run, gives_way=is_own or gives_way(place, lease))


def _stopped(place: Place, snapshot: Snapshot, held: Mapping[str, Lease]) -> dict[str, tuple[Running, ...]]:
    """Runs that ended on this machine without a result: their checkpoints may serve a longer run."""
    found: dict[str, tuple[Running, ...]] = {}
    for run in open_runs(place.work):
        if run.key not in held and snapshot.made(run.key) is None:
            ended = _run(run.key, run.step_id, "", run.commit, place.work)
            found[run.step_id] = (*found.get(run.step_id, ()), ended)
    return found


def _run(key: str, step_id: str, holder: str, commit: str, work: Path) -> Running:
    space = Workspace(work / key.removeprefix("sha256:"))
    request = requested(space)
    parameters = request.parameters if request else {}
    inputs = {name: item.digest for name, item in request.inputs.items()} if request else {}
    return Running(key, step_id, holder, commit, parameters, inputs, tuple(space.checkpoints()))
