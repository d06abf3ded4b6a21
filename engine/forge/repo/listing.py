"""What lies at which path of a tree: every file and folder with its object id.

A listing is made from an earlier one by reading only the folders whose tree id differs: ten changes among ten thousand
files cost a few objects. Every tree object that is read is checked against its name (``read_object``); one that was read
for an earlier listing was checked then.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from forge.errors import RepoError
from forge.repo.repository import Repository, TreeEntry

LINK, SUBMODULE = "120000", "160000"
_FOLDER = "40000"
_EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_SEPARATOR = "\0"
"""The one character that no path holds."""


@dataclass(frozen=True)
class Listing:
    """All paths below a tree that are UTF-8; no pattern matches another."""

    tree: str
    files: dict[str, str]
    """Path -> object id; links and submodules included. In no particular order."""
    odd: dict[str, str]
    """Path -> mode of what is no plain file."""
    folders: dict[str, str]
    """Path -> tree id."""


def read_listing(repository: Repository, tree: str, base: Listing | None = None) -> Listing:
    """List a tree, from an earlier listing where there is one; raises RepoError for an object that is absent or damaged."""
    if base is not None:
        try:
            return _Walk(repository, base).to(tree)
        except RepoError:
            pass  # a folder of the earlier tree is gone (git gc): nothing is known, so everything is read
    return _Walk(repository, Listing("", {}, {}, {})).to(tree)


def to_columns(listing: Listing) -> tuple[str, str, str]:
    """A listing as three texts."""
    files, odd, folders = (
        _SEPARATOR.join([part for pair in table.items() for part in pair])
        for table in (listing.files, listing.odd, listing.folders)
    )
    return files, odd, folders


def from_columns(tree: str, columns: tuple[str, str, str]) -> Listing:
    """The inverse of ``to_columns``; raises ValueError for any other text."""
    tables = []
    for text in columns:
        parts = text.split(_SEPARATOR) if text else []
        tables.append(dict(zip(parts[::2], parts[1::2], strict=True)))
    return Listing(tree, *tables)


class _Walk:
    """Turns one listing into another, folder by folder."""

    def __init__(self, repository: Repository, base: Listing) -> None:
        self._repository = repository
        self._base = base
        self._files, self._odd, self._folders = dict(base.files), dict(base.odd), dict(base.folders)

    def to(self, tree: str) -> Listing:
        pending = [("", self._base.tree, tree)] if tree != self._base.tree else []
        while pending:
            rows = self._read([name for _, *pair in pending for name in pair])
            pending = [
                inner for prefix, old, new in pending for inner in self._compare(prefix, rows.get(old, {}), rows.get(new, {}))
            ]
        return Listing(tree, self._files, self._odd, self._folders)

    def _compare(self, prefix: str, old: dict[str, TreeEntry], new: dict[str, TreeEntry]) -> Iterator[tuple[str, str, str]]:
        """Take over what differs between two states of a folder; yields the folders in it that do."""
        for name in old.keys() | new.keys():
            before, after = old.get(name), new.get(name)
            if before is not None and before == after:
                continue
            path = prefix + name
            for table in (self._files, self._odd, self._folders):
                table.pop(path, None)
            if after is not None and after.mode == _FOLDER:
                self._folders[path] = after.name
            elif after is not None:
                self._files[path] = after.name
                if after.mode in (LINK, SUBMODULE):
                    self._odd[path] = after.mode
            inner = [row.name if row is not None and row.mode == _FOLDER else "" for row in (before, after)]
            if any(inner):
                yield f"{path}/", inner[0], inner[1]

    def _read(self, trees: list[str]) -> dict[str, dict[str, TreeEntry]]:
        wanted = {tree for tree in trees if tree not in ("", _EMPTY_TREE)}
        found = self._repository.objects_there(wanted)
        rows = {}
        for tree in wanted:
            if tree not in found:
                raise RepoError(f"Git tree {tree} is absent (a partial clone?): run `git fetch --refetch`")
            rows[tree] = {row.path: row for row in self._repository.rows_of(tree, found[tree]) if _is_text(row.path)}
        return rows


def _is_text(path: str) -> bool:
    return path.isascii() or not any("\ud800" <= character <= "\udfff" for character in path)
