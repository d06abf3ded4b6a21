"""The past that an explanation asks about: the ledger's records under a step, and Git's files and commits."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from forge.contract.record import Record
from forge.errors import RepoError
from forge.ledger.ledger import Snapshot
from forge.plan.blame import Alike, Blame
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree, Tree


@dataclass(frozen=True)
class PastOf:
    """``forge.plan.past.Past`` over a clone. Nothing is read before it is asked for, and the tree of a commit once."""

    repository: Repository
    snapshot: Snapshot
    planned: Tree
    """The files that the plan is about."""
    blame: Blame
    _trees: dict[str, CommitTree] = field(default_factory=dict)

    def records(self, step_id: str) -> Iterator[tuple[int, Record]]:
        """Every record under a step id with its number in the ledger, newest first."""
        for entry in self.snapshot.entries_newest_first(f"steps/{step_id}"):
            if isinstance(entry.body, Record):
                yield entry.sequence, entry.body

    def blobs(self, commit: str | None, paths: Iterable[str]) -> Mapping[str, str] | None:
        """Git's ids of those of some files that a commit, or what is planned, holds; None for a commit that is not here."""
        tree: Tree = self.planned
        if commit is not None:
            tree = self._trees.setdefault(commit, CommitTree(self.repository, commit))
        try:
            held = set(tree.paths())
            return {path: blob for path in paths if path in held and (blob := tree.blob(path)) is not None}
        except RepoError:
            return None

    def value_since(self, address: str, older: str, newer: str | None, alike: Alike) -> str | None:
        """As ``Blame.value_since``."""
        return self.blame.value_since(address, older, newer, alike)

    def removed_since(self, address: str, older: str) -> str | None:
        """As ``Blame.removed_since``."""
        return self.blame.removed_since(address, older)

    def files_since(self, before: Iterable[str], after: Iterable[str], older: str, newer: str | None) -> str | None:
        """As ``Blame.files_since``."""
        return self.blame.files_since(before, after, older, newer)
