"""The ledger: read a head, append a batch.

Rules of the state machine:
- The ref moves only by compare-and-swap with the value it had when the batch was built; a loser rebuilds on the new head.
- An append only adds paths. Sequence numbers have no gap, and each entry names the digest of the one before.
- One step key has one authoritative record, the newest; a second record for a key says which one it supersedes.
- The last head that this clone has seen is remembered outside the refs, and so is the last that the remote showed; a head that
  does not descend from it, or that removes or changes a path of it, is refused. So is one under another name that leaves out
  what was seen under the same trust root.
- Leases end in the transaction that records what they were taken for. A stale lease's result is not recorded.
- With a remote the remote's ref is the ledger: an append builds on what was fetched, and this clone's ref follows the push.
- Objects reach the disk before the ref that names them (core.fsync).
"""

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from forge.errors import LedgerError
from forge.faults import reached
from forge.ledger.batch import TEMPORARY_REFS, Batch, Draft, build, write_commit
from forge.ledger.entry import Entry
from forge.ledger.head import check_advance, head_here, hold_to_root, read_text, seen_file, write_text
from forge.ledger.index import Index
from forge.ledger.lease import Lease, StaleLeaseError
from forge.ledger.leases import holding
from forge.ledger.lock import fair_lock, lock_if_free
from forge.ledger.refs import LocalRefs, Move, RefMovedError, Refs, list_refs
from forge.ledger.remote import RemoteRefs
from forge.ledger.snapshot import Snapshot
from forge.ledger.turn import Turn
from forge.repo.repository import Repository

__all__ = ["Draft", "Ledger", "Snapshot"]

APPEND_SECONDS = 600.0
_PACKS = 64
"""So many packs are joined into fewer; each append writes one."""
_log = logging.getLogger(__name__)


