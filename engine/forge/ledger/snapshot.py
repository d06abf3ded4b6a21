"""An immutable view of the ledger at one commit.

What is asked for one at a time is read from Git, each object re-hashed; what planning asks for by the thousand comes from the
index (``forge.ledger.index``), which is brought to this commit first and is never evidence.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TypeVar

from rfc8785 import CanonicalizationError

from forge.canonical import digest_of_bytes
from forge.contract.record import Attempt, Delegation, Made, Pointer, Record, Release, Renamed, Retirement, Subject, Withdrawal
from forge.errors import LedgerError, RepoError
from forge.ledger.entry import DELEGATIONS, Entry, attestation_path, key_folder, sequence_path, withdrawal_folder
from forge.ledger.index import Head, Index, parse_entry
from forge.ledger.signers import named_signers
from forge.repo.repository import Repository, TreeEntry

_Body = TypeVar("_Body", Record, Release, Retirement, Withdrawal)
_TRAILER = re.compile(r"^Forge-Head: ([0-9]{1,9}) (sha256:[0-9a-f]{64})$", re.MULTILINE)


class Snapshot:
    """The ledger at one commit; None is the empty ledger."""

    def __init__(self, repository: Repository, commit: str | None, index: Index | None = None) -> None:
        self._repository = repository
        self._index = index or Index(repository)
        self.commit = commit

    @cached_property
    def head(self) -> Head:
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
        entry = self.record_entry(key)
        return entry.body if entry and isinstance(entry.body, Record) else None

    def record_entry(self, key: str) -> Entry | None:
        """The same with its place in the chain; read from Git alone."""
        return self.newest(key_folder(key))

    def newest(self, folder: str) -> Entry | None:
        """The newest entry that is listed in a folder of the ledger's tree; read from Git alone."""
        rows = self._children(folder)
        return self.entry_at(f"{folder}/{max(row.path for row in rows)}") if rows else None

    def latest(self, step_id: str) -> Record | None:
        """The newest record under a step id."""
        made = self.latest_made(step_id)
        if made is None:
            return None
        body = self._body(made.sequence, Record)
        if body.step_id != step_id:
            raise self._contradiction(made.sequence)
        return body

    def latest_of(self, spans: Iterable[tuple[str, int, int]]) -> Record | None:
        """The newest record in several stretches: step id, the entry after which it begins, and the one where it ends."""
        made = None if self.commit is None else self._index.latest_of(self.commit, self.head, spans)
        return None if made is None else self._body(made.sequence, Record)

    def renamings(self) -> Sequence[Renamed]:
        """Every renaming that is noted, oldest first."""
        return [] if self.commit is None else self._index.renamings(self.commit, self.head)

    def made(self, key: str) -> Made | None:
        """What planning asks of a key's authoritative record."""
        return self.made_many((key,)).get(key)

    def made_many(self, keys: Iterable[str]) -> Mapping[str, Made]:
        """The same for many keys at once; those without a record are left out."""
        return {} if self.commit is None else self._index.made(self.commit, self.head, keys)

    def latest_made(self, step_id: str) -> Made | None:
        """What planning asks of the newest record under a step id."""
        return None if self.commit is None else self._index.latest_made(self.commit, self.head, step_id)

    def release(self, environment: str) -> Release | None:
        """What an environment's pointer names; None where nothing was released, or what was is retired."""
        moves = self._moves(environment)
        return self._body(moves[-1][0], Release) if moves and moves[-1][1] == "release" else None

    def releases(self, environment: str) -> tuple[Release, ...]:
        """Every move of an environment's pointer, oldest first."""
        return tuple(self._body(sequence, Release) for sequence, kind in self._moves(environment) if kind == "release")

    def moves(self, environment: str) -> list[Entry]:
        """Every entry that moves an environment's pointer, signed or not, oldest first."""
        return [self.entry_at(sequence_path(sequence)) for sequence, _ in self._moves(environment)]

    def last_move(self, environment: str) -> Release | Retirement | None:
        """What moved an environment's pointer last: a release, or the retirement of what it named."""
        moves = self._moves(environment)
        if not moves:
            return None
        sequence, kind = moves[-1]
        return self._body(sequence, Release) if kind == "release" else self._body(sequence, Retirement)

    def environments(self) -> tuple[str, ...]:
        """Every environment that was ever released to, sorted."""
        return () if self.commit is None else self._index.environments(self.commit, self.head)

    def pointers(self) -> Mapping[str, Pointer]:
        """What every environment serves, by name; one that is retired is left out."""
        return {} if self.commit is None else self._index.pointers(self.commit, self.head)

    def charter(self) -> str | None:
        """Digest of the charter of the newest delegation; whether the root signed it is for admission to judge."""
        entry = self.newest(DELEGATIONS)
        return entry.body.digest if entry is not None and isinstance(entry.body, Delegation) else None

    def subjects(self) -> Mapping[str, Subject]:
        """Every resource that ever had a record, release, protection or retirement, by address."""
        return {} if self.commit is None else self._index.subjects(self.commit, self.head)

    def withdrawals(self) -> Mapping[str, Withdrawal]:
        """The newest withdrawal of each subject, by subject; one that is lifted says so."""
        if self.commit is None:
            return {}
        found = (self._body(sequence, Withdrawal) for sequence in self._index.withdrawals(self.commit, self.head))
        return {withdrawal.subject: withdrawal for withdrawal in found}

    def withdrawal_entry(self, subject: str) -> Entry | None:
        """The newest entry that withdraws a subject or lifts that; read from Git alone."""
        return self.newest(withdrawal_folder(subject))

    def signed_by(self, keyid: str) -> frozenset[str]:
        """Step keys of the authoritative records that a key signed; every record and its attestations are read."""
        found: set[str] = set()
        for sequence in range(1, self.head[0] + 1):
            body = self.entry_at(sequence_path(sequence)).body
            if isinstance(body, Record):
                (found.add if keyid in self.signers(body) else found.discard)(body.key)
        return frozenset(found)

    def signers(self, body: Record | Release) -> frozenset[str]:
        """Ids of the keys that its envelopes name; who believes them verifies the signatures first."""
        return frozenset(keyid for digest in body.attestations.values() for keyid in named_signers(self.attestation(digest)))

    def check(self) -> None:
        """Bring the index here, which reads every entry that is new to it; raises LedgerError where one is at fault."""
        if self.commit is not None:
            self._index.environments(self.commit, self.head)

    def attempts(self, step_id: str) -> list[Attempt]:
        """The failed attempts at a step, oldest first."""
        entries = [self.entry_at(f"attempts/{step_id}/{row.path}") for row in self._children(f"attempts/{step_id}")]
        return [entry.body for entry in entries if isinstance(entry.body, Attempt)]

    def entry(self, sequence: int) -> Entry | None:
        """An entry by number."""
        path = sequence_path(sequence)
        return None if self._read_path(path) is None else self.entry_at(path)

    def entries_in(self, folder: str) -> list[Entry]:
        """The entries that are listed in a folder of the ledger's tree, oldest first; read from Git alone."""
        return [self.entry_at(f"{folder}/{name}") for name in sorted(row.path for row in self._children(folder))]

    def entries_newest_first(self, folder: str) -> Iterator[Entry]:
        """The same from the other end, each read when it is asked for."""
        for name in sorted((row.path for row in self._children(folder)), reverse=True):
            yield self.entry_at(f"{folder}/{name}")

    def entry_at(self, path: str) -> Entry:
        """The entry at a path of the ledger's tree; raises LedgerError when it is absent or not in its canonical form."""
        return read_entry(path, self._read_path(path))

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

    def _moves(self, environment: str) -> Sequence[tuple[int, str]]:
        return [] if self.commit is None else self._index.moves(self.commit, self.head, environment)

    def _body(self, sequence: int, kind: type[_Body]) -> _Body:
        """The body of an entry that the index names; what is returned was read from Git."""
        path, name = sequence_path(sequence), None
        if self.commit is not None:
            name = self._index.object_of(self.commit, self.head, sequence)
        data = self._read(name) if name is not None else None
        entry = read_entry(path, self._read_path(path) if data is None else data)
        if entry.sequence != sequence or not isinstance(entry.body, kind):
            raise self._contradiction(sequence)
        return entry.body

    def _contradiction(self, sequence: int) -> LedgerError:
        return LedgerError(f"the ledger's index is wrong about {sequence_path(sequence)}: remove {self._index.files}")

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


def read_entry(path: str, data: bytes | None) -> Entry:
    """The entry whose bytes lie at a path; raises LedgerError where there are none, or none in their canonical form."""
    if data is None:
        raise LedgerError(f"the ledger has no {path}")
    entry = parse_entry(path, data)
    try:
        is_canonical = entry.digest == digest_of_bytes(data)
    except CanonicalizationError as error:
        raise LedgerError(f"ledger entry {path} has no canonical form: {error}") from error
    if not is_canonical:
        raise LedgerError(f"ledger entry {path} is not in its canonical form")
    return entry
