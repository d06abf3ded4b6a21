"""Leases: take, renew, end, take over; each by compare-and-swap on exactly the blob that was seen.

Rules:
- A lease's ref is created, replaced and deleted only at the value that was read; of two who try, one wins.
- Every taking draws the next token from the counter, in the same transaction. The counter never goes back: it is compared with
  the tokens of all leases there are, and with the last one that this clone has seen.
- A renewal needs the lease to be there: one that races its own release can never bring the lease back.
- A record that came after the taking overrides the lease, whoever left it behind.
- Nobody is dead by a clock that he could have set wrong: an observer waits, on its own monotonic clock, for a lease to move.
"""

import os
import random
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from pydantic import ValidationError

from forge.errors import LedgerError, RepoError
from forge.faults import reached
from forge.ledger.lease import (
    TOKEN_REF,
    AlreadyRecordedError,
    Counter,
    Holder,
    Lease,
    LeaseHeldError,
    LeaseLostError,
    MalformedLeaseError,
    lease_ref,
    malformed,
    parse_lease,
)
from forge.ledger.lock import fair_lock
from forge.ledger.refs import LEASE_REFS, LocalRefs, Move, RefMovedError, Refs, write_blob
from forge.ledger.snapshot import Snapshot
from forge.repo.repository import Repository

TAKE_SECONDS = 300.0


class Shared(Protocol):
    """The ledger, as far as leases need it."""

    @property
    def repository(self) -> Repository:
        """Where objects are written."""
        ...

    @property
    def refs(self) -> Refs:
        """Where leases lie."""
        ...

    def snapshot(self) -> Snapshot:
        """What is recorded, as this clone has it."""
        ...

    def fetch(self) -> Snapshot:
        """What is recorded, as the remote has it; refreshes the refs as well."""
        ...


@dataclass(frozen=True)
class Found:
    """What lies under the lease refs."""

    leases: Mapping[str, Lease]
    """By step key."""
    faults: tuple[MalformedLeaseError, ...]
    """One for each ref that holds something else; each says how to remove it."""


def this_holder() -> Holder:
    """A holder for this run of this process."""
    return Holder(id=uuid.uuid4().hex, host=socket.gethostname(), pid=os.getpid())


