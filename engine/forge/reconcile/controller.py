"""The controller: fetch, plan, apply, heal, and look again, for as long as it runs.

One pass is one ``apply`` that keeps going after a failure. Rules:
1. A pass that fails ends neither the controller nor the work that does not need what failed; a failed step is left alone for a
   while that doubles with each failure in a row, and a change of its key tries it at once. So does the pause after a pass
   that could not be made; another commit of the branch, or another entry of the ledger, ends it.
2. A new commit is taken up while steps run: what it still asks for goes on, what it does not is stopped with its checkpoint.
3. Healing is planning: an artifact that is gone, damage that was noted and a pointer that was moved by hand are reasons of the
   plan. Engines belong to the serving agents, whose signed status is read and never written.
4. A plan that needs approvals is applied once the ledger holds them for exactly it; a commit whose plan needs them is not taken
   up while steps of another run.
5. Health is told when it changes, while a pass is under way too, and beside that of the resources that of the branch itself.
"""

import datetime
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from forge.contract.record import Record
from forge.errors import ForgeError
from forge.plan.health import Health, ResourceHealth, health_of, health_of_branch
from forge.plan.upkeep import plans_may_need_approval
from forge.reconcile.apply import FailedStep, FailedStepsError, InterruptedApplyError, Mode, apply
from forge.reconcile.approved import approved_in_ledger
from forge.reconcile.backoff import Backoff
from forge.reconcile.lock import apply_lock
from forge.reconcile.notify import Metrics
from forge.reconcile.observer import Observer
from forge.reconcile.place import Look, Place, look
from forge.reconcile.stop import Stop
from forge.reconcile.telling import Teller

_POLL_SECONDS = 0.2
_LOCK_SECONDS = 5.0


class Reporter(Observer, Protocol):
    """An observer that also hears how resources are."""

    def health_changed(self, before: ResourceHealth | None, now: ResourceHealth) -> None:
        """A resource is otherwise than it was."""

    def pass_failed(self, error: Exception, retry_seconds: float) -> None:
        """A pass could not be made; it is tried again."""


