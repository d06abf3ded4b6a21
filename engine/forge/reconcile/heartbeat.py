"""Heartbeats: a thread of their own renews the leases of what is at work, whatever the reconciler is busy with.

Storing, hashing and signing what a step made may take longer than a lease lives; so may laying out its inputs. Meanwhile
nobody may find this runner dead. The thread has its own repository, for git's helper processes serve one reader each.
It decides nothing: what it learns (a lease that is lost, a request to stop, a ledger out of reach) waits for the reconciler.
"""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

from forge.errors import LedgerError
from forge.ledger.lease import Lease, LeaseLostError
from forge.ledger.leases import Leases

_BEATS_PER_LIFE = 4
"""The last of the beats in a life is the margin."""
_TRIES_PER_BEAT = 4
"""How much sooner a beat is tried again that failed."""
_LONGEST_GOODBYE_SECONDS = 5.0


@dataclass
class _Held:
    lease: Lease
    shown: float
    """When the lease was last written, at the earliest, on this process's monotonic clock: nobody can have seen it before."""


class Heartbeats:
    """The leases that this reconciler holds, renewed until they are let go."""

    def __init__(self, open_leases: Callable[[], AbstractContextManager[Leases]], time_to_live_seconds: float) -> None:
        """``open_leases`` is called in the thread, once, when the first lease is held."""
        self._open_leases = open_leases
        self._interval = time_to_live_seconds / _BEATS_PER_LIFE
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._held: dict[str, _Held] = {}
        self._lost: set[str] = set()
        self._trouble: LedgerError | None = None
        self._fault: BaseException | None = None

    def __enter__(self) -> "Heartbeats":
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        """Stop beating. A beat that is on its way to a remote which does not answer is not awaited for long."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(_LONGEST_GOODBYE_SECONDS)

    def hold(self, lease: Lease, shown: float) -> None:
        """Renew a lease from now on; ``shown`` is a monotonic time before it was written."""
        with self._lock:
            self._held[lease.key] = _Held(lease, shown)
            self._lost.discard(lease.key)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)
            self._thread.start()

    def let_go(self, lease: Lease) -> None:
        """Renew a lease no longer; one that is not held is left alone."""
        with self._lock:
            if lease.key in self._held and self._held[lease.key].lease.is_of(lease):
                del self._held[lease.key]
            self._lost.discard(lease.key)

    def lost(self) -> frozenset[str]:
        """Keys whose lease is not ours any more: another runner has the step now."""
        with self._lock:
            return frozenset(self._lost)

    def superseded(self) -> dict[str, str]:
        """By key: the commit for which another runner asks this one to stop."""
        with self._lock:
            return {key: held.lease.superseded_by for key, held in self._held.items() if held.lease.superseded_by}

    def trouble(self) -> LedgerError | None:
        """Why the last beat did not reach the ledger; None where it did. Raises what ended the thread, if anything did."""
        if self._fault is not None:
            raise self._fault
        return self._trouble

    def seconds_left(self) -> float:
        """How long this runner may go on unheard before another may find it dead."""
        now = time.monotonic()
        with self._lock:
            first = min((held.shown for held in self._held.values()), default=now)
        return self._interval * (_BEATS_PER_LIFE - 1) - (now - first)

    def _run(self) -> None:
        pause = self._interval
        try:
            with self._open_leases() as leases:
                while not self._over.wait(pause):
                    self._trouble = self._beat_all(leases)
                    pause = self._interval if self._trouble is None else self._interval / _TRIES_PER_BEAT
        except BaseException as error:  # noqa: BLE001 (the reconciler raises it, wherever it looks next)
            self._fault = error

    def _beat_all(self, leases: Leases) -> LedgerError | None:
        with self._lock:
            pending = [held.lease for held in self._held.values()]
        for lease in pending:
            if self._over.is_set():
                break
            began = time.monotonic()
            try:
                renewed = leases.beat(lease)
            except LeaseLostError:
                self._learn(lease, None, began)
            except LedgerError as error:
                return error
            else:
                self._learn(lease, renewed, began)
        return None

    def _learn(self, lease: Lease, renewed: Lease | None, began: float) -> None:
        """Keep what a beat told, unless the lease was let go meanwhile."""
        with self._lock:
            held = self._held.get(lease.key)
            if held is None or not held.lease.is_of(lease):
                return
            if renewed is None:
                del self._held[lease.key]
                self._lost.add(lease.key)
            else:
                self._held[lease.key] = _Held(renewed, began)
