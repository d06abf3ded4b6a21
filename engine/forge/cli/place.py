"""Open what a command works on: repository, tree, desired state, ledger, store. Thin; every rule is elsewhere."""

import datetime
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forge.errors import UsageError

if TYPE_CHECKING:
    from forge.contract.kinds import Role
    from forge.ledger.ledger import Snapshot
    from forge.ledger.refs import Refs
    from forge.plan.action import Plan
    from forge.plan.desired import Desired
    from forge.plan.recorded import Scope
    from forge.reconcile.place import Place
    from forge.repo.cache import SpecCache
    from forge.repo.repository import Repository
    from forge.repo.tree import Tree
    from forge.spec.settings import Settings
    from forge.store.store import Store

Offline = Annotated[
    bool, typer.Option("--offline", help="Take the ledger as this clone has it, and do not ask its remote what is new.")
]


@contextmanager
def repository_of(context: typer.Context) -> "Iterator[Repository]":
    """The repository that --repo names."""
    from forge.repo.repository import Repository

    with Repository(context.obj.repo) as repository:
        yield repository


class Reader:
    """Reads commits of a repository; what has not changed since an earlier reading comes from this clone's cache."""

    def __init__(self, repository: "Repository", cache: "SpecCache") -> None:
        self.repository = repository
        self._cache = cache

    def desired(self, ref: str, *, worktree: bool = False) -> "Desired":
        """What a commit, or the working tree, asks for."""
        from forge.repo.desired import read_desired

        return read_desired(tree_of(self.repository, ref, worktree=worktree), self._cache)

    def settings(self, ref: str) -> "Settings":
        """forge.toml at a commit, whatever the specs beside it are worth."""
        from forge.repo.desired import settings_of

        return settings_of(tree_of(self.repository, ref, worktree=False))

    def glance(self, desired: "Desired") -> "Plan | None":
        """The plan in which everything is in sync, where a glance tells that; the ledger as its remote has it now.

        No place is opened for it: of what a place is made of, nothing has to be loaded to see that nothing has changed.
        """
        from forge.reconcile.glance import Scene, glance

        where = desired.settings.ledger
        refs: Refs
        if where.remote is None:
            from forge.ledger.head import head_here
            from forge.ledger.refs import LocalRefs

            refs = LocalRefs(self.repository)

            def head() -> str | None:
                return head_here(self.repository, where.ref)
        else:
            from forge.ledger.ledger import Ledger

            ledger = Ledger(self.repository, where.ref, where.remote)
            refs, fetched = ledger.refs, ledger.fetch().commit

            def head() -> str | None:
                return fetched

        store = store_of(self.repository, desired.settings)
        return glance(Scene(self.repository, desired, refs, head, store, work_folder(self.repository)))

    def place(self, ref: str, *, worktree: bool = False, writes: bool = False) -> "Place":
        """What a commit asks for with everything that holds state: see ``place_now``."""
        return self.place_now(self.desired(ref, worktree=worktree), writes=writes)

    def place_now(self, desired: "Desired", *, writes: bool = False, without_store: bool = False) -> "Place":
        """Everything that holds state, for what a commit asks for; the ledger as its remote has it now.

        ``writes``: the command will append; a remote that cannot take that is refused before any work is done.
        """
        place = self.place_for(desired, without_store=without_store)
        if writes:
            place.ledger.connect()
        place.ledger.fetch()
        return place

    def place_for(self, desired: "Desired", *, without_store: bool = False) -> "Place":
        """Everything that holds state, for what a commit asks for; the ledger as this clone has it."""
        return place_of(self.repository, desired, without_store=without_store)


@contextmanager
def reader_of(context: typer.Context) -> "Iterator[Reader]":
    """A reader of the repository that --repo names."""
    from forge.repo.cache import SpecCache

    with repository_of(context) as repository, SpecCache(repository.state_folder) as cache:
        yield Reader(repository, cache)


def tree_of(repository: "Repository", ref: str, *, worktree: bool) -> "Tree":
    """The files of a commit, or of the working tree."""
    from forge.repo.tree import CommitTree, WorkTree

    if worktree:
        if ref != "HEAD":
            raise UsageError("--ref and --worktree exclude each other")
        return WorkTree(repository)
    return CommitTree(repository, repository.resolve_commit(ref))


def settings_at_head(repository: "Repository") -> "Settings":
    """forge.toml at HEAD, whatever the specs beside it are worth: what was released stays verifiable under a broken commit."""
    from forge.repo.desired import settings_of

    return settings_of(tree_of(repository, "HEAD", worktree=False))


def store_of(repository: "Repository", settings: "Settings") -> "Store":
    """The artifact store that forge.toml names."""
    from forge.store.store import Store

    return Store(settings.store.url, repository.home)


