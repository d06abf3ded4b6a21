"""Apply a commit: the plan that ``forge plan`` shows, carried out.

After each thing that is done the plan is made again, because products decide what comes next (early cutoff): what was
"decided after" becomes a run, or nothing. Rules:
1. A lease is taken before a step is launched, is renewed by a thread of its own (``heartbeat``), and ends in the
   transaction that records the step. Whoever finds a lease whose holder is dead takes it over, and adopts the step's process
   if that still lives. Whoever wants another run in its place asks the holder to stop (``claim``).
2. A finished step is recorded at once; what has ended together is appended together.
3. Steps that do not wait for each other run at once, as long as their processes fit the executor's slots.
4. After a failure nothing new is started, unless told to keep going; what runs is awaited and recorded, then the
   failure is raised.
5. A plan that was approved or confirmed is never exceeded: each new look is held against it, and what was spent counts. A
   plan that is refused (a budget) is not carried out, whether it is the first or one that was made again in the middle.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from forge.contract.kinds import StepKind
from forge.contract.messages import FailureCause
from forge.contract.record import Record, Release
from forge.errors import LedgerError, RefusedError, StepError, TrustError
from forge.executors import local
from forge.executors.open_runs import note_closed
from forge.ledger.lease import StaleLeaseError
from forge.ledger.ledger import Draft, Snapshot
from forge.ledger.remote import UnreachableError
from forge.plan.action import Action, Plan
from forge.plan.graph import build_graph
from forge.plan.recorded import EVERYTHING, Scope
from forge.plan.saved import exceeds
from forge.plan.step import FromCommit, Step, producers_of
from forge.plan.withdrawn import is_withdrawn
from forge.reconcile.admit import verify_move
from forge.reconcile.approved import Approved
from forge.reconcile.at_work import AtWork, store_bundle
from forge.reconcile.claim import ask_to_stop, end_left_behind, own_leases, take_lease
from forge.reconcile.heartbeat import Heartbeats
from forge.reconcile.links import LinkSigner, MissingLinkError
from forge.reconcile.naming import named_files
from forge.reconcile.observer import Observer
from forge.reconcile.place import Look, Place, look
from forge.reconcile.preflight import check_approved, check_plan
from forge.reconcile.recording import attempt_draft, note_draft, record_drafts, release_draft
from forge.reconcile.steps_at_work import StepsAtWork
from forge.reconcile.stop import Stop

_LOOK_AGAIN_SECONDS = 2.0


class InterruptedApplyError(StepError):
    """Someone asked to stop. Everything that was at work has ended; the next apply goes on from there."""

    exit_code = 130


@dataclass(frozen=True)
class FailedStep:
    """A step that failed while a commit was applied."""

    key: str
    error: local.StepFailedError


class FailedStepsError(StepError):
    """One or more steps failed; each attempt is recorded."""

    def __init__(self, failures: Mapping[str, FailedStep]) -> None:
        self.failures = failures
        super().__init__("\n".join(str(failure.error) for failure in failures.values()))


@dataclass(frozen=True)
class Mode:
    """How a commit is applied."""

    scope: Scope = EVERYTHING
    allowed: Approved | None = None
    """A plan that was approved: nothing beyond it is done, and what is done under it names its approvals."""
    confirmed: Plan | None = None
    """A plan that somebody was shown and said yes to: nothing beyond it is done either."""
    keep_going: bool = False
    """After a failure, go on with what does not need the failed step."""
    refresh: Callable[[Place], Place] | None = None
    """Called between looks: a controller hands over the place as a newer commit wants it."""
    holds_back: Callable[[str], bool] = lambda _key: False
    """Asked before a step is launched, by key: whether it is too early to try it again."""
    looked: Callable[[Place, Look], None] = lambda _place, _look: None
    """Told of each look, before anything is done or refused."""
    recorded: Callable[[Record], None] = lambda _record: None
    """Told of each step that is in the ledger now."""
    failed: Callable[[str, FailedStep], None] = lambda _step_id, _failure: None
    """Told of each step whose failed attempt is in the ledger now, by id."""

    @property
    def approvals(self) -> tuple[str, ...]:
        """Digests of the ledger's approvals of the plan."""
        return self.allowed.approvals if self.allowed is not None else ()


DEFAULT_MODE = Mode()
"""Everything, up to the first failure."""


