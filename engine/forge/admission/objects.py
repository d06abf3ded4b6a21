"""Every Git object that the ledger's head reaches, each read once and re-hashed: git's own walk does not re-hash what it meets.

Objects are asked for level by level, thousands at once: with one question at a time, verification would mostly wait for git.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from forge.errors import RepoError
from forge.repo.folder import FolderVersions
from forge.repo.repository import GitObject, Repository, TreeEntry, row_of

_FOLDER = "40000"
_ATTESTATIONS = "attestations/"


@dataclass
class LedgerObjects:
    """What was read, and what could not be."""

    commits: list[tuple[str, str]] = field(default_factory=list)
    """Root trees of a commit and of the one that follows it, newest first; with ``names``, the later commit's name."""
    names: list[str] = field(default_factory=list)
    head: str | None = None
    """Root tree of the newest commit."""
    trees: dict[str, frozenset[bytes]] = field(default_factory=dict)
    """By object id: git's rows, not taken apart: all versions of a folder have most rows in common."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    """By object id; attestations are left out: they are read when a chain names them."""
    faults: list[tuple[str, str]] = field(default_factory=list)
    """Path and message."""

    def lost(self, older: str, newer: str, prefix: str = "") -> Iterator[str]:
        """Paths of the older tree that the newer lacks or has other bytes for; equal subtrees are not entered."""
        before, after = self.trees.get(older, frozenset()), self.trees.get(newer, frozenset())
        gone = _rows(before - after)
        kept = {row.path: row for row in _rows(after - before)} if gone else {}
        for row in gone:
            now = kept.get(row.path)
            if now is not None and now.mode == row.mode == _FOLDER:
                yield from self.lost(row.name, now.name, f"{prefix}{row.path}/")
            else:
                yield prefix + row.path

    def paths(self) -> dict[str, str]:
        """Every file of the newest commit with its object id."""
        return dict(self._below(self.head, "")) if self.head is not None else {}

    def _below(self, tree: str, prefix: str) -> Iterator[tuple[str, str]]:
        for row in _rows(self.trees.get(tree, frozenset())):
            if row.mode == _FOLDER:
                yield from self._below(row.name, f"{prefix}{row.path}/")
            else:
                yield prefix + row.path, row.name


def read_objects(repository: Repository, head: str | None) -> LedgerObjects:
    """Read all of it; what is absent, damaged or of another kind is a fault, never an exception."""
    found = LedgerObjects()
    roots = _read_commits(repository, head, found)
    pending = dict.fromkeys(roots, ("", _FOLDER))
    known: set[bytes] = set()
    versions: dict[str, FolderVersions] = defaultdict(FolderVersions)
    while pending:
        following: dict[bytes, tuple[str, bytes]] = {}
        for name, item in _read(repository, list(pending)):
            path, mode = pending[name]
            if isinstance(item, str):
                found.faults.append((path or "the ledger's tree", item))
            elif (mode == _FOLDER) != (item.kind == "tree"):
                found.faults.append((path or "the ledger's tree", f"Git object {name} is a {item.kind}"))
            elif item.kind != "tree":
                if not path.startswith(_ATTESTATIONS):
                    found.blobs[name] = item.data
                    known.add(bytes.fromhex(name))
            else:
                known.add(bytes.fromhex(name))
                seen = versions[path].rows  # what another version of this folder lists as well was seen there
                try:
                    rows = found.trees[name] = repository.raw_rows_of(name, item, versions[path])
                except RepoError as error:
                    found.faults.append((path or "the ledger's tree", str(error)))
                    continue
                for raw in sorted(rows - seen):
                    if raw[-20:] not in known:
                        following.setdefault(raw[-20:], (path, raw))
        pending = {}
        for folder, raw in (place for name, place in following.items() if name not in known):
            row = row_of(raw)
            pending[row.name] = (f"{folder}/{row.path}".lstrip("/"), row.mode)
    return found


def _rows(raw: frozenset[bytes]) -> list[TreeEntry]:
    return sorted(map(row_of, raw))


def _read_commits(repository: Repository, head: str | None, found: LedgerObjects) -> list[str]:
    """The root trees of all commits, newest first. A ledger's history is a line: each commit names the next one to read."""
    roots: list[str] = []
    pending, path = [head] if head is not None else [], "the head"
    later: str | None = None
    while pending:
        name = pending.pop()
        try:
            item = repository.read_object(name)
        except RepoError as error:
            found.faults.append((path, str(error)))
            break
        if item is None or item.kind != "commit":
            what = "is absent" if item is None else f"is a {item.kind}"
            found.faults.append((path, f"Git object {name} {what}"))
            break
        rows = [line.split(" ", 1) for line in _headers(item.data) if line.startswith(("tree ", "parent "))]
        trees = [target for kind, target in rows if kind == "tree"]
        parents = [target for kind, target in rows if kind == "parent"]
        if len(trees) != 1 or len(parents) > 1:
            found.faults.append(
                (path, f"commit {name} has {len(trees)} trees and {len(parents)} parents; a ledger has no merges")
            )
            roots += trees[:1] if not roots else []  # what it holds can be read all the same
            break
        if later is not None and roots:
            found.commits.append((trees[0], roots[-1]))
            found.names.append(later)
        roots.append(trees[0])
        pending, path, later = parents, f"commit {name}", name
    found.head = roots[0] if roots else None
    return roots


def _read(repository: Repository, names: Sequence[str]) -> Iterator[tuple[str, GitObject | str]]:
    """Many objects, or why one cannot be read; those after a damaged one are read one by one."""
    done = 0
    try:
        for name, item in zip(names, repository.read_objects(names), strict=False):
            done += 1
            yield name, item
    except RepoError:
        for name in names[done:]:
            try:
                item_or_none = repository.read_object(name)
            except RepoError as error:
                yield name, str(error)
            else:
                yield name, item_or_none if item_or_none is not None else f"Git object {name} is absent"


def _headers(commit: bytes) -> list[str]:
    return commit.split(b"\n\n", 1)[0].decode("utf-8", "replace").splitlines()
