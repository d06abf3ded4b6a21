"""The Git repository that holds the specs: refs, commits and objects, each object re-hashed as it is read.

Git itself does not check an object's name against its bytes on every read; a chain of evidence must, so ``read_object``
does. Everything goes through the git program, so that what git reads Forge reads: single objects through one long-lived
``git cat-file --batch`` (``forge.repo.objects``), many through one of their own, refs and moves through a process each.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from forge.errors import RepoError
from forge.repo.folder import FolderVersions
from forge.repo.objects import ObjectReader, UnreadableError

_NO_REPOSITORY = "not in a Git repository: run `git init` there, or name another with --repo"
_EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_PLACES = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_COMMON_DIR",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
)
"""What git sets for its hooks: inside one, another repository would be meant."""


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


def row_of(raw: bytes) -> TreeEntry:
    """One row of a tree, taken apart."""
    mode, path = raw[:-21].split(b" ", 1)
    return TreeEntry(path.decode("utf-8", "surrogateescape"), mode.decode(), raw[-20:].hex())


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs between two trees."""

    path: str
    status: str
    """Git's letter: A added, D removed, M other bytes, T another kind of file."""
    name: str
    """Object id in the newer tree; zeros where the path was removed."""
    earlier: str
    """Object id in the older tree; zeros where the path was added."""


