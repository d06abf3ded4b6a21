"""Open what a command works on: repository, tree, desired state, ledger, store. Thin; every rule is elsewhere."""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from forge.errors import UsageError

if TYPE_CHECKING:
    from forge.plan.desired import Desired
    from forge.reconcile.apply import Place
    from forge.repo.repository import Repository
    from forge.repo.tree import Tree
    from forge.store.store import Store


@contextmanager
def repository_of(context: typer.Context) -> "Iterator[Repository]":
    """The repository that --repo names."""
    from forge.repo.repository import Repository

    with Repository(context.obj.repo) as repository:
        yield repository


def tree_of(repository: "Repository", ref: str, *, worktree: bool) -> "Tree":
    """The files of a commit, or of the working tree."""
    from forge.repo.tree import CommitTree, WorkTree

    if worktree:
        if ref != "HEAD":
            raise UsageError("--ref and --worktree exclude each other")
        return WorkTree(repository)
    return CommitTree(repository, repository.resolve_commit(ref))


def store_of(repository: "Repository", desired: "Desired") -> "Store":
    """The artifact store that forge.toml names."""
    from forge.store.store import Store

    return Store(desired.settings.store.url, repository.home)


def place_of(repository: "Repository", tree: "Tree", desired: "Desired") -> "Place":
    """Everything that holds state, for planning and applying."""
    from forge.attest.trust import config_folder
    from forge.ledger.ledger import Ledger
    from forge.reconcile.apply import Place

    return Place(
        tree=tree,
        desired=desired,
        ledger=Ledger(repository, desired.settings.ledger.ref),
        store=store_of(repository, desired),
        work=work_folder(repository),
        config=config_folder(),
        now=lambda: datetime.datetime.now(datetime.UTC),
    )


def work_folder(repository: "Repository") -> Path:
    """Where steps work on this machine; never in Git."""
    return forge_folder(repository) / "work"


def forge_folder(repository: "Repository") -> Path:
    """``.forge``, which ignores itself: nothing in it is ever committed."""
    folder = repository.home / ".forge"
    folder.mkdir(exist_ok=True)
    if not (folder / ".gitignore").exists():
        (folder / ".gitignore").write_text("*\n")
    return folder


def targets(desired: "Desired", target: list[str]) -> frozenset[str]:
    """Addresses given with --target; raises UsageError for one that the commit lacks."""
    from forge.spec.load import did_you_mean

    for address in target:
        if address not in desired.resources:
            raise UsageError(f"--target: there is no {address}{did_you_mean(address, desired.resources)}")
        if address.split("/")[0] in ("EvalSuite", "InferencePolicy"):
            raise UsageError(f"--target: {address} has no steps of its own: name the Deployment that uses it")
    return frozenset(target)
