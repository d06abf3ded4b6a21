"""The files of a commit, or of the working tree for a preview: the same questions, two answers.

What is listed but whose bytes are elsewhere (a Git LFS pointer, a submodule, a symbolic link) is resolved or refused by
name; it is never read as if it were the content.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import pathspec

from forge.canonical import Digest, digest_of_bytes
from forge.errors import RepoError
from forge.repo.repository import Repository

_LFS_HEADER = b"version https://git-lfs.github.com/spec/v1\n"
_LFS_OID = re.compile(rb"^oid sha256:([0-9a-f]{64})$", re.MULTILINE)
_LINK, _SUBMODULE = "120000", "160000"


class Tree(Protocol):
    """A set of files by path."""

    commit: str | None
    """The commit's id; None for the working tree."""

    def paths(self) -> Iterable[str]:
        """Every path, links and submodules included."""
        ...

    def read(self, path: str) -> bytes:
        """The bytes of a file; raises RepoError for what is no plain file, or absent."""
        ...


class CommitTree:
    """The files of a commit."""

    def __init__(self, repository: Repository, commit: str) -> None:
        self.commit: str | None = commit
        self._repository = repository
        self._entries = {entry.path: entry for entry in repository.tree_entries(commit) if _is_text(entry.path)}

    def paths(self) -> Iterable[str]:
        """Every path, links and submodules included."""
        return self._entries.keys()

    def read(self, path: str) -> bytes:
        """The bytes of a file at the commit; a Git LFS pointer is followed to the local LFS store."""
        entry = self._entries.get(path)
        if entry is None:
            raise RepoError(f"{path}: not in commit {(self.commit or '')[:12]}")
        if entry.mode == _LINK:
            raise RepoError(f"{path}: a symbolic link; Forge does not follow links: commit the file itself")
        if entry.mode == _SUBMODULE:
            raise RepoError(f"{path}: a submodule; Forge reads this repository's own objects: copy the files into it")
        blob = self._repository.read_object(entry.name)
        if blob is None:
            raise RepoError(f"{path}: its object {entry.name} is absent (a partial clone?): run `git fetch --refetch`")
        return _follow_lfs(self._repository, path, blob.data)


class WorkTree:
    """The files that Git tracks or would add, as they lie on disk now."""

    def __init__(self, repository: Repository) -> None:
        self.commit: str | None = None
        self._repository = repository
        self._root = repository.root
        if repository.is_bare:
            raise RepoError(f"{repository.root}: a bare repository has no working tree: name a commit with --ref")
        listing = str(repository.git.ls_files("-z", "--cached", "--others", "--exclude-standard"))
        names = dict.fromkeys(listing.split("\0"))  # a path in conflict is listed three times
        self._paths = [path for path in names if path and _is_text(path) and (self._root / path).exists()]

    def paths(self) -> Iterable[str]:
        """Every path, links included."""
        return self._paths

    def read(self, path: str) -> bytes:
        """The bytes of a file on disk; nothing outside the repository is read."""
        place = self._root / path
        if place.is_symlink() or not place.resolve().is_relative_to(self._root.resolve()):
            raise RepoError(f"{path}: a symbolic link; Forge does not follow links: commit the file itself")
        if place.is_dir():
            raise RepoError(f"{path}: a submodule; Forge reads this repository's own objects: copy the files into it")
        try:
            return _follow_lfs(self._repository, path, place.read_bytes())
        except OSError as error:
            raise RepoError(f"{path}: {error.strerror}") from error


def matching(tree: Tree, patterns: Iterable[str]) -> list[str]:
    """Paths that match any of some globs (.gitignore's syntax), sorted."""
    spec = pathspec.PathSpec.from_lines("gitignore", [f"/{pattern}" for pattern in patterns])
    return sorted(spec.match_files(tree.paths()))


def submodules_matching(tree: Tree, pattern: str) -> list[str]:
    """Submodules that a glob reaches into; their files are not in this repository."""
    if not isinstance(tree, CommitTree):
        return []
    return [
        path
        for path, entry in tree._entries.items()  # noqa: SLF001 (same module, same subject)
        if entry.mode == _SUBMODULE and pattern.startswith(path + "/")
    ]


def _is_text(path: str) -> bool:
    """Whether a path is UTF-8; no pattern matches one that is not."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _follow_lfs(repository: Repository, path: str, data: bytes) -> bytes:
    if not data.startswith(_LFS_HEADER):
        return data
    match = _LFS_OID.search(data)
    if match is None:
        raise RepoError(f"{path}: a Git LFS pointer without an oid")
    name = match.group(1).decode()
    place: Path = repository.common_dir / "lfs" / "objects" / name[:2] / name[2:4] / name
    if not place.is_file():
        raise RepoError(f"{path}: a Git LFS pointer whose content is not here: run `git lfs fetch --all` (sha256 {name[:12]})")
    content = place.read_bytes()
    found = digest_of_bytes(content)
    if found != Digest(f"sha256:{name}"):
        raise RepoError(f"{path}: its Git LFS object is damaged: expected sha256:{name}, found {found}")
    return content