class Leases:
    """The leases of a ledger, locally or on its remote, on behalf of one holder."""

    def __init__(self, ledger: Shared, holder: Holder | Callable[[], Holder] = this_holder) -> None:
        """``holder`` may be a function: who only reads leases need not say who he is."""
        self._ledger = ledger
        self._repository = ledger.repository
        self._refs = ledger.refs
        self._is_local = isinstance(self._refs, LocalRefs)
        self._holder = holder
        self._token_file = self._repository.state_folder / "lease-token"

    @cached_property
    def holder(self) -> Holder:
        """On whose behalf leases are taken; the same for as long as this object lives."""
        return self._holder() if callable(self._holder) else self._holder

    def read(self) -> Found:
        """All leases as they are now, and what is no lease."""
        self._refs.refresh()
        leases, faults = {}, []
        for ref, name in self._refs.below(LEASE_REFS).items():
            try:
                lease = _load(self._refs, self._repository, ref, name)
            except MalformedLeaseError as error:
                faults.append(error)
            else:
                leases[lease.key] = lease
        return Found(leases, tuple(faults))

    def current(self) -> Mapping[str, Lease]:
        """All leases as they are now, by step key; what is no lease is left out (``read`` names it)."""
        return self.read().leases

    def take(self, key: str, step_id: str, commit: str, handle: Mapping[str, str] | None = None, recorded: int = 0) -> Lease:
        """Take a lease that nobody holds; ``recorded`` is the number of the key's record that the caller knows of, 0 for none.

        Raises LeaseHeldError, AlreadyRecordedError when a later record is there, or MalformedLeaseError where something else
        lies under the lease's ref.
        """
        ref = lease_ref(key)
        self._ledger.fetch()

        def attempt(token: int) -> tuple[Lease, str | None]:
            name = self._refs.target(ref)  # before the ledger: an append moves the ledger's ref before it ends the lease
            self._require_nothing_later(key, step_id, recorded)
            if name is not None:
                held = _load(self._refs, self._repository, ref, name)
                if recorded <= held.recorded:
                    raise LeaseHeldError(held)
            return self._new(token, key, step_id, commit, handle or {}, recorded), name

        return self._draw(attempt)

    def take_over(self, seen: Lease, commit: str | None = None, handle: Mapping[str, str] | None = None) -> Lease:
        """Replace a dead holder's lease, if it is still what was seen; its handle is kept unless another is given.

        Raises LeaseHeldError when it has moved, LeaseLostError when it is gone, and AlreadyRecordedError when the step is done.
        """
        self._ledger.fetch()

        def attempt(token: int) -> tuple[Lease, str | None]:
            name = self._refs.target(seen.ref)
            self._require_nothing_later(seen.key, seen.step_id, seen.recorded)
            if name is None:
                raise LeaseLostError(f"{seen} has ended: there is nothing to take over")
            if name != seen.object_id:
                raise LeaseHeldError(_load(self._refs, self._repository, seen.ref, name))
            kept = dict(seen.handle if handle is None else handle)
            return self._new(token, seen.key, seen.step_id, commit or seen.commit, kept, seen.recorded), name

        return self._draw(attempt)

    def beat(self, lease: Lease, handle: Mapping[str, str] | None = None) -> Lease:
        """Renew a lease, with another handle if one is given; raises LeaseLostError when it is not ours any more."""
        base = lease
        while True:
            update = {"beat": base.beat + 1, "handle": dict(base.handle if handle is None else handle)}
            renewed = base.model_copy(update=update)
            self._write(renewed.to_bytes())
            try:
                self._move([Move(lease.ref, base.object_id, renewed.object_id)])
            except RefMovedError as error:
                found = self._ours(lease)
                if found is None:
                    raise LeaseLostError(f"{lease} has ended or was taken over") from error
                if found == renewed:
                    return renewed
                base = found
            else:
                return renewed

    def ask_to_stop(self, seen: Lease, commit: str) -> None:
        """Ask another holder to stop, for a commit that wants another run; he learns of it at his next beat, and keeps it.

        A lease that has ended or was taken over is left alone: then there is nobody to ask.
        """
        base: Lease | None = seen
        while base is not None and base.superseded_by != commit:
            asked = base.model_copy(update={"superseded_by": commit})
            self._write(asked.to_bytes())
            try:
                self._move([Move(seen.ref, base.object_id, asked.object_id)])
            except RefMovedError:
                base = self._ours(seen)  # a beat came between
            else:
                return

    def end(self, lease: Lease) -> None:
        """End a lease; one that is not ours any more is left alone."""
        while True:
            with self._still():
                self._refs.refresh()
                name = holding(self._refs, self._repository, lease)
                if name is None:
                    return
                try:
                    self._move_now([Move(lease.ref, name, None)])
                except RefMovedError:
                    continue  # a heartbeat from another machine came between
                return

    def tidy(self) -> tuple[Lease, ...]:
        """Remove the leases that a later record overrides; returns them. Doing it again changes nothing."""
        removed = []
        for lease in self.current().values():
            if self._recorded(lease.key) > lease.recorded:
                try:
                    self._move([Move(lease.ref, lease.object_id, None)])
                except RefMovedError:
                    continue  # somebody else tidied, or its holder is alive after all
                removed.append(lease)
        return tuple(removed)

    def _new(self, token: int, key: str, step_id: str, commit: str, handle: Mapping[str, str], recorded: int) -> Lease:
        return Lease(
            key=key, step_id=step_id, commit=commit, holder=self.holder, token=token, recorded=recorded, handle=dict(handle)
        )

    def _draw(self, attempt: Callable[[int], tuple[Lease, str | None]]) -> Lease:
        """Write what ``attempt`` decides for a token, and the counter, in one transaction; decide again when either moved."""
        deadline = time.monotonic() + TAKE_SECONDS
        while True:
            last = self._refs.target(TOKEN_REF)  # read once: the token comes from what the transaction compares
            lease, old = attempt(max(self._counter(last), self._seen_token(), *(known.token for known in self._known()), 0) + 1)
            self._write(lease.to_bytes())
            counter = self._write(Counter(draw=uuid.uuid4().hex, token=lease.token).to_bytes())
            moves = [Move(lease.ref, old, lease.object_id), Move(TOKEN_REF, last, counter)]
            try:
                self._move(moves)
            except RefMovedError:
                self._ledger.fetch()
                if self._ours(lease) is not None:
                    break  # it went through, and only the counter has moved on since
                if time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0, 0.05))  # noqa: S311 (jitter, not secrecy)
            else:
                break
        self._remember(lease.token)
        return lease

    def _ours(self, lease: Lease) -> Lease | None:
        """The lease as it is now, if it is still the same holding."""
        self._refs.refresh()
        name = holding(self._refs, self._repository, lease)
        return _load(self._refs, self._repository, lease.ref, name) if name else None

    def _known(self) -> list[Lease]:
        leases = []
        for ref, name in self._refs.below(LEASE_REFS).items():
            try:
                leases.append(_load(self._refs, self._repository, ref, name))
            except MalformedLeaseError:
                continue  # it has no token to compare with; `read` names it
        return leases

    def _require_nothing_later(self, key: str, step_id: str, recorded: int) -> None:
        found = self._recorded(key)
        if found > recorded:
            raise AlreadyRecordedError(f"{step_id} was recorded meanwhile (entry {found}): plan again")

    def _recorded(self, key: str) -> int:
        made = self._ledger.snapshot().made(key)
        return made.sequence if made else 0

    def _counter(self, name: str | None) -> int:
        if name is None:
            return 0
        data = _read(self._repository, name)
        try:
            return Counter.model_validate_json(data or b"").token
        except ValidationError as error:
            raise LedgerError(
                f"{TOKEN_REF} holds no counter this engine reads. When no runner of another version is at work, remove it: "
                f"{self._refs.removal(TOKEN_REF)} (tokens go on from the highest that is known)"
            ) from error

    def _seen_token(self) -> int:
        try:
            return int(self._token_file.read_text("ascii"))
        except (FileNotFoundError, ValueError):
            return 0

    def _remember(self, token: int) -> None:
        reached("lease.token.before")
        with fair_lock(self._repository.state_folder, "lease-token"):
            if token > self._seen_token():
                temporary = self._token_file.with_name(f"lease-token.{os.getpid()}.tmp")
                temporary.write_text(f"{token}\n", encoding="ascii")
                temporary.replace(self._token_file)
        reached("lease.token.after")

    def _write(self, data: bytes) -> str:
        reached("lease.objects.before")
        name = write_blob(self._repository, data)
        reached("lease.objects.after")
        return name

    def _move(self, moves: list[Move]) -> None:
        with self._still():
            self._move_now(moves)

    def _move_now(self, moves: list[Move]) -> None:
        reached("lease.move.before")
        self._refs.move(moves)
        reached("lease.move.after")

    @contextmanager
    def _still(self) -> Iterator[None]:
        """Hold this machine's lock on leases, which stale lock files are removed under; a remote has locks of its own."""
        if self._is_local:
            with fair_lock(self._repository.state_folder, "leases"):
                yield
        else:
            yield


