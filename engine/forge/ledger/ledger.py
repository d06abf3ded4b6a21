"""The ledger: read a head, append a batch.

Rules of the state machine:
- The ref moves only by ``update-ref`` with the value it had when the batch was built; a loser rebuilds on the new head.
- An append only adds paths. Sequence numbers have no gap, and each entry names the digest of the one before.
- One step key has one authoritative record, the newest; a second record for a key says which one it supersedes.
- The last head that this clone has seen is remembered outside the refs; a head that does not descend from it is refused.
- Objects reach the disk before the ref that names them (core.fsync).
"""

import json
import os
import random
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from filelock import FileLock
from git.exc import GitCommandError
from pydantic import ValidationError
from rfc8785 import CanonicalizationError

from forge.canonical import digest_of_bytes
from forge.contract.record import Attempt, Record, Release
from forge.errors import LedgerError, RepoError
from forge.ledger.entry import Entry, attestation_path, index_paths, key_folder, sequence_path
from forge.repo.repository import Repository, TreeEntry

_FSYNC = ("-c", "core.fsync=all", "-c", "core.fsyncMethod=fsync")
_TRAILER = re.compile(r"^Forge-Head: ([0-9]{1,9}) (sha256:[0-9a-f]{64})$", re.MULTILINE)
_TEMPORARY_REFS = "refs/forge/tmp/"
_ATTEMPTS = 20
_NO_COMMIT = "0" * 40


@dataclass(frozen=True)
class Draft:
    """What is to be appended: a body, and the attestations that it names."""

    body: Record | Attempt | Release
    attestations: tuple[bytes, ...] = ()


class Snapshot:
    """An immutable view of the ledger at one commit; None is the empty ledger."""

    def __init__(self, repository: Repository, commit: str | None) -> None:
        self._repository = repository
        self.commit = commit

    @cached_property
    def head(self) -> tuple[int, str | None]:
        """Sequence number and digest of the last entry; (0, None) when there is none."""
        if self.commit is None:
            return 0, None
        commit = self._read(self.commit)
        match = _TRAILER.search(commit.decode("utf-8", "replace")) if commit else None
        if match is None:
            raise LedgerError(f"ledger commit {self.commit} does not say which entry is its last")
        return int(match.group(1)), match.group(2)

    def record(self, key: str) -> Record | None:
        """The authoritative record of a key."""
        entry = self._newest(key_folder(key))
        return entry.body if entry and isinstance(entry.body, Record) else None

    def record_entry(self, key: str) -> Entry | None:
        """The same with its place in the chain."""
        return self._newest(key_folder(key))

    def latest(self, step_id: str) -> Record | None:
        """The newest record under a step id."""
        entry = self._newest(f"steps/{step_id}")
        return entry.body if entry and isinstance(entry.body, Record) else None

    def release(self, environment: str) -> Release | None:
        """What an environment's pointer names."""
        entry = self._newest(f"releases/{environment}")
        return entry.body if entry and isinstance(entry.body, Release) else None

    def attempts(self, step_id: str) -> list[Attempt]:
        """The failed attempts at a step, oldest first."""
        entries = [self.entry_at(f"attempts/{step_id}/{row.path}") for row in self._children(f"attempts/{step_id}")]
        return [entry.body for entry in entries if isinstance(entry.body, Attempt)]

    def entry(self, sequence: int) -> Entry | None:
        """An entry by number."""
        path = sequence_path(sequence)
        return None if self._read_path(path) is None else self.entry_at(path)

    def entry_at(self, path: str) -> Entry:
        """The entry at a path of the ledger's tree; raises LedgerError when it is absent or not in its canonical form."""
        data = self._read_path(path)
        if data is None:
            raise LedgerError(f"the ledger has no {path}")
        try:
            entry = Entry.model_validate_json(data)
        except ValidationError as error:
            raise LedgerError(f"ledger entry {path} is not one this engine reads: {error}") from error
        try:
            is_canonical = entry.to_bytes() == data
        except CanonicalizationError as error:
            raise LedgerError(f"ledger entry {path} has no canonical form: {error}") from error
        if not is_canonical:
            raise LedgerError(f"ledger entry {path} is not in its canonical form")
        return entry

    def attestation(self, digest: str) -> bytes:
        """The bytes of an attestation, checked against their digest."""
        path = attestation_path(digest)
        data = self._read_path(path)
        if data is None:
            raise LedgerError(f"the ledger lacks attestation {digest}, or cannot read it ({path})")
        if digest_of_bytes(data) != digest:
            raise LedgerError(f"attestation {digest} is damaged: its bytes hash to {digest_of_bytes(data)} ({path})")
        return data

    def paths(self) -> Mapping[str, str]:
        """Every path of the ledger's tree with its object id."""
        if self.commit is None:
            return {}
        return {entry.path: entry.name for entry in self._repository.tree_entries(self.commit)}

    def _newest(self, folder: str) -> Entry | None:
        rows = self._children(folder)
        return self.entry_at(f"{folder}/{max(row.path for row in rows)}") if rows else None

    def _children(self, folder: str) -> list[TreeEntry]:
        if self.commit is None:
            return []
        try:
            return self._repository.children(f"{self.commit}:{folder}")
        except RepoError as error:
            raise LedgerError(f"ledger folder {folder}: {error}") from error

    def _read_path(self, path: str) -> bytes | None:
        return None if self.commit is None else self._read(f"{self.commit}:{path}")

    def _read(self, name: str) -> bytes | None:
        try:
            found = self._repository.read_object(name)
        except RepoError as error:
            raise LedgerError(f"ledger: {error}") from error
        return found.data if found else None