@dataclass
class Controller:
    """What a controller keeps from pass to pass."""

    branch: str
    """Its name, for people."""
    open_place: Callable[[], Place]
    """The place as the branch wants it now: fetches, reads the commit; raises ForgeError."""
    origin: Callable[[], tuple[str | None, ...]]
    """What a pass starts from: the branch's commit and the ledger's head as they are now. Cheap; raises ForgeError."""
    reporter: Reporter
    stop: Stop
    metrics: Metrics
    teller: Teller
    interval_seconds: float
    serving: Callable[[Place], Mapping[str, tuple[Health, str]]]
    """Environment -> how its serving agent is, where that is not well."""
    monotonic: Callable[[], float] = time.monotonic
    backoff: Backoff = field(init=False)
    failures: dict[str, str] = field(default_factory=dict)
    """Step id -> why it failed last."""
    failed_passes: int = 0
    _told: float | None = None
    """When this pass last told how resources are; None: it has not yet."""

    def __post_init__(self) -> None:
        self.backoff = Backoff(self.monotonic)

    def watch(self) -> None:
        """Pass after pass until someone asks to stop."""
        while not self.stop.asked:
            before = self._origin()
            self.reconcile()
            self._sleep(before)

    def reconcile(self) -> bool:
        """One pass; returns whether it was made without a failure."""
        began = self.monotonic()
        self._told = None
        try:
            place = self.open_place()
            with apply_lock(place.repository.state_folder, _LOCK_SECONDS):
                failed = self._apply(place)
            place = self.open_place()
            self._tell(place, look(place), health_of_branch(self.branch))
        except InterruptedApplyError:
            raise
        except (ForgeError, OSError) as error:  # a full disk or a lost mount ends a pass, as a lost remote does
            self.failed_passes += 1
            self.metrics.passes.labels("error").inc()
            self.reporter.pass_failed(error, self._pause())
            self._tell_trouble(str(error))
            return False
        self.failed_passes = 0
        self.metrics.seconds.observe(self.monotonic() - began)
        self.metrics.passes.labels("failed" if failed else "done").inc()
        if not failed:
            self.metrics.last_success.set_to_current_time()
        return not failed

    def _apply(self, place: Place) -> bool:
        """Apply what the branch asks for; returns whether a step failed."""
        newest = place.desired.commit
        looked = self.monotonic()

        def refresh(current: Place) -> Place:
            nonlocal newest, looked
            if self.monotonic() - looked < self.interval_seconds:
                return current
            looked = self.monotonic()
            try:
                newer = self.open_place()
            except (ForgeError, OSError) as error:  # what runs goes on for the commit it was started for
                self.reporter.said(f"the branch cannot be read now: {error}")
                return current
            if newer.desired.commit == newest:
                return current
            if allowed is not None or (plans_may_need_approval(newer.desired) and look(newer).plan.approvals):
                return current  # the next pass takes it up, and looks for its approval
            newest = newer.desired.commit
            self.reporter.said(f"commit {(newest or '')[:12]} is taken up")
            return replace(newer, leases=current.leases, holders=current.holders)

        allowed = approved_in_ledger(place)
        mode = Mode(
            allowed=allowed,
            keep_going=True,
            refresh=refresh,
            holds_back=self.backoff.waits,
            looked=self._looked,
            recorded=self._recorded,
            failed=self._failed,
        )
        try:
            plan = apply(place, self.reporter, self.stop, mode)
        except FailedStepsError:  # each was told as it failed
            return True
        self.failures = {name: why for name, why in self.failures.items() if any(name == each.id for each in plan.changes)}
        return bool(self.failures)

    def _recorded(self, record: Record) -> None:
        self.backoff.succeeded(record.key)
        self.metrics.steps.labels(record.step.value, "done").inc()

    def _failed(self, step_id: str, failure: FailedStep) -> None:
        pause = self.backoff.failed(failure.key)
        self.failures[step_id] = str(failure.error)
        self.metrics.steps.labels(step_id.split("/", 1)[0], "failed").inc()
        self.reporter.said(f"{step_id} failed and is tried again in {pause:.0f} s: {failure.error}")
        self._told = None

    def _looked(self, place: Place, now: Look) -> None:
        """Tell how resources are at the first look, after a failure, and at every interval: a pass may take days."""
        if self._told is None or self.monotonic() - self._told >= self.interval_seconds:
            self._tell(place, now)

    def _tell(self, place: Place, now: Look, branch: ResourceHealth | None = None) -> None:
        """``branch``: None while a pass is under way; the branch is then as the last pass left it."""
        done = {action.id for action in now.plan.actions if not action.does_something}
        self.failures = {name: why for name, why in self.failures.items() if name not in done}
        found = health_of(now.plan, place.desired.suspended, self.failures, self.serving(place), place.desired.resources)
        if branch is not None:
            found[branch.address] = branch
        self.metrics.changes.set(len(now.plan.changes))
        kept = health_of_branch(self.branch).address
        self.teller.tell(found, place.desired.commit, place.now(), lambda address: address == kept)
        self._told = self.monotonic()

    def _tell_trouble(self, why: str) -> None:
        """The branch is degraded; its resources are as they were seen last, for all that is known."""
        branch = health_of_branch(self.branch, why)
        self.teller.tell({branch.address: branch}, None, datetime.datetime.now(datetime.UTC), lambda _address: True)

    def _pause(self) -> float:
        """The interval, longer after passes that could not be made."""
        return float(min(900.0, self.interval_seconds * 2.0 ** min(self.failed_passes, 10)))

    def _sleep(self, before: tuple[str | None, ...]) -> None:
        """Until the pause is over, or something that the last pass did not start from is there; asked at every interval."""
        began = self.monotonic()
        until, asked = began + self._pause(), began
        while not self.stop.asked and self.monotonic() < until:
            time.sleep(_POLL_SECONDS)
            if self.monotonic() - asked >= self.interval_seconds:
                asked = self.monotonic()
                now = self._origin()
                if now and now != before:
                    return

    def _origin(self) -> tuple[str | None, ...]:
        """Nothing where it cannot be told: the next pass says why."""
        try:
            return self.origin()
        except (ForgeError, OSError):
            return ()
