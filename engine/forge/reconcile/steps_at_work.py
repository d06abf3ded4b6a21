"""The steps that this reconciler has at work: begun, kept alive while the ledger is away, stopped, and handed over."""

import math
import time
from contextlib import suppress
from dataclasses import dataclass, field

from forge.errors import LedgerError
from forge.ledger.lease import Lease
from forge.ledger.leases import Leases
from forge.plan.action import Action
from forge.plan.step import Step
from forge.reconcile.at_work import AtWork, begin
from forge.reconcile.heartbeat import Heartbeats
from forge.reconcile.observer import Observer
from forge.reconcile.place import Place
from forge.reconcile.stop import Stop

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 60.0
"""How long the steps have to end after an error here: not longer than their leases would bear."""
_REMIND_SECONDS = 10.0


@dataclass
class StepsAtWork:
    """Each holds its lease until it is let go; who asks to stop is heard while waiting."""

    leases: Leases
    hearts: Heartbeats
    observer: Observer
    stop: Stop
    by_key: dict[str, AtWork] = field(default_factory=dict)
    unsettled: list[AtWork] = field(default_factory=list)
    """What has ended and is not recorded yet."""
    yielded: dict[str, str] = field(default_factory=dict)
    """By key: steps that stopped here for a newer commit that another runner applies, and what to say of it."""
    unheard: bool = False
    """Whether it was said that the ledger is out of reach."""

    def __bool__(self) -> bool:
        return bool(self.by_key)

    def __contains__(self, key: object) -> bool:
        return key in self.by_key

    @property
    def ids(self) -> set[str]:
        """Ids of the steps."""
        return {work.action.id for work in self.by_key.values()}

    @property
    def processes(self) -> int:
        """How many processes they have together."""
        return sum(work.request.resources.processes for work in self.by_key.values())

    def begin(self, place: Place, action: Action, step: Step, lease: Lease, shown: float) -> None:
        """Adopt or launch a step under a lease that was written at ``shown`` (monotonic seconds), at the earliest."""
        self.hearts.hold(lease, shown)
        try:
            self.by_key[lease.key] = begin(place, action, step, lease, self.observer)
        except BaseException:
            self.end(lease)
            raise

    def end(self, lease: Lease) -> None:
        """Give up a lease whose step is not recorded."""
        self.leases.end(lease)
        self.hearts.let_go(lease)

    def wait(self, seconds: float | None) -> None:
        """Until a step has ended or someone asks to stop, but no longer than told; raises LedgerError as ``heed`` does."""
        until = None if seconds is None else time.monotonic() + seconds
        while not self.has_news() and (until is None or time.monotonic() < until):
            self._heed()
            self.unheard = self.unheard and self.hearts.trouble() is not None
            time.sleep(_POLL_SECONDS)

    def wait_out(self, error: LedgerError, seconds: float) -> None:
        """A while without the ledger, as long as no lease can have run out: raises ``error`` then, or if nothing is at work."""
        if not self or self.has_news():
            raise error
        self._bear(error)
        until = time.monotonic() + seconds
        while not self.has_news() and time.monotonic() < until:
            self._heed()
            time.sleep(_POLL_SECONDS)

    def has_news(self) -> bool:
        """Whether a step has ended, or someone asks to stop."""
        return bool(self.stop.asked) or any(work.is_over() for work in self.by_key.values())

    def _heed(self) -> None:
        """Act on what the heartbeats have learnt.

        Raises LedgerError when the ledger cannot be reached for so long that another runner may soon find this one dead.
        """
        for key in self.hearts.lost() & set(self.by_key):  # its result would be refused: another runner has the step now
            self.give_up(key)
        for key, commit in self.hearts.superseded().items():
            if key in self.by_key:
                why = f"commit {commit[:12]}, which another runner applies, wants another run"
                self.yielded[key] = f"{self.by_key[key].action.id}: {why}"
                self.give_up(key)
        trouble = self.hearts.trouble()
        if trouble is not None:
            self._bear(trouble)

    def _bear(self, error: LedgerError) -> None:
        """Let the steps go on while no lease can have run out."""
        left = self.hearts.seconds_left()
        if left <= 0:
            raise error
        if not self.unheard:
            self.observer.said(f"the ledger is out of reach; what is at work ends in {left:.0f} s if that lasts: {error}")
        self.unheard = True

    def give_up(self, key: str) -> None:
        """Ask a step to stop, once, because its result is wanted no longer."""
        work = self.by_key[key]
        if not work.stopping:
            self.observer.superseded(work.action)
            work.ask_to_stop()

    def drain(self, grace_seconds: float = math.inf) -> None:
        """Ask every step to stop and wait for its checkpoint; asked twice, or after the grace, end them at once."""
        began = time.monotonic()
        for work in self.by_key.values():
            work.ask_to_stop()
        is_said = False
        while not all(work.is_over() for work in self.by_key.values()):
            waited = time.monotonic() - began
            if self.stop.asked > 1 or waited > grace_seconds:
                for work in self.by_key.values():
                    work.kill()
            elif waited > _REMIND_SECONDS and not is_said:
                waits = ", ".join(sorted(work.action.id for work in self.by_key.values() if not work.is_over()))
                self.observer.said(f"waiting for {waits} to end, with a checkpoint; ask again (Ctrl-C) to end it at once")
                is_said = True
            time.sleep(_POLL_SECONDS)

    def end_all(self) -> None:
        """After an error of the reconciler itself: let no step outlive it. Their results and checkpoints stay.

        So do not their leases: this process may go on living, as a controller does, and would wait for itself.
        """
        if any(not work.is_over() for work in self.by_key.values()):
            self.drain(_GRACE_SECONDS)
        for work in (*self.by_key.values(), *self.unsettled):
            with suppress(LedgerError):  # then it is the ledger's error that is raised here; the lease dies with this process
                self.end(work.lease)

    def take_ended(self) -> list[AtWork]:
        """Those that have ended since; they count as unsettled until they are ``settled``."""
        ended = [work for work in self.by_key.values() if work.is_over()]
        for work in ended:
            del self.by_key[work.lease.key]
        self.unsettled += ended
        return ended

    def settled(self, recorded: list[Lease]) -> None:
        """What had ended is in the ledger, and with it the end of these leases; the others are ended here."""
        for work in self.unsettled:
            if work.lease not in recorded:  # it was stopped: there is nothing to record
                self.leases.end(work.lease)
            self.hearts.let_go(work.lease)
        self.unsettled.clear()