class Repository:
    """An open repository. Holds a process (cat-file) from the first object that is read until it is closed."""

    def __init__(self, folder: Path) -> None:
        """Open the repository that holds a folder; raises RepoError where there is none or it is of a kind not handled."""
        found = _located(folder)
        if found.object_format != "sha1":
            raise RepoError(
                f"{folder}: this repository names objects by {found.object_format}; Forge reads SHA-1 repositories "
                "(make one with `git init --object-format=sha1`)"
            )
        self.common_dir = found.common_dir
        self.root = found.root
        """The working tree's top folder; for a bare repository the repository itself."""
        self.is_bare = found.is_bare
        """Whether there is no working tree."""
        self._git_dir = found.git_dir
        self._objects = ObjectReader(found.common_dir, _environment())

    def __enter__(self) -> "Repository":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End git's helper process."""
        self._objects.close()

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
    def is_shallow(self) -> bool:
        """Whether history was cut off when cloning."""
        return (self.common_dir / "shallow").exists()

    def resolve_commit(self, ref: str) -> str:
        """The commit that a branch, tag, or abbreviated id names; raises RepoError when it names none."""
        if ref.startswith("-"):
            raise RepoError(f"not a commit: {ref!r}")
        done = self._here(["rev-parse", "--verify", "--quiet", "--end-of-options", ref + "^{commit}"])
        if done.returncode == 0:
            return done.stdout.decode().strip()
        if said := _said(done):
            raise RepoError(f"{self.root}: git: {said}")
        hint = "; this clone is shallow: `git fetch --unshallow` brings its history" if self.is_shallow else ""
        if ref == "HEAD":
            raise RepoError("there is no commit yet: commit your specs first, or preview with --worktree")
        raise RepoError(f"no commit is named {ref!r}{hint}")

    def fetch_branch(self, remote: str, branch: str) -> str:
        """Bring a branch of a remote; returns its commit; raises RepoError in git's words, without credentials of a URL."""
        target = f"refs/remotes/{remote}/{branch}"
        done = self._here(["fetch", "--quiet", "--no-tags", "--end-of-options", remote, f"+refs/heads/{branch}:{target}"])
        if done.returncode:
            said = re.sub(r"//[^/@\s]*@", "//", _said(done))
            raise RepoError(f"cannot fetch {branch} from {remote}: {said}")
        return self.resolve_commit(target)

    def ref_target(self, ref: str) -> str | None:
        """The object that a ref points to; None when there is no such ref."""
        done = self.program(["rev-parse", "--verify", "--quiet", "--end-of-options", ref])
        return done.stdout.decode().strip() if done.returncode == 0 else None

    def is_ancestor(self, older: str, newer: str) -> bool:
        """Whether one commit is reachable from another; False where either is absent."""
        # A commit-graph is a cache on the disk that git believes: it must not decide what is history.
        return self.program(["-c", "core.commitGraph=false", "merge-base", "--is-ancestor", older, newer]).returncode == 0

    def last_change(self, older: str, newer: str, paths: Sequence[str]) -> str | None:
        """The newest commit after ``older``, up to ``newer``, that touched one of some paths; None where it cannot be told."""
        limits = [f"{older}..{newer}", "--", *(f":(literal){path}" for path in paths)]
        done = self._here(["log", "-1", "--format=%H", *limits])
        return done.stdout.decode().strip() or None if done.returncode == 0 else None

    def worktree_files(self) -> list[str]:
        """The paths that Git tracks or would add, as they are now; one in conflict is listed three times."""
        done = self._here(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        if done.returncode:
            raise RepoError(f"{self.root}: git ls-files: {_said(done)}")
        return [path for path in done.stdout.decode("utf-8", "surrogateescape").split("\0") if path]

    def read_object(self, name: str) -> GitObject | None:
        """Read an object by id or ``COMMIT:PATH``; None when absent; raises RepoError for a damaged one, naming it."""
        if "\n" in name:
            raise RepoError(f"not an object name: {name!r}")
        try:
            answer = self._objects.read(name)
        except (UnreadableError, OSError) as error:
            raise RepoError(self._damaged(name, str(error))) from error
        if answer is None:
            if self._has_loose(name):
                raise RepoError(self._damaged(name, "git calls it missing, and its file is there"))
            return None
        oid, kind, data = answer
        found = object_id(kind, data)
        if found != oid:
            raise RepoError(self._damaged(name, f"its bytes hash to {found}"))
        return GitObject(oid, kind, data)

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
        version = FolderVersions()
        self.raw_rows_of(name, tree, version)
        return [row_of(raw) for raw in version.listed]

    def raw_rows_of(self, name: str, tree: GitObject, versions: FolderVersions) -> frozenset[bytes]:
        """As ``rows_of``, each row as git's bytes: what only compares many rows need not take them apart.

        ``versions``: of the folder that the tree is one of; what it shares with the one that was read last is not read again.
        """
        try:
            return versions.read(tree.data)
        except ValueError as error:
            raise RepoError(self._damaged(name, str(error))) from error

    def _here(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
        """Run the git program where the repository was opened: with this work tree's HEAD, index and files."""
        return subprocess.run(
            ["git", f"--git-dir={self._git_dir}", "-c", "advice.graftFileDeprecated=false", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=self.root,
            env=_environment(),
            start_new_session=True,
            check=False,
        )

    def program(
        self, arguments: Sequence[str], stdin: bytes = b"", timeout_seconds: float | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the git program on this repository, without a terminal; the caller judges its exit status.

        It runs in a session of its own, so that Ctrl-C reaches Forge and not a transaction half-way. Raises RepoError when it
        takes longer than the limit; it was ended then.
        """
        try:
            return subprocess.run(
                ["git", f"--git-dir={self.common_dir}", "-c", "advice.graftFileDeprecated=false", *arguments],
                input=stdin,
                capture_output=True,
                cwd=self.common_dir,
                env=_environment(),
                start_new_session=True,
                timeout=timeout_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RepoError(f"git {_verb(arguments)} did not end within {error.timeout:.0f} s") from error

    def changes(self, older: str | None, newer: str, folders: Sequence[str] = ()) -> list[Change]:
        """What differs between two commits, in some folders or everywhere, renames not guessed; None is the empty tree.

        Raises RepoError when one of them is absent or damaged.
        """
        options = ["-r", "-z", "--raw", "--no-renames", "--no-abbrev"]
        done = self.program(["diff-tree", *options, older or _EMPTY_TREE, newer, "--", *folders])
        if done.returncode:
            raise RepoError(f"git diff-tree {older} {newer}: {done.stderr.decode(errors='replace').strip()}")
        fields = done.stdout.decode("utf-8", "surrogateescape").split("\0")
        changes = []
        for row, path in zip(fields[0:-1:2], fields[1::2], strict=True):
            _, _, earlier, name, status = row.split(" ")
            changes.append(Change(path, status, name, earlier))
        return changes

    def read_objects(self, names: Sequence[str]) -> Iterator[GitObject]:
        """Many objects by id, in order; raises RepoError for one that is absent or damaged, naming it."""
        for name, found in self._batch(names):
            if found is None:
                raise RepoError(self._damaged(name, "it is missing"))
            yield found

    def objects_there(self, names: Iterable[str]) -> dict[str, GitObject]:
        """Those of many objects that are there, by id; raises RepoError for a damaged one, naming it."""
        return {name: found for name, found in self._batch(list(dict.fromkeys(names))) if found is not None}

    def _batch(self, names: Sequence[str]) -> Iterator[tuple[str, GitObject | None]]:
        """Many objects, each re-hashed, through one git process; None for one that is absent."""
        with tempfile.TemporaryFile() as wanted, tempfile.TemporaryFile() as said:
            wanted.write("".join(f"{name}\n" for name in names).encode())
            wanted.seek(0)
            command = ["git", f"--git-dir={self.common_dir}", "-c", "core.deltaBaseCacheLimit=512m"]
            with subprocess.Popen(
                [*command, "cat-file", "--batch", "--buffer"],
                stdin=wanted,
                stdout=subprocess.PIPE,
                stderr=said,
                cwd=self.common_dir,
                env=_environment(),
                start_new_session=True,
            ) as process:
                if process.stdout is None:
                    raise RepoError("git cat-file gave no output")
                for name in names:
                    header = process.stdout.readline().decode("ascii", "replace").split()
                    if header[1:] == ["missing"] and not self._has_loose(name):
                        yield name, None
                        continue
                    if len(header) != 3:
                        said.seek(0)
                        reason = said.read(2000).decode(errors="replace").strip() or " ".join(header) or "git ended"
                        raise RepoError(self._damaged(name, reason))
                    data = process.stdout.read(int(header[2]))
                    process.stdout.read(1)
                    if object_id(header[1], data) != name:
                        raise RepoError(self._damaged(name, f"its bytes hash to {object_id(header[1], data)}"))
                    yield name, GitObject(name, header[1], data)

    def _has_loose(self, name: str) -> bool:
        """Whether a file is there for an object that git calls missing: then its bytes are not readable."""
        return (self.common_dir / "objects" / name[:2] / name[2:]).is_file()

    @staticmethod
    def _damaged(name: str, reason: str) -> str:
        return f"Git object {name} is damaged: {reason}"


def object_id(kind: str, data: bytes) -> str:
    """The name that git gives an object."""
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data, usedforsecurity=False).hexdigest()


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _PLACES}
    return kept | {"GIT_NO_REPLACE_OBJECTS": "1", "GIT_GRAFT_FILE": os.devnull, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


def _verb(arguments: Sequence[str]) -> str:
    """The subcommand among git's arguments."""
    words = iter(arguments)
    for word in words:
        if word == "-c":
            next(words, None)
        elif not word.startswith("-"):
            return word
    return ""


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    """What git said when it failed, on as many lines as it took."""
    return done.stderr.decode(errors="replace").strip()


class _Located(NamedTuple):
    """Where a repository is, and of what kind."""

    git_dir: Path
    """The work tree's own part of it: HEAD and index."""
    common_dir: Path
    """What all work trees share: objects and refs."""
    root: Path
    is_bare: bool
    object_format: str


def _located(folder: Path) -> _Located:
    """The repository that holds a folder, as git finds it; raises RepoError where it finds none."""
    questions = ["--git-dir", "--git-common-dir", "--show-object-format", "--is-bare-repository", "--show-toplevel"]
    try:
        done = subprocess.run(
            ["git", "rev-parse", *questions],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=folder,
            env=_environment(),
            start_new_session=True,
            check=False,
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        if shutil.which("git") is None:
            raise RepoError("the program `git` is not on PATH: install it") from error
        raise RepoError(f"{folder}: {_NO_REPOSITORY}") from error
    answers = done.stdout.decode("utf-8", "surrogateescape").split("\n")[:-1]
    if len(answers) < 4:  # the last question has no answer in a bare repository
        if "not a git repository" in (said := _said(done)):
            raise RepoError(f"{folder}: {_NO_REPOSITORY}")
        raise RepoError(f"{folder}: git: {said}")
    git_dir, common_dir = ((folder / answer).resolve() for answer in answers[:2])
    is_bare = answers[3] == "true"
    outside = common_dir if is_bare or common_dir.name != ".git" else common_dir.parent
    root = Path(answers[4]) if len(answers) > 4 else outside
    return _Located(git_dir, common_dir, root, is_bare, answers[2])