class Ledger:
    """The ledger of a repository."""

    def __init__(self, repository: Repository, ref: str, clock: Callable[[], float] = time.time) -> None:
        self._repository = repository
        self.ref = ref
        self._clock = clock
        self._lock = FileLock(repository.state_folder / "ledger.lock")
        self._seen_file = repository.state_folder / "ledger-head"

    def snapshot(self) -> Snapshot:
        """The ledger as it is now; raises LedgerError when its head does not descend from the last one seen here."""
        seen = self._seen_file.read_text("utf-8", "replace").strip() if self._seen_file.exists() else None
        commit = self._repository.ref_target(self.ref)  # after `seen`: a writer moves the ref first, and only forwards
        if seen and seen != commit and (commit is None or not self._repository.is_ancestor(seen, commit)):
            raise LedgerError(
                f"the ledger was rewritten: {self.ref} is now {commit or 'absent'}, which does not descend from {seen}, "
                f"the last head seen here. Find out who moved it. To restore it: git update-ref {self.ref} {seen}"
            )
        if commit and commit != seen:
            _write_text(self._seen_file, commit + "\n")
        return Snapshot(self._repository, commit)

    def append(self, drafts: Sequence[Draft]) -> list[Entry]:
        """Append a batch in one commit; returns its entries.

        A record that is already there with the same products is left as it is and returned; one with other products that
        does not supersede the first raises LedgerError.
        """
        for attempt in range(_ATTEMPTS):
            with self._lock:
                snapshot = self.snapshot()
                entries, blobs = _build(snapshot, drafts)
                if not blobs or self._swap(snapshot, entries, blobs):
                    return entries
            time.sleep(random.uniform(0, 0.05 * 2 ** min(attempt, 6)))  # noqa: S311 (jitter, not secrecy)
        raise LedgerError(f"{self.ref} kept moving: gave up after {_ATTEMPTS} attempts to append; try again")

    def _swap(self, snapshot: Snapshot, entries: Sequence[Entry], blobs: Mapping[str, bytes]) -> bool:
        """Write a commit that adds the blobs and move the ref to it; False when the ref had moved."""
        new = [entry for entry in entries if sequence_path(entry.sequence) in blobs]
        temporary = _TEMPORARY_REFS + uuid.uuid4().hex
        stream = _import_stream(temporary, snapshot.commit, new, blobs, int(self._clock()))
        self._git(["fast-import", "--quiet", "--done", "--date-format=raw"], stream)
        commit = self._repository.ref_target(temporary)
        if commit is None:
            raise LedgerError(f"cannot append to {self.ref}: git fast-import left no commit")
        moves = [f"update {self.ref} {commit} {snapshot.commit or _NO_COMMIT}"]
        moves += [f"delete {ref}" for ref in self._temporary_refs()]
        try:
            self._git(
                ["update-ref", "--stdin"], "".join(f"{line}\n" for line in ["start", *moves, "prepare", "commit"]).encode()
            )
        except LedgerError:
            if self._repository.ref_target(self.ref) != snapshot.commit:
                return False
            raise
        _write_text(self._seen_file, f"{commit}\n")
        return True

    def _temporary_refs(self) -> list[str]:
        """Our own, and what a killed writer left behind: safe to remove, for we hold the lock."""
        try:
            return str(self._repository.git.for_each_ref("--format=%(refname)", _TEMPORARY_REFS)).split()
        except GitCommandError as error:
            raise LedgerError(f"cannot list {_TEMPORARY_REFS}: {error.stderr.strip()}") from error

    def _git(self, arguments: Sequence[str], stdin: bytes) -> None:
        done = subprocess.run(
            ["git", f"--git-dir={self._repository.common_dir}", *_FSYNC, *arguments],
            input=stdin,
            capture_output=True,
            cwd=self._repository.common_dir,
            check=False,
        )
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip()
            raise LedgerError(f"cannot append to {self.ref}: git {arguments[0]}: {reason}{_lock_hint(reason)}")