def ledger_of(repository: "Repository", settings: "Settings", root: str, *, offline: bool) -> "Snapshot":
    """The ledger to be judged: as its remote has it now, for what was withdrawn since is seen only there.

    ``root``: digest of the pinned trust root. ``offline``: as this clone has it, which is said where there is a remote. Raises
    LedgerError, as ``Ledger.fetch`` does.
    """
    from forge.errors import LedgerError
    from forge.ledger.ledger import Ledger
    from forge.ledger.remote import UnreachableError

    ledger = Ledger(repository, settings.ledger.ref, settings.ledger.remote, root=root)
    if offline:
        snapshot = ledger.snapshot()
        if settings.ledger.remote is not None:
            said = f"the ledger is not fetched: it is judged up to entry {snapshot.head[0]}, as this clone has it"
            typer.echo(said, err=True)
        return snapshot
    try:
        return ledger.fetch()
    except (UnreachableError, OSError) as error:  # what is new cannot be had, or not be kept in a clone that is read only
        raise LedgerError(f"{error}. `--offline` judges the ledger as this clone has it") from error


def place_of(repository: "Repository", desired: "Desired", *, without_store: bool = False) -> "Place":
    """Everything that holds state, for planning and applying; an empty store in memory where the real one is not to be read."""
    from forge.attest.trust import config_folder, pinned_root
    from forge.ledger.leases import Leases
    from forge.ledger.ledger import Ledger
    from forge.reconcile.holder import Holders, this_holder
    from forge.reconcile.place import Place
    from forge.store.store import Store

    settings = desired.settings
    ledger = Ledger(repository, settings.ledger.ref, settings.ledger.remote, root=pinned_root(config_folder()))
    return Place(
        repository=repository,
        desired=desired,
        ledger=ledger,
        leases=Leases(ledger, this_holder),
        holders=Holders(settings.leases.time_to_live_seconds, time.monotonic),
        store=Store("memory://not-read", repository.home) if without_store else store_of(repository, settings),
        work=work_folder(repository),
        config=config_folder(),
        now=lambda: datetime.datetime.now(datetime.UTC),
    )


def roles_of(names: list[str]) -> "frozenset[Role]":
    """What --as names, every role where it names none; raises UsageError for what is no role."""
    from forge.contract.kinds import Role
    from forge.spec.load import did_you_mean

    for name in names:
        if name not in set(Role):
            raise UsageError(f"--as: {name} is no role{did_you_mean(name, set(Role))}")
    return frozenset(map(Role, names or Role))


def acting_as(place: "Place", roles: "frozenset[Role]") -> "Place":
    """The place of a machine that acts as some roles; raises UsageError for one to which the commit gives no step."""
    from dataclasses import replace

    from forge.contract.kinds import Role, StepKind

    able = {place.role_of(step) for step in StepKind}
    idle = sorted(roles - able) if roles < set(Role) else []
    if idle:
        raise UsageError(f"--as: the {idle[0]} signs no step; roles that do: {', '.join(sorted(able))}")
    return replace(place, roles=roles)


def work_folder(repository: "Repository") -> Path:
    """Where steps work on this machine; never in Git."""
    return forge_folder(repository) / "work"


def forge_folder(repository: "Repository") -> Path:
    """The ``.forge`` that all work trees share: steps at work, the agent's state."""
    return own_folder(repository.home)


def own_folder(top: Path) -> Path:
    """``.forge`` below some folder, which ignores itself: nothing in it is ever committed."""
    folder = top / ".forge"
    folder.mkdir(exist_ok=True)
    if not (folder / ".gitignore").exists():
        (folder / ".gitignore").write_text("*\n")
    return folder


def scope_of(desired: "Desired", target: list[str], force: list[str]) -> "Scope":
    """What --target and --force name; raises UsageError for something that the commit lacks."""
    from forge.plan.graph import build_graph
    from forge.plan.recorded import Scope
    from forge.spec.load import did_you_mean

    for address in target:
        if address not in desired.resources:
            raise UsageError(f"--target: there is no {address}{did_you_mean(address, desired.resources)}")
        if address.startswith("Withdrawals/"):
            raise UsageError(f"--target: {address} has no steps of its own: what is withdrawn concerns the whole commit")
        if address.split("/")[0] in ("EvalSuite", "InferencePolicy"):
            raise UsageError(f"--target: {address} has no steps of its own: name the Deployment that uses it")
    if force:
        graph = build_graph(desired)
        for step_id in force:
            if step_id not in graph:
                raise UsageError(f"--force: there is no step {step_id}{did_you_mean(step_id, graph)}")
    return Scope(frozenset(target), frozenset(force))