class Watch:
    """Decides whether a holder is dead: its lease did not move for the time to live, on the observer's own clock."""

    def __init__(self, ttl_seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._ttl_seconds = ttl_seconds
        self._monotonic = monotonic
        self._first_seen: dict[str, tuple[str, float]] = {}

    def is_dead(self, lease: Lease) -> bool:
        """Look at a lease as it is now (read afresh); the first look never finds it dead."""
        now = self._monotonic()
        name, since = self._first_seen.get(lease.key, ("", now))
        if name != lease.object_id:
            self._first_seen[lease.key] = lease.object_id, now
            return False
        return now - since >= self._ttl_seconds


def holding(refs: Refs, repository: Repository, lease: Lease) -> str | None:
    """The object under a lease's ref, as last learnt, if it is the same holding (perhaps a later beat)."""
    name = refs.target(lease.ref)
    if name is None or name == lease.object_id:
        return name
    try:
        found = _load(refs, repository, lease.ref, name)
    except MalformedLeaseError:
        return None
    return name if found.is_of(lease) else None


def _load(refs: Refs, repository: Repository, ref: str, name: str) -> Lease:
    data = _read(repository, name)
    if data is None:
        raise malformed(ref, f"its object {name} is absent, damaged or no blob", refs.removal(ref))
    return parse_lease(ref, data, refs.removal(ref))


def _read(repository: Repository, name: str) -> bytes | None:
    try:
        found = repository.read_object(name)
    except RepoError:
        return None
    return found.data if found and found.kind == "blob" else None