class Ledger:
    """The ledger of a repository, or the one that it shares through a remote."""

    def __init__(
        self,
        repository: Repository,
        ref: str,
        remote: str | None = None,
        clock: Callable[[], float] = time.time,
        root: str | None = None,
    ) -> None:
        """``root``: the digest of the trust root that is pinned: what was seen under it binds, whatever ref is named."""
        self.repository = repository
        self.ref = ref
        self.remote = RemoteRefs(repository, remote) if remote else None
        self.root = root
        """May be set anew: an agent reads the pinned root at each look."""
        self.most_attempts = 0
        """The most attempts that any append needed so far: how fair the competition with other writers is."""
        self._clock = clock
        name = ref.removeprefix("refs/forge/")
        self._name = name
        self._index = Index(repository, name)
        self._seen_file = seen_file(repository, ref)
        self._remote_seen_file = self._seen_file.with_name(f"{self._seen_file.name}.{remote}")

    @property
    def refs(self) -> Refs:
        """Where what runners share lies: this repository's refs, or the remote's."""
        return self.remote or LocalRefs(self.repository)

    def connect(self) -> None:
        """Prepare the remote, once; raises LedgerError where it is absent or cannot do what is needed."""
        if self.remote is not None:
            self.remote.connect()

    def snapshot(self) -> Snapshot:
        """The ledger as this clone has it; raises LedgerError when its head is no advance over the last one seen here."""
        return Snapshot(self.repository, head_here(self.repository, self.ref, self.root), self._index)

    def fetch(self) -> Snapshot:
        """The ledger as the remote has it now; without a remote, as it is here.

        Raises LedgerError when the remote cannot be reached, when its head is no advance over the last one seen, or when what
        is new does not follow from what is known.
        """
        if self.remote is None:
            return self.snapshot()
        self.remote.refresh()
        with fair_lock(self.repository.state_folder, self._name):
            return self._adopt(self.remote)[0]

    def claimed(self) -> Snapshot | None:
        """The newest head that is an advance over the last one seen, whatever faults what is new in it has; None without any.

        For nobody who builds on it. Nothing is fetched, adopted or remembered.
        """
        commit = head_here(self.repository, self.ref, self.root)
        theirs = self.remote.target(self.ref) if self.remote is not None else None
        if theirs is not None and not self._is_part(theirs, commit):
            try:
                if commit is not None:
                    check_advance(self.repository, commit, theirs, self.ref, "")
                commit = theirs
            except LedgerError:
                return None
        return Snapshot(self.repository, commit, self._index) if commit is not None else None

    def append(self, drafts: Sequence[Draft], ended: Sequence[Lease] = ()) -> list[Entry]:
        """Append a batch in one commit and end leases in the same transaction; returns its entries.

        What is there already is left as it is and returned. Raises StaleLeaseError when a lease is no longer held and what it
        was taken for is not recorded, LedgerError when a record contradicts one that it does not supersede, or when the
        remote cannot be reached; nothing is appended then.
        """
        turn = Turn(self.repository, self.remote) if self.remote else None
        try:
            entries = self._append(drafts, ended, turn)
        except (LedgerError, StaleLeaseError):
            if turn is not None:
                turn.give_up()
            raise
        self._join_packs()
        return entries

    def _append(self, drafts: Sequence[Draft], ended: Sequence[Lease], turn: Turn | None) -> list[Entry]:
        tried: dict[str, Batch] = {}
        deadline = time.monotonic() + APPEND_SECONDS
        attempts = 0
        while time.monotonic() < deadline:
            attempts += 1
            self.most_attempts = max(self.most_attempts, attempts)
            began = time.monotonic()
            if self.remote is not None and attempts == 1:  # a push that was refused has fetched already
                self.remote.refresh()
            if turn is not None:
                turn.wait(attempts)
            try:
                with fair_lock(self.repository.state_folder, self._name), self._still(ended):
                    return self._try_append(drafts, ended, tried, turn)
            except RefMovedError:
                _log.debug("%s or a lease moved: attempt %d", self.ref, attempts)
            # A part of a round, whatever the number of attempts: longer pauses would starve whoever has lost most often, and
            # who comes new has to fetch first.
            time.sleep(random.uniform(0, (time.monotonic() - began) / 8))  # noqa: S311 (jitter, not secrecy)
        raise LedgerError(
            f"{self.ref} kept moving: gave up after {attempts} attempts to append in {APPEND_SECONDS:.0f} s; nothing was "
            "appended. Run fewer writers at once, or append more in one batch"
        )

    @contextmanager
    def _still(self, ended: Sequence[Lease]) -> Iterator[None]:
        """Let no heartbeat of this machine come between reading the leases that end and ending them.

        One that beats without a pause would win for ever.
        """
        if ended and self.remote is None:
            with fair_lock(self.repository.state_folder, "leases"):
                yield
        else:
            yield

    def _try_append(
        self, drafts: Sequence[Draft], ended: Sequence[Lease], tried: dict[str, Batch], turn: Turn | None
    ) -> list[Entry]:
        """One attempt, under the lock; raises RefMovedError when a ref moved meanwhile."""
        snapshot, theirs = self._adopt(self.remote) if self.remote else (self.snapshot(), None)
        landed = next((commit for commit in tried if self._is_part(commit, snapshot.commit)), None)
        if landed is not None:  # only its acknowledgement was lost
            return tried[landed].entries
        ends = [(lease, holding(self.refs, self.repository, lease)) for lease in ended]
        batch = build(snapshot, drafts)
        for lease, found in ends:
            if found is None and any(getattr(entry.body, "key", None) == lease.key for entry in batch.new):
                raise StaleLeaseError(
                    f"{lease} has ended or was taken over since: its result is not recorded. "
                    "Who holds the lease now will record the step; plan again"
                )
        moves = [Move(lease.ref, found, None) for lease, found in ends if found is not None]
        moves += turn.end() if turn else []
        if not batch.new:
            if moves:
                self.refs.move(moves)
            return batch.entries
        commit = write_commit(self.repository, snapshot.commit, batch, int(self._clock()))
        tried[commit] = batch
        reached("ledger.move.before")
        here = [Move(self.ref, snapshot.commit, commit)]
        if self.remote is not None:
            self.remote.move([Move(self.ref, theirs, commit), *moves])
            write_text(self._remote_seen_file, commit)
        else:
            here += moves
        LocalRefs(self.repository).move([*here, *self._no_temporary_refs()])
        reached("ledger.move.after")
        self._hold(commit)
        write_text(self._seen_file, commit)
        return batch.entries

    def _no_temporary_refs(self) -> list[Move]:
        """Remove our own, and what a killed writer left behind: safe, for we hold the lock."""
        return [Move(ref, name, None) for ref, name in list_refs(self.repository, TEMPORARY_REFS).items()]

    def _adopt(self, remote: RemoteRefs) -> tuple[Snapshot, str | None]:
        """Move this clone's ref to what was fetched, if that is an advance; returns the head to build on and the remote's."""
        snapshot = Snapshot(self.repository, head_here(self.repository, self.ref), self._index)
        theirs = remote.target(self.ref)
        seen = read_text(self._remote_seen_file)
        where = f"{self.ref} of remote {remote.name!r}"
        if seen and seen != theirs:
            lease = f"--force-with-lease={self.ref}:{theirs or ''}"
            check_advance(self.repository, seen, theirs, where, f"git push {lease} {remote.name} {seen}:{self.ref}")
        if theirs is None:
            self._hold(snapshot.commit)
            return snapshot, None
        if snapshot.commit != theirs and not self._is_part(theirs, snapshot.commit):
            if snapshot.commit is not None:
                remedy = f"compare `git log {self.ref}` with `git log {theirs}` and keep the true one"
                check_advance(self.repository, snapshot.commit, theirs, where, remedy)
            self._hold(theirs)
            advanced = Snapshot(self.repository, theirs, self._index)
            advanced.check()
            LocalRefs(self.repository).move([Move(self.ref, snapshot.commit, theirs), *self._no_temporary_refs()])
            write_text(self._seen_file, theirs)
            snapshot = advanced
        else:
            self._hold(snapshot.commit)
        if seen != theirs:
            write_text(self._remote_seen_file, theirs)
        return snapshot, theirs

    def _hold(self, commit: str | None) -> None:
        if self.root is not None:
            hold_to_root(self.repository, self.ref, commit, self.root)

    def _is_part(self, commit: str, head: str | None) -> bool:
        return head is not None and (commit == head or self.repository.is_ancestor(commit, head))

    def _join_packs(self) -> None:
        """Join small packs into larger ones; git keeps every object, reachable or not, and readers notice nothing."""
        packs = self.repository.common_dir / "objects" / "pack"
        names = {path.name for path in packs.iterdir()} if packs.is_dir() else set()
        kept = {name.removesuffix(".keep") + ".pack" for name in names if name.endswith(".keep")}
        if sum(1 for name in names - kept if name.endswith(".pack")) < _PACKS:
            return
        with lock_if_free(self.repository.state_folder, "repack") as is_ours:
            if not is_ours:
                return  # somebody joins them at this moment: once is enough, and nobody need wait for it
            reached("ledger.repack.before")
            done = self.repository.program(["repack", "--geometric=2", "-d", "-l", "-q", "--no-write-bitmap-index"])
            reached("ledger.repack.after")
        if done.returncode:  # nothing depends on it: the next append tries again
            _log.warning("git repack: %s", done.stderr.decode(errors="replace").strip())
