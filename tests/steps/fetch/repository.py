"""Git repositories to fetch from, with what honest and hostile ones hold."""

import subprocess
from pathlib import Path

AUTHOR = ["-c", "user.name=Tester", "-c", "user.email=tester@forge.invalid", "-c", "commit.gpgsign=false"]


def git(folder: Path, *command: str, data: bytes | None = None) -> str:
    """What Git prints."""
    done = subprocess.run(["git", "-C", str(folder), *AUTHOR, *command], input=data, capture_output=True, check=True)
    return done.stdout.decode().strip()


def repository(folder: Path, files: dict[str, bytes], object_format: str = "sha1") -> str:
    """A repository with these files; returns its commit."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", f"--object-format={object_format}")
    return commit(folder, files)


def commit(folder: Path, files: dict[str, bytes]) -> str:
    """One more commit."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", "files")
    return git(folder, "rev-parse", "HEAD")


def blob(folder: Path, data: bytes) -> str:
    """The name of a new blob."""
    return git(folder, "hash-object", "-w", "--stdin", data=data)


def tree(folder: Path, rows: list[tuple[str, bytes, str]]) -> str:
    """The name of a new tree of (mode, name, object), whatever Git thinks of its names."""
    data = b"".join(mode.encode() + b" " + name + b"\0" + bytes.fromhex(item) for mode, name, item in rows)
    return git(folder, "hash-object", "-w", "-t", "tree", "--literally", "--stdin", data=data)


def commit_of(folder: Path, root: str) -> str:
    """A commit of a tree that was made by hand; on a branch, so that it can be fetched."""
    name = git(folder, "commit-tree", root, "-m", "by hand")
    git(folder, "update-ref", "refs/heads/by-hand", name)
    return name
