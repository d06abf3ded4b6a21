"""Git's history, asked which commit brought a change (``forge.plan.blame.Blame``).

Each walk goes back from the newest commit through those that touched a file, and ends at the first whose parents are all
otherwise. It is bounded, reads each file's version once, and is made only for what changed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from forge.errors import RepoError
from forge.plan.blame import Alike
from forge.plan.desired import Desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree
from forge.spec.compiled import Compiled, compile_resource

_MOST_COMMITS = 64
"""How many commits that touched a file one walk looks at."""
_MOST_MOVED = 200
"""How many files of a commit are looked through for a resource whose file is not where it was."""


class _File(NamedTuple):
    """A file of specs as a commit has it."""

    resources: tuple[Compiled, ...]
    is_broken: bool
    """Whether there is something in it that this engine does not read."""


class _Place(NamedTuple):
    """A resource in a commit."""

    path: str
    resource: Compiled | None
    """None where the file cannot be read as a spec: nothing is known of the resource then."""


@dataclass(frozen=True)
class BlameOf:
    """``forge.plan.blame.Blame`` over a clone; what it has read once it does not read again."""

    repository: Repository
    desired: Desired
    """What is planned."""
    _changes: dict[tuple[str, str, tuple[str, ...]], str | None] = field(default_factory=dict)
    _files: dict[str, _File] = field(default_factory=dict)
    """By Git's id."""
    _trees: dict[str, Mapping[str, str]] = field(default_factory=dict)

    def value_since(self, address: str, older: str, newer: str | None, alike: Alike) -> str | None:
        """The commit after one in which something about a resource came to be what it is."""
        try:
            return self._value_since(address, older, newer or self.desired.commit, alike)
        except RepoError:  # history that cannot be read names nobody
            return None

    def files_since(self, before: Iterable[str], after: Iterable[str], older: str, newer: str | None) -> str | None:
        """The commit after one in which files came to be what they are."""
        try:
            commit = newer or self.desired.commit
            if commit is None:
                return None  # the working tree may have brought it
            there = self._tree(commit)
            had, has = self._blobs(older, before), self._blobs(commit, after)
            wanted: dict[str, str | None] = {path: blob for path, blob in has.items() if blob not in had.values()}
            for path, blob in had.items():
                if path not in there and blob not in has.values():
                    wanted[path] = None
            if wanted:
                return self._bytes_since(wanted, older, commit, followed=True)
            names = {path: there.get(path) for path in {*had, *has}}  # the same bytes, under other names
            return self._bytes_since(names, older, commit, followed=False)
        except RepoError:
            return None

    def removed_since(self, address: str, older: str) -> str | None:
        """The commit after one, which held a resource, that took it out."""
        newest = self.desired.commit
        if newest is None:
            return None  # the working tree may have
        try:
            return self._removed_since(address, older, newest)
        except RepoError:
            return None

    def _removed_since(self, address: str, base: str, newest: str) -> str | None:
        """Follows the file from the commit that held the resource, each time from where another commit moved it."""
        place = self._find(base, {address}, None, newest)
        commit = newest
        for _ in range(_MOST_COMMITS):
            touched = self._last_change(base, commit, (place.path,)) if place is not None else None
            if place is None or touched is None:
                return None
            parents = self._parents(touched)
            holds = next((parent for parent in parents if self._in_file(parent, place.path, {address}) is not None), None)
            if holds is None:
                commit = parents[0] if parents else touched
                continue
            moved = self._find(touched, {address}, place.path, holds)
            if moved is None:
                return touched
            place, base, commit = moved, touched, newest
        return None

    def _value_since(self, address: str, older: str, newest: str | None, alike: Alike) -> str | None:
        commit = newest or self.repository.resolve_commit("HEAD")
        origin = self.desired.origins.get(address)
        place = self._find(commit, {address}, origin, self.desired.commit or commit)
        if place is None or place.resource is None:
            return None
        now = place.resource
        if newest is None and not alike(now, self.desired.compiled[address]):
            return None  # the working tree brought it
        brought: str | None = None
        """The oldest commit so far that surely has the value, where nothing is known of the one before it."""
        for _ in range(_MOST_COMMITS):
            touched = self._last_change(older, commit, (place.path,))
            if touched is None:
                return None
            brought = brought or touched
            known = place.resource or now
            names = {known.address, known.previous or known.address}
            parents = self._parents(touched)
            found = [(parent, self._find(parent, names, place.path, touched)) for parent in parents]
            kept = [each for each in found if each[1] is not None and (not each[1].resource or alike(each[1].resource, now))]
            if not kept:
                return brought
            commit, earlier = kept[0]
            if earlier is None:
                return brought
            if earlier.resource is not None:
                brought = None
            place = earlier
        return None

    def _find(self, commit: str, names: set[str], path: str | None, other: str) -> _Place | None:
        """A resource in a commit: in a file, or in one that another commit moved; None where it is in none."""
        place = self._in_file(commit, path, names) if path is not None else None
        if place is not None and place.resource is not None:
            return place
        moved = [] if commit == other else [each for each in self.repository.changes(commit, other) if each.status in "DM"]
        for each in moved[:_MOST_MOVED]:
            found = self._in_file(commit, each.path, names, named=True) if each.path.endswith((".yaml", ".yml")) else None
            if found is not None and found.resource is not None:
                return found
        return place

    def _in_file(self, commit: str, path: str, names: set[str], *, named: bool = False) -> _Place | None:
        """A resource in a file of a commit; ``named``: a file whose text does not hold its name is not parsed."""
        blob = self.repository.read_object(f"{commit}:{path}")
        if blob is None or blob.kind != "blob":
            return None
        if named and not any(name.partition("/")[2].encode() in blob.data for name in names):
            return None
        if blob.name not in self._files:
            self._files[blob.name] = _read(path, blob.data)
        file = self._files[blob.name]
        unread = _Place(path, None) if file.is_broken else None
        return next((_Place(path, resource) for resource in file.resources if resource.address in names), unread)

    def _bytes_since(self, wanted: Mapping[str, str | None], older: str, commit: str, *, followed: bool) -> str | None:
        """As ``files_since``, for paths with Git's ids of their bytes; None for one that is not there.

        ``followed``: a file that a commit moved is the same file.
        """
        for _ in range(_MOST_COMMITS):
            touched = self._last_change(older, commit, tuple(sorted(wanted)))
            if touched is None:
                return None
            for parent in self._parents(touched):
                earlier = self._same_bytes(wanted, parent, touched, followed=followed)
                if earlier is not None:
                    commit, wanted = parent, earlier
                    break
            else:
                return touched
        return None

    def _same_bytes(
        self, wanted: Mapping[str, str | None], parent: str, commit: str, *, followed: bool
    ) -> dict[str, str | None] | None:
        """Where a commit's parent has the same files; None where it has others."""
        changes = {each.path: each for each in self.repository.changes(parent, commit)}
        moved = {each.earlier: each.path for each in changes.values() if each.status == "D" and followed}
        found: dict[str, str | None] = {}
        there = set(wanted.values())
        for path, blob in wanted.items():
            if path not in changes or changes[path].earlier == blob:
                found[path] = blob
            elif changes[path].status == "A" and blob in moved:
                found[moved[blob]] = blob
            elif blob is not None or not followed or changes[path].earlier not in there:  # else it went where it is wanted
                return None
        return found

    def _blobs(self, commit: str, paths: Iterable[str]) -> dict[str, str]:
        tree = self._tree(commit)
        return {path: tree[path] for path in paths if path in tree}

    def _tree(self, commit: str) -> Mapping[str, str]:
        """Git's ids of all files of a commit, by path."""
        if commit not in self._trees:
            tree = CommitTree(self.repository, commit)
            self._trees[commit] = {path: blob for path in tree.paths() if (blob := tree.blob(path)) is not None}
        return self._trees[commit]

    def _parents(self, commit: str) -> list[str]:
        """Raises RepoError where one of them is not in this clone: then nobody can tell what it brought."""
        found = self.repository.read_object(commit)
        head = found.data.split(b"\n\n", 1)[0].decode(errors="replace") if found is not None else ""
        parents = [line.removeprefix("parent ") for line in head.splitlines() if line.startswith("parent ")]
        for parent in parents:
            if self.repository.read_object(parent) is None:
                raise RepoError(f"commit {parent} is not in this clone")
        return parents

    def _last_change(self, older: str, newer: str, paths: tuple[str, ...]) -> str | None:
        question = older, newer, paths
        if question not in self._changes:
            self._changes[question] = self.repository.last_change(older, newer, paths)
        return self._changes[question]


def _read(path: str, data: bytes) -> _File:
    from forge.spec.load import load

    loaded = load([(path, data)])
    return _File(tuple(compile_resource(item.resource) for item in loaded.resources), bool(loaded.diagnostics))
