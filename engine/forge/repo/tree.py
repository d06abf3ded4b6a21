"""The files of a commit, or of the working tree for a preview: the same questions, two answers.

What is listed but whose bytes are elsewhere (a Git LFS pointer, a submodule, a symbolic link) is resolved or refused by
name; it is never read as if it were the content.
"""

import bisect
import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol

from forge.canonical import Digest, digest_of_bytes
from forge.errors import RepoError
from forge.repo.listing import LINK, SUBMODULE, Listing, read_listing
from forge.repo.repository import GitObject, Repository

_LFS_HEADER = b"version https://git-lfs.github.com/spec/v1\n"
_LFS_OID = re.compile(rb"^oid sha256:([0-9a-f]{64})$", re.MULTILINE)
_ONE_STAR = re.compile(r"[A-Za-z0-9._-]*(?:[A-Za-z0-9._-]|\*)[A-Za-z0-9._-]*")
"""A name that needs no pattern language. Most globs end in one, and building a matcher for each would take seconds."""
_SPECIAL = re.compile(r"[*?\[\]\\!#]|^\s|\s$|^$")


class Tree(Protocol):
    """A set of files by path."""

    commit: str | None
    """The commit's id; None for the working tree."""

    def paths(self) -> Iterable[str]:
        """Every path, links and submodules included."""
        ...

    def blob(self, path: str) -> str | None:
        """Git's id of the file's bytes (of the pointer's, for Git LFS); None where ``read`` would refuse."""
        ...

    def submodules(self) -> Iterable[str]:
        """The paths of submodules; their files are not in this repository."""
        ...

    def has_lfs(self, digest: str) -> bool:
        """Whether the local Git LFS store holds some content."""
        ...

    def read(self, path: str) -> bytes:
        """The bytes of a file; raises RepoError for what is no plain file, or absent."""
        ...

    def expect(self, paths: Iterable[str]) -> None:
        """Say which files will be read, so that they can be fetched together; they are kept in memory until then."""
        ...


class CommitTree:
    """The files of a commit; listed when they are first asked for."""

    def __init__(self, repository: Repository, commit: str) -> None:
        self.commit: str | None = commit
        self._repository = repository
        self._base: Listing | None = None
        self._fetched: dict[str, GitObject] = {}

    @cached_property
    def root(self) -> str:
        """The id of the commit's tree: two commits with the same files have the same."""
        found = self._repository.read_object(self.commit or "")
        if found is None or found.kind != "commit":
            raise RepoError(f"Git object {self.commit} is damaged: it is no commit with a tree")
        return found.data[5:45].decode("ascii", "replace")  # "tree <id>"

    @cached_property
    def listing(self) -> Listing:
        """Every path with its object id."""
        if self._base is not None and self._base.tree == self.root:
            return self._base
        return read_listing(self._repository, self.root, self._base)

    def list_from(self, base: Listing) -> None:
        """Give an earlier listing, from which this one differs little or not at all; before the first question is asked."""
        self._base = base

    def paths(self) -> Iterable[str]:
        """Every path, links and submodules included."""
        return self.listing.files.keys()

    def blob(self, path: str) -> str | None:
        """Git's id of a plain file's bytes."""
        return None if path in self.listing.odd else self.listing.files.get(path)

    def submodules(self) -> Iterable[str]:
        """The paths of submodules."""
        return [path for path, mode in self.listing.odd.items() if mode == SUBMODULE]

    def has_lfs(self, digest: str) -> bool:
        """Whether the local Git LFS store holds some content."""
        return _lfs_place(self._repository, digest.removeprefix("sha256:")).is_file()

    def read(self, path: str) -> bytes:
        """The bytes of a file at the commit; a Git LFS pointer is followed to the local LFS store."""
        name = self.listing.files.get(path)
        if name is None:
            raise RepoError(f"{path}: not in commit {(self.commit or '')[:12]}")
        mode = self.listing.odd.get(path)
        if mode == LINK:
            raise RepoError(f"{path}: a symbolic link; Forge does not follow links: commit the file itself")
        if mode == SUBMODULE:
            raise RepoError(f"{path}: a submodule; Forge reads this repository's own objects: copy the files into it")
        blob = self._fetched.pop(name, None) or self._repository.read_object(name)
        if blob is None:
            raise RepoError(f"{path}: its object {name} is absent (a partial clone?): run `git fetch --refetch`")
        return _follow_lfs(self._repository, path, blob.data)

    def expect(self, paths: Iterable[str]) -> None:
        """Fetch the objects of some files together; one that is damaged is reported when it is read."""
        names = [name for path in paths if (name := self.blob(path)) is not None]
        try:
            self._fetched = self._repository.objects_there(names) if len(names) > 1 else {}
        except RepoError:
            self._fetched = {}


