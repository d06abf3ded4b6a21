"""The Git repository that holds the specs: refs, commits and objects, each object re-hashed as it is read.

Git itself does not check an object's name against its bytes on every read; a chain of evidence must, so ``read_object``
does. Objects come through one long-lived ``git cat-file --batch`` (GitPython's), refs and moves through the git program.
"""

import hashlib
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from git import Git, Repo
from git.exc import GitCommandError, InvalidGitRepositoryError, NoSuchPathError

from forge.errors import RepoError

_BATCH = 2000
"""Objects that one git process is asked for: their bytes are in memory together."""
_ROW = re.compile(rb"([0-7]{5,6}) ([^\0/]+)\0(.{20})", re.DOTALL)


@dataclass(frozen=True)
class GitObject:
    """An object whose bytes were checked against its name."""

    name: str
    """Hexadecimal object id."""
    kind: str
    """``blob``, ``tree`` or ``commit``."""
    data: bytes


class TreeEntry(NamedTuple):
    """One row of a tree."""

    path: str
    mode: str
    """Git's octal mode: 100644 file, 120000 symbolic link, 160000 submodule, 40000 tree."""
    name: str


class Repository:
    """An open repository. Holds two processes (cat-file) until closed."""

    def __init__(self, folder: Path) -> None:
        """Open the repository that holds a folder; raises RepoError where there is none or it is of a kind not handled."""
        try:
            self._repo = Repo(folder, search_parent_directories=True)
        except (InvalidGitRepositoryError, NoSuchPathError) as error:
            raise RepoError(f"{folder}: not in a Git repository: run `git init` there, or name another with --repo") from error
        self.git: Git = self._repo.git
        self.git.update_environment(GIT_NO_REPLACE_OBJECTS="1", GIT_GRAFT_FILE=os.devnull)  # objects as their names say
        self.common_dir = Path(self._repo.common_dir).resolve()
        reader = self._repo.config_reader()
        object_format = reader.get_value("extensions", "objectformat", "sha1")
        if str(object_format).lower() != "sha1":
            raise RepoError(
                f"{folder}: this repository names objects by {object_format}; Forge reads SHA-1 repositories "
                "(make one with `git init --object-format=sha1`)"
            )

    def __enter__(self) -> "Repository":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End git's helper processes."""
        self._repo.close()

    @property
    def root(self) -> Path:
        """The working tree's top folder; for a bare repository the repository itself."""
        return Path(self._repo.working_tree_dir or self._repo.common_dir)

    @property
    def home(self) -> Path:
        """The folder that ``.forge`` lies in: the main work tree's top, which linked work trees share with its refs."""
        return self.common_dir.parent.resolve() if self.common_dir.name == ".git" else self.root

    @property
    def state_folder(self) -> Path:
        """Where Forge keeps what belongs to this clone and must not be fetched: locks and the last ledger head seen."""
        path = self.common_dir / "forge"
        path.mkdir(exist_ok=True)
        return path

    @property
    def is_bare(self) -> bool:
        """Whether there is no working tree."""
        return bool(self._repo.bare)

    @property
    def is_shallow(self) -> bool:
        """Whether history was cut off when cloning."""
        return (self.common_dir / "shallow").exists()

    def resolve_commit(self, ref: str) -> str:
        """The commit that a branch, tag, or abbreviated id names; raises RepoError when it names none."""
        if ref.startswith("-"):
            raise RepoError(f"not a commit: {ref!r}")
        try:
            return str(self.git.rev_parse("--verify", "--quiet", "--end-of-options", ref + "^{commit}"))
        except GitCommandError as error:
            if error.stderr.strip():
                raise RepoError(f"{self.root}: git: {error.stderr.strip().removeprefix('stderr: ')}") from error
            hint = "; this clone is shallow: `git fetch --unshallow` brings its history" if self.is_shallow else ""
            if ref == "HEAD":
                raise RepoError("there is no commit yet: commit your specs first, or preview with --worktree") from error
            raise RepoError(f"no commit is named {ref!r}{hint}") from error

    def ref_target(self, ref: str) -> str | None:
        """The object that a ref points to; None when there is no such ref."""
        try:
            return str(self.git.rev_parse("--verify", "--quiet", ref))
        except GitCommandError:
            return None

    def is_ancestor(self, older: str, newer: str) -> bool:
        """Whether one commit is reachable from another; False where either is absent."""
        try:
            self.git.merge_base("--is-ancestor", older, newer)
        except GitCommandError:
            return False
        return True

    def read_object(self, name: str) -> GitObject | None:
        """Read an object by id or ``COMMIT:PATH``; None when absent; raises RepoError for a damaged one, naming it."""
        if "\n" in name:
            raise RepoError(f"not an object name: {name!r}")
        try:
            oid, kind, _, data = self.git.get_object_data(name)
        except ValueError as error:
            if "missing" in str(error) and not self._has_loose(name):
                return None
            raise RepoError(self._damaged(name, str(error))) from error
        except (GitCommandError, OSError) as error:
            raise RepoError(self._damaged(name, str(error))) from error
        oid, kind = _text(oid), _text(kind)
        found = hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data, usedforsecurity=False).hexdigest()
        if found != oid:
            raise RepoError(self._damaged(name, f"its bytes hash to {found}"))
        return GitObject(oid, kind, data)

    def read_objects(self, names: Iterable[str]) -> dict[str, GitObject]:
        """Read many objects by id in one go; absent ones are left out; raises RepoError for a damaged one, naming it."""
        found: dict[str, GitObject] = {}
        wanted = list(dict.fromkeys(names))
        for begin in range(0, len(wanted), _BATCH):
            part = wanted[begin : begin + _BATCH]
            done = subprocess.run(
                ["git", f"--git-dir={self.common_dir}", "cat-file", "--batch", "--buffer"],
                input="".join(f"{name}\n" for name in part).encode(),
                capture_output=True,
                env={**os.environ, **self.git.environment()},
                check=False,
            )
            position = 0
            for name in part:
                end = done.stdout.find(b"\n", position)
                header = done.stdout[position:end].split()
                if end < 0 or len(header) != 3:
                    if header[1:] == [b"missing"] and not self._has_loose(name):
                        position = end + 1
                        continue
                    raise RepoError(self._damaged(name, done.stderr.decode(errors="replace").strip() or "git cannot read it"))
                kind, size = header[1].decode(), int(header[2])
                data = done.stdout[end + 1 : end + 1 + size]
                position = end + 2 + size
                digest = hashlib.sha1(b"%s %d\0" % (header[1], size) + data, usedforsecurity=False).hexdigest()
                if digest != name:
                    raise RepoError(self._damaged(name, f"its bytes hash to {digest}"))
                found[name] = GitObject(name, kind, data)
        return found

    def tree_entries(self, treeish: str) -> list[TreeEntry]:
        """All files below a commit or tree, with their paths, in git's order."""
        found = self.read_object(treeish)
        if found is not None and found.kind == "commit":
            found = self.read_object(found.data[5:45].decode("ascii", "replace"))  # "tree <id>"
        if found is None or found.kind != "tree":
            raise RepoError(self._damaged(treeish, "it is no commit with a tree"))
        return list(self._below(found.name, ""))

    def _below(self, tree: str, prefix: str) -> Iterator[TreeEntry]:
        for row in self.children(tree):
            if row.mode == "40000":
                yield from self._below(row.name, f"{prefix}{row.path}/")
            else:
                yield TreeEntry(prefix + row.path, row.mode.zfill(6), row.name)

    def children(self, name: str) -> list[TreeEntry]:
        """The rows of one tree object, by id or ``COMMIT:PATH``; empty when there is no such tree."""
        tree = self.read_object(name)
        return [] if tree is None or tree.kind != "tree" else self.rows_of(name, tree)

    def rows_of(self, name: str, tree: GitObject) -> list[TreeEntry]:
        """The rows of a tree that was read; raises RepoError where it is none."""
        rows, position = [], 0
        while position < len(tree.data):
            match = _ROW.match(tree.data, position)
            if match is None:
                raise RepoError(self._damaged(name, "it is no tree"))
            mode, path, oid = match.groups()
            rows.append(TreeEntry(path.decode("utf-8", "surrogateescape"), mode.decode(), oid.hex()))
            position = match.end()
        if len({row.path for row in rows}) != len(rows):
            raise RepoError(self._damaged(name, "it lists a name twice"))  # git and we could read different ones
        return rows

    def _has_loose(self, name: str) -> bool:
        """Whether a file is there for an object that git calls missing: then its bytes are not readable."""
        return (self.common_dir / "objects" / name[:2] / name[2:]).is_file()

    @staticmethod
    def _damaged(name: str, reason: str) -> str:
        return f"Git object {name} is damaged: {reason}"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
