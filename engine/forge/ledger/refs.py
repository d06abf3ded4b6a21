"""Refs as a place to keep state: read them, and move several in one transaction by compare-and-swap.

``LocalRefs`` moves the refs of this repository (``git update-ref``); ``forge.ledger.remote`` gives the same over a remote.
Objects are on the disk before the ref that names them (core.fsync). A killed git leaves ``REF.lock`` behind, which blocks
every later writer: one of our own refs' locks is removed when the file system's own clock says it is old, by a caller that
holds our file lock. ``packed-refs.lock`` belongs to all of the repository's refs and stays the operator's to remove.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from forge.errors import LedgerError
from forge.ledger.lock import fair_lock
from forge.repo.repository import Repository, object_id

FSYNC = ("-c", "core.fsync=all", "-c", "core.fsyncMethod=fsync")
LEASE_REFS = "refs/forge/leases/"
NO_OBJECT = "0" * 40
STALE_LOCK_SECONDS = 5.0
"""git holds the lock of a ref for milliseconds."""
_LOCK_WAIT_SECONDS = 4 * STALE_LOCK_SECONDS
_WRITES = 6
_NAME = re.compile("[0-9a-f]{40}")
_CRASH = re.compile(r"dumping crash report to (\S+/fast_import_crash_[0-9]+)")
_EXISTS = re.compile(r"'([^']+\.lock)': File exists")


@dataclass(frozen=True)
class Move:
    """What a transaction does to one ref; None stands for "there is none"."""

    ref: str
    old: str | None
    new: str | None


class RefMovedError(LedgerError):
    """A ref does not have the value that a transaction expected; nothing was moved."""


class Refs(Protocol):
    """Where refs lie."""

    def refresh(self) -> None:
        """Learn the present values, where that takes asking."""
        ...

    def target(self, ref: str) -> str | None:
        """The object that a ref points to, as last learnt."""
        ...

    def below(self, prefix: str) -> Mapping[str, str]:
        """All refs below ``prefix`` (it ends in a slash) with their objects, as last learnt."""
        ...

    def move(self, moves: Sequence[Move]) -> None:
        """All of the moves or none; raises RefMovedError when a ref had another value."""
        ...

    def removal(self, ref: str) -> str:
        """The command with which a person removes a ref."""
        ...


class LocalRefs:
    """The refs of this repository."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def refresh(self) -> None:
        """Nothing to ask."""

    def target(self, ref: str) -> str | None:
        """The object that a ref points to."""
        return self._repository.ref_target(ref)

    def below(self, prefix: str) -> Mapping[str, str]:
        """All refs below a prefix."""
        return list_refs(self._repository, prefix)

    def move(self, moves: Sequence[Move]) -> None:
        """One ``git update-ref`` transaction."""
        lines = "".join(f"{line}\n" for line in ["start", *map(_instruction, moves), "prepare", "commit"]).encode()
        deadline = time.monotonic() + _LOCK_WAIT_SECONDS
        while True:
            done = self._repository.program([*FSYNC, "update-ref", "--stdin"], lines)
            if done.returncode == 0:
                return
            reason = done.stderr.decode(errors="replace").strip()
            for move in moves:
                if self.target(move.ref) != move.old:
                    raise RefMovedError(f"{move.ref} is no longer {move.old or 'absent'}: git update-ref: {reason}")
            lock = _lock_in_the_way(reason, self._repository.common_dir)
            if lock is None or time.monotonic() > deadline:
                raise LedgerError(f"cannot move {moves[0].ref}: git update-ref: {reason}{lock_hint(reason)}")
            remove_if_stale(lock, self._repository.state_folder)

    def removal(self, ref: str) -> str:
        """The command that removes a ref here."""
        return f"git update-ref -d {ref}"


def list_refs(repository: Repository, prefix: str) -> Mapping[str, str]:
    """All refs below a prefix with their objects."""
    done = repository.program(["for-each-ref", "--format=%(refname) %(objectname)", prefix])
    if done.returncode:
        raise LedgerError(f"cannot list {prefix}: {done.stderr.decode(errors='replace').strip()}")
    rows = (line.split(" ", 1) for line in done.stdout.decode().splitlines())
    return {row[0]: row[1] for row in rows}


def write_blob(repository: Repository, data: bytes) -> str:
    """Write a blob to the disk; returns its object id."""
    name = write_objects(repository, ["hash-object", "-w", "--stdin"], lambda _: data)
    if name != object_id("blob", data):
        raise LedgerError(f"git hash-object named {name} what is {object_id('blob', data)}")
    return name


def write_objects(repository: Repository, arguments: Sequence[str], stdin: Callable[[int], bytes]) -> str:
    """Run a git command that writes objects and prints a name; returns that.

    It is tried again where it fails: ``git gc --prune=now`` removes the temporary files that others are writing. ``stdin``
    gets the number of the attempt, from 1.
    """
    for attempt in range(1, _WRITES + 1):
        done = repository.program([*FSYNC, *arguments], stdin(attempt))
        name = done.stdout.decode("ascii", "replace").strip()
        if done.returncode == 0 and _NAME.fullmatch(name):
            return name
        reason = done.stderr.decode(errors="replace").strip()
        for report in _CRASH.findall(reason):
            Path(report).unlink(missing_ok=True)  # fast-import's own, and of no use to a reader of this message
        if attempt < _WRITES:
            time.sleep(0.05 * attempt)
    raise LedgerError(f"cannot write Git objects: {' '.join(arguments)}: {reason or 'it named no object'}{lock_hint(reason)}")


def remove_if_stale(lock: Path, folder: Path) -> None:
    """Remove a lock file that is old by the clock of the file system it lies on; otherwise wait a moment."""
    probe = folder / "clock"
    with fair_lock(folder, "stale"):  # or two could judge the same file, and the second remove its successor
        probe.touch()
        try:
            age = probe.stat().st_mtime - lock.stat().st_mtime
        except FileNotFoundError:
            return
        if age >= STALE_LOCK_SECONDS:
            lock.unlink(missing_ok=True)
            return
    time.sleep(0.05)


def lock_hint(reason: str) -> str:
    """What to do about a lock file that git names."""
    match = _EXISTS.search(reason)
    return f". If no git process runs, a killed one left {match.group(1)} behind: remove that file" if match else ""


def _lock_in_the_way(reason: str, common_dir: Path) -> Path | None:
    """The lock file of one of our own refs, when that is what git complains of."""
    match = _EXISTS.search(reason)
    if match is None:
        return None
    lock = (common_dir / match.group(1)).resolve()
    return lock if lock.is_relative_to(common_dir / "refs" / "forge") else None


def _instruction(move: Move) -> str:
    if move.new is None:
        return f"delete {move.ref} {move.old}"
    return f"update {move.ref} {move.new} {move.old or NO_OBJECT}"