class WorkTree:
    """The files that Git tracks or would add, as they lie on disk now."""

    def __init__(self, repository: Repository) -> None:
        self.commit: str | None = None
        self._repository = repository
        self._root = repository.root
        if repository.is_bare:
            raise RepoError(f"{repository.root}: a bare repository has no working tree: name a commit with --ref")
        names = dict.fromkeys(repository.worktree_files())  # each once
        self._paths = [path for path in names if _is_text(path) and (self._root / path).exists()]

    def paths(self) -> Iterable[str]:
        """Every path, links included."""
        return self._paths

    def blob(self, path: str) -> str | None:
        """What Git would call the bytes on disk."""
        try:
            data = self._bytes(path)
        except RepoError:
            return None
        return git_name(data)

    def submodules(self) -> Iterable[str]:
        """None: what a submodule holds lies on disk, but Git does not list it here."""
        return ()

    def has_lfs(self, digest: str) -> bool:
        """Whether the local Git LFS store holds some content."""
        return _lfs_place(self._repository, digest.removeprefix("sha256:")).is_file()

    def read(self, path: str) -> bytes:
        """The bytes of a file on disk; nothing outside the repository is read."""
        return _follow_lfs(self._repository, path, self._bytes(path))

    def expect(self, paths: Iterable[str]) -> None:
        """Nothing: a disk is read file by file."""

    def _bytes(self, path: str) -> bytes:
        place = self._root / path
        if place.is_symlink() or not place.resolve().is_relative_to(self._root.resolve()):
            raise RepoError(f"{path}: a symbolic link; Forge does not follow links: commit the file itself")
        if place.is_dir():
            raise RepoError(f"{path}: a submodule; Forge reads this repository's own objects: copy the files into it")
        try:
            return place.read_bytes()
        except OSError as error:
            raise RepoError(f"{path}: {error.strerror}") from error


class Matcher:
    """Finds the paths that globs match (.gitignore's syntax).

    Whether a path matches depends on the path alone. So what matched in an earlier tree still does if it is still there,
    and only the paths that are new are compared, those below the folder that the glob names.
    """

    def __init__(
        self, paths: Iterable[str], earlier: Iterable[str] = (), matched: Mapping[str, list[str]] | None = None
    ) -> None:
        """``matched`` says what each glob matched among the ``earlier`` paths."""
        self._paths = frozenset(paths)
        self._earlier = matched or {}
        self._new = sorted(self._paths.difference(earlier)) if matched else []
        self.matched: dict[str, list[str]] = {}

    @cached_property
    def _all(self) -> list[str]:
        return sorted(self._paths)

    def __call__(self, patterns: Iterable[str]) -> list[str]:
        """Paths that match any of the globs, sorted, each once."""
        found = [self._match(pattern) for pattern in patterns]
        return found[0] if len(found) == 1 else sorted({path for paths in found for path in paths})

    def _match(self, pattern: str) -> list[str]:
        if pattern not in self.matched:
            known = self._earlier.get(pattern)
            if known is None:
                found = _match(pattern, self._all)
            else:
                found = [path for path in known if path in self._paths]
                if self._new and (more := _match(pattern, self._new)):
                    found = sorted([*found, *more])
            self.matched[pattern] = found
        return self.matched[pattern]


def matching(tree: Tree, patterns: Iterable[str]) -> list[str]:
    """Paths that match any of some globs (.gitignore's syntax), sorted."""
    return Matcher(tree.paths())(patterns)


def submodules_matching(tree: Tree, pattern: str) -> list[str]:
    """Submodules that a glob reaches into; their files are not in this repository."""
    return [path for path in tree.submodules() if pattern.startswith(path + "/")]


def _match(pattern: str, ordered: list[str]) -> list[str]:
    prefix = _folder_of(pattern)
    begin = bisect.bisect_left(ordered, prefix)
    end = bisect.bisect_left(ordered, prefix[:-1] + "0") if prefix else len(ordered)  # "0" follows "/"
    if begin == end:
        return []
    if _ONE_STAR.fullmatch(pattern, len(prefix)):
        return [path for path in ordered[begin:end] if _matches_one_star(pattern[len(prefix) :], path[len(prefix) :])]
    import pathspec

    spec = pathspec.PathSpec.from_lines("gitignore", [f"/{pattern}"])
    return list(spec.match_files(ordered[begin:end]))


def _matches_one_star(pattern: str, path: str) -> bool:
    """What pathspec answers for a pattern of one name with one ``*`` at most: a folder that matches brings its files.

    A ``*`` alone is the exception: it matches files only (tests/repo/test_cache.py compares the two).
    """
    name = path.split("/", 1)[0]
    if pattern == "*":
        return name == path
    before, star, after = pattern.partition("*")
    if not star:
        return name == pattern
    return len(name) >= len(before) + len(after) and name.startswith(before) and name.endswith(after)


def _folder_of(pattern: str) -> str:
    """The folder that every match lies below, with its slash; empty where the pattern does not say one."""
    folders: list[str] = []
    for part in pattern.split("/")[:-1]:
        if _SPECIAL.search(part):
            break
        folders.append(part + "/")
    return "".join(folders)


def _is_text(path: str) -> bool:
    """Whether a path is UTF-8; no pattern matches one that is not."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def git_name(data: bytes) -> str:
    """What Git calls a file with these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _lfs_place(repository: Repository, name: str) -> Path:
    return repository.common_dir / "lfs" / "objects" / name[:2] / name[2:4] / name


def _follow_lfs(repository: Repository, path: str, data: bytes) -> bytes:
    if not data.startswith(_LFS_HEADER):
        return data
    match = _LFS_OID.search(data)
    if match is None:
        raise RepoError(f"{path}: a Git LFS pointer without an oid")
    name = match.group(1).decode()
    place = _lfs_place(repository, name)
    if not place.is_file():
        raise RepoError(f"{path}: a Git LFS pointer whose content is not here: run `git lfs fetch --all` (sha256 {name[:12]})")
    content = place.read_bytes()
    found = digest_of_bytes(content)
    if found != Digest(f"sha256:{name}"):
        raise RepoError(f"{path}: its Git LFS object is damaged: expected sha256:{name}, found {found}")
    return content