def _build(snapshot: Snapshot, drafts: Sequence[Draft]) -> tuple[list[Entry], dict[str, bytes]]:
    """Entries for the drafts on top of a snapshot, and the paths that appending them adds."""
    sequence, previous = snapshot.head
    entries: list[Entry] = []
    blobs: dict[str, bytes] = {}
    for draft in drafts:
        known = snapshot.record_entry(draft.body.key) if isinstance(draft.body, Record) else None
        if known is not None and isinstance(known.body, Record) and isinstance(draft.body, Record):
            if known.body.products == draft.body.products:
                entries.append(known)
                continue
            if draft.body.supersedes != known.digest:
                raise LedgerError(
                    f"{draft.body.step_id}: step key {draft.body.key} is recorded with other products "
                    f"(entry {known.sequence}); a record that replaces it must say so (supersedes)"
                )
        sequence += 1
        entry = Entry(sequence=sequence, previous=previous, body=draft.body)
        data = entry.to_bytes()
        previous = digest_of_bytes(data)
        for path in (sequence_path(sequence), *index_paths(entry)):
            blobs[path] = data
        for attestation in draft.attestations:
            blobs[attestation_path(digest_of_bytes(attestation))] = attestation
        entries.append(entry)
    return entries, blobs


def _import_stream(ref: str, parent: str | None, entries: Sequence[Entry], blobs: Mapping[str, bytes], now: int) -> bytes:
    """A git fast-import stream: one commit on ``parent`` that adds the blobs."""
    first, last = entries[0], entries[-1]
    names = f"entry {first.sequence}" if first is last else f"entries {first.sequence}-{last.sequence}"
    subjects = "\n".join(f"- {entry.body.kind} {_subject(entry)}" for entry in entries)
    message = f"forge: {names}\n\n{subjects}\n\nForge-Head: {last.sequence} {last.digest}\n".encode()
    parts = [f"commit {ref}\ncommitter Forge <forge@localhost> {now} +0000\n".encode(), _data(message)]
    if parent:
        parts.append(f"from {parent}\n".encode())
    for path, data in sorted(blobs.items()):
        parts += [f"M 100644 inline {json.dumps(path)}\n".encode(), _data(data)]
    return b"".join([*parts, b"\ndone\n"])


def _subject(entry: Entry) -> str:
    body = entry.body
    return f"{body.environment} {body.release}" if isinstance(body, Release) else body.step_id


def _data(data: bytes) -> bytes:
    return b"data %d\n%s\n" % (len(data), data)


def _lock_hint(reason: str) -> str:
    match = re.search(r"'([^']+\.lock)': File exists", reason)
    return f". If no git process runs, a killed one left {match.group(1)} behind: remove that file" if match else ""


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