def apply(place: Place, observer: Observer, stop: Stop, mode: Mode = DEFAULT_MODE) -> Plan:
    """Do everything the commit asks for; returns the last plan, which holds only what is in sync, blocked or waits for others.

    Raises RefusedError for a plan that may not be applied, StepError when a step fails (the attempt is recorded),
    InterruptedApplyError when someone asked to stop, TrustError when there is no key to sign with, and LedgerError or
    StoreError when state cannot be kept.
    """
    if place.desired.commit is None:
        raise RefusedError("only a commit can be applied: commit your changes first")
    with Heartbeats(lambda: own_leases(place), place.desired.settings.leases.time_to_live_seconds) as hearts:
        running = _Apply(place, observer, stop, mode, StepsAtWork(place.leases, hearts, observer, stop))
        try:
            return running.run()
        except BaseException:
            running.at_work.end_all()
            raise
        finally:
            running.log()


@dataclass
class _Apply:
    """One run of apply and what it is in the middle of."""

    place: Place
    observer: Observer
    stop: Stop
    mode: Mode
    at_work: StepsAtWork
    failures: dict[str, FailedStep] = field(default_factory=dict)
    """By step id."""
    done: list[Record] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """By step id: releases that may not serve, and why."""
    unlinked: set[str] = field(default_factory=set)
    """Ids of releases that wait for the machine of another role to sign a link."""
    links: LinkSigner = field(default_factory=LinkSigner)
    waiting: set[str] = field(default_factory=set)
    bundled: set[str] = field(default_factory=set)
    noted: set[tuple[str, str | None]] = field(default_factory=set)
    """Ids of actions without a step that are in the ledger, with the commit that asked for them."""
    asked: set[str] = field(default_factory=set)
    """Keys of runs elsewhere that were asked to stop."""
    unlogged: str | None = None
    """Why the transparency log does not hold what was appended."""

    def run(self) -> Plan:
        """The loop."""
        now = look(self.place, self.mode.scope)
        self.mode.looked(self.place, now)
        check_plan(self.place, now.plan, len(self.mode.approvals))
        self._hold_to_what_was_agreed(now.plan, set())
        self.observer.planned(now.plan)
        self.waiting = {action.id for action in now.plan.changes}
        while not self.stop.asked:
            self._store_bundles(now.plan)
            self._sign_links(now)
            if not self._note_and_move(now):
                self._stop_what_nobody_wants(now)
                self._start(now)
                if not self.at_work and (self._is_failing() or not self._others_at_work(now)):
                    break
                patient = self.mode.refresh is None and bool(self.at_work)
                self.at_work.wait(None if patient else _LOOK_AGAIN_SECONDS)
                self._settle(now)
            now = self._look_again()
        if self.stop.asked:
            self.at_work.drain()
            self._settle(now)
            raise InterruptedApplyError("stopped as asked; `forge apply` goes on where it stopped")
        if self.failures:
            raise FailedStepsError(self.failures)
        if self.refused or self.links.refused:
            raise TrustError("\n".join([*self.refused.values(), *self.links.refused.values()]))
        yielded = self.at_work.yielded
        unfinished = [yielded[action.key] for action in now.plan.changes if action.key in yielded]
        if unfinished:
            raise RefusedError("\n".join(f"{each}: this one was stopped, and its checkpoint kept" for each in unfinished))
        return now.plan

    def log(self) -> None:
        """Bring the ledger's transparency log up to its head, where there is one; a failure is told and stops nothing."""
        if self.place.desired.settings.log.origin is None:
            return
        from forge.reconcile.ledger_log import keep_up  # signing loads cryptography: who has no log does not pay for it

        trouble = keep_up(self.place)
        if trouble is not None and trouble != self.unlogged:
            self.observer.said(trouble)
        self.unlogged = trouble

    def _look_again(self) -> Look:
        if self.mode.refresh is not None:
            self.place = self.mode.refresh(self.place)
        done = {record.step_id for record in self.done}
        now = self._look(Scope(self.mode.scope.target, self.mode.scope.force - done))
        self.mode.looked(self.place, now)
        if now.plan.refusals:
            raise RefusedError("what is left to do may not be done:\n  " + "\n  ".join(now.plan.refusals))
        check_approved(self.place, now.plan, len(self.mode.approvals))
        self._hold_to_what_was_agreed(now.plan, done)
        settled = {action.id: action for action in now.plan.actions if not action.does_something}
        for name in sorted(self.waiting & set(settled)):
            self.waiting.discard(name)
            self.observer.skipped(settled[name])
        return now

    def _hold_to_what_was_agreed(self, plan: Plan, done: set[str]) -> None:
        """Also at the first look: the world may have moved since the plan was compared."""
        bound = self.mode.allowed.saved.plan if self.mode.allowed is not None else self.mode.confirmed
        if bound is None:
            return
        spent = sum(record.actual.cost or 0.0 for record in self.done)
        beyond = exceeds(bound, plan, spent)
        again = [action.id for action in plan.changes if action.id in done and action.step is not StepKind.RELEASE]
        beyond += [f"{name} was done, and now is to be done again" for name in again]
        if beyond:
            which = "approved plan" if self.mode.allowed is not None else "plan that was confirmed"
            raise RefusedError(f"what is left to do goes beyond the {which}:\n  " + "\n  ".join(beyond))

    def _look(self, scope: Scope) -> Look:
        """A look, once the remote answers: what is at work goes on until then, as long as its leases cannot have run out."""
        while True:
            try:
                return look(self.place, scope)
            except UnreachableError as error:
                self.at_work.wait_out(error, _LOOK_AGAIN_SECONDS)

    def _store_bundles(self, plan: Plan) -> None:
        """What a step reads stays verifiable, whatever the store has lost since."""
        graph = build_graph(self.place.desired)
        usable = self.place.store.index() - self.place.store.damaged()
        for action in plan.actions:
            for source in graph[action.id].inputs.values() if action.id in graph else ():
                if not isinstance(source, FromCommit):
                    continue
                digest = source.bundle.digest
                if digest not in usable and digest not in self.bundled:
                    store_bundle(self.place, source)
                    self.bundled.add(digest)

    def _note_and_move(self, now: Look) -> bool:
        """Append, in one go, what needs no process: moves to releases that exist, and notes about resources."""
        if self._is_failing():
            return False
        graph = build_graph(self.place.desired)
        mine = [action for action in now.plan.changes if self.place.acts_on(action)]
        moves = [action for action in mine if action.step is StepKind.RELEASE and action.products]
        notes = [action for action in mine if action.step is None]
        for action in notes:  # appending is for ever: whatever is wrong here must not fill the ledger
            if (action.id, self.place.desired.commit) in self.noted:
                raise LedgerError(
                    f"{action.id} was noted ({action.kind}) for this commit, and is to be noted again: who else applies?"
                )
        self.noted |= {(action.id, self.place.desired.commit) for action in notes}
        done = [(action, draft) for action in moves for draft in self._moves(action, graph[action.id], now.snapshot)]
        done += [(action, note_draft(self.place, action)) for action in notes]
        if done:
            self.place.ledger.append([draft for _, draft in done])
            self.log()
        for action, draft in done:
            self.waiting.discard(action.id)
            if isinstance(draft.body, Release):
                self.observer.released(action, draft.body)
            else:
                self.observer.noted(action)
        return bool(done)

    def _sign_links(self, now: Look) -> None:
        """What another machine will need for its releases, as soon as it can be signed."""
        drafts = self.links.drafts(self.place, now.snapshot, now.plan)
        if drafts:
            self.place.ledger.append(drafts)
            self.log()

    def _moves(self, action: Action, step: Step, snapshot: Snapshot, record: Draft | None = None) -> list[Draft]:
        """The move of a pointer, where what it would name may serve; why not is told at the end.

        ``record`` is the release step's, where it is to be appended with the move.
        """
        made = record.body if record is not None and isinstance(record.body, Record) else None
        digest = (made.products if made is not None else action.products)["release"]
        if action.id in {*self.refused, *self.unlinked}:
            return []
        try:
            draft = release_draft(self.place, snapshot, action, step, digest, self.mode.approvals, made)
            verify_move(self.place, snapshot, [record, draft] if record is not None else [draft])
        except MissingLinkError as error:
            self.unlinked.add(action.id)
            self.observer.said(str(error))
            return []
        except TrustError as error:
            self.refused[action.id] = str(error)
            return []
        return [draft]

    def _is_failing(self) -> bool:
        return bool(self.failures) and not self.mode.keep_going

    def _others_at_work(self, now: Look) -> bool:
        """Whether another runner, which may live, works at something that what is left to do here waits for."""
        if not any(action.step is not None and self.place.acts_on(action) for action in now.plan.changes):
            return False
        wanted = {action.key for action in now.plan.changes} | {action.replaces for action in now.plan.changes}
        return any(key in wanted and key not in self.at_work for key in now.leases)

    def _stop_what_nobody_wants(self, now: Look) -> None:
        """A run whose key the commit no longer asks for is stopped, wherever it is; its checkpoints stay where they are."""
        for key in self.asked - set(now.leases):
            end_left_behind(self.place, key)
            self.asked.discard(key)
        plan = now.plan
        for action in plan.changes:
            lease = now.leases.get(action.replaces or "")
            if lease is not None and lease.key not in {*self.at_work.by_key, *self.asked} and ask_to_stop(self.place, lease):
                self.asked.add(lease.key)
                self.observer.said(f"{action.id}: {lease} is asked to stop: it works at what an earlier commit asked for")
        wanted = {action.key for action in plan.actions if not is_withdrawn(action)}
        undecided = {action.id for action in plan.actions if action.key is None and not is_withdrawn(action)}
        for key, work in self.at_work.by_key.items():
            if key not in wanted and work.action.id not in undecided:
                self.at_work.give_up(key)

    def _start(self, now: Look) -> None:
        """Launch what is ready and fits the executor's slots."""
        if self._is_failing():
            return
        graph = build_graph(self.place.desired)
        for action in now.plan.changes:
            if self._is_ready(action, now) and self._fits(graph[action.id].processes):
                shown = time.monotonic()
                lease = take_lease(self.place, action, now)
                if lease is not None:
                    self.at_work.begin(self.place, action, graph[action.id], lease, shown)

    def _fits(self, processes: int) -> bool:
        """Whether so many processes more find a place; where nothing is at work, any number does."""
        taken = self.at_work.processes
        return not taken or taken + processes <= self.place.desired.settings.executor.slots

    def _is_ready(self, action: Action, now: Look) -> bool:
        if action.key is None or action.step is None or action.products or action.id in {*self.failures, *self.refused}:
            return False
        if not self.place.acts_on(action):
            return False
        if action.key in self.at_work.yielded or self.mode.holds_back(action.key):
            return False
        if action.replaces in now.leases:  # first the run in flight has to end
            return False
        return action.key not in self.at_work and action.id not in self.at_work.ids

    def _settle(self, now: Look) -> None:
        """Record what has ended, in one append; a failure is recorded too, a stop that this run asked for is not one."""
        drafts: list[Draft] = []
        ended: list[tuple[AtWork, Record | None]] = []
        for work in self.at_work.take_ended():
            try:
                result, output = work.outcome()
                record, made = record_drafts(self.place, work, now.snapshot, result, output, self.mode.approvals)
            except local.StepFailedError as error:
                ended.append((work, None))
                # a step that is told to stop before it can listen ends without a word of its own
                if not (work.stopping and error.cause in (FailureCause.STOPPED, FailureCause.INTERNAL)):
                    drafts.append(attempt_draft(self.place, work, error))
                    self.failures[work.action.id] = FailedStep(work.lease.key, _told(work, error))
            else:
                ended.append((work, record))
                drafts += made
                if work.step.kind is StepKind.RELEASE:
                    drafts += self._moves(work.action, work.step, now.snapshot, made[0])
        self._append(drafts, ended)

    def _append(self, drafts: list[Draft], ended: list[tuple[AtWork, Record | None]]) -> None:
        try:
            recorded = [work.lease for work, record in ended if record is not None or work.action.id in self.failures]
            if drafts:
                self.place.ledger.append(drafts, recorded)
            self.at_work.settled(recorded)
        except StaleLeaseError as error:
            raise RefusedError(f"{error}: another runner took these steps over; what was made here is not recorded") from error
        except LedgerError as error:
            told = "".join(f"{failure.error}\nand the attempt is not recorded: " for failure in self.failures.values())
            raise LedgerError(f"{told}{error}") from error
        if drafts:
            self.log()
        for work, record in ended:
            if record is not None:
                work.space.clear()
                note_closed(self.place.work, work.lease.key)
                self.done.append(record)
                self.waiting.discard(work.action.id)
                self.observer.finished(work.action, record)
                self.mode.recorded(record)
            elif work.action.id in self.failures:
                self.mode.failed(work.action.id, self.failures[work.action.id])


def _told(work: AtWork, error: local.StepFailedError) -> local.StepFailedError:
    """A step knows its inputs by number; whoever has to mend one needs its path in the repository."""
    rows: list[str] = []
    if error.cause is FailureCause.INPUT:
        inputs = {name: source.bundle.sources for name, source in work.step.inputs.items() if isinstance(source, FromCommit)}
        fetched = {name: place for name, place in producers_of(work.step).items() if name not in work.step.inputs}
        rows = named_files(str(error), inputs, fetched)
    told = "".join(f"\n  {row}" for row in rows)
    return local.StepFailedError(f"{work.action.id} failed: {error}{told}", error.cause, error.attempt)
