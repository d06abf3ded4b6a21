"""Apply a commit: the plan that ``forge plan`` shows, carried out.

After each thing that is done the plan is made again, because products decide what comes next (early cutoff): what was
"decided after" becomes a run, or nothing. Rules:
1. A lease is taken before a step is launched, and ends in the transaction that records it. Whoever finds a lease whose
   holder is dead takes it over, and adopts the step's process if that still lives.
2. A finished step is recorded at once; what has ended together is appended together.
3. Steps that do not wait for each other run at once, as long as their processes fit the executor's slots.
4. After a failure nothing new is started, unless told to keep going; what runs is awaited and recorded, then the
   failure is raised.
5. A plan that was approved is never exceeded: each new look is held against it, and what was spent counts. A plan that is
   refused (a budget) is not carried out, whether it is the first or one that was made again in the middle.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from forge.admission.history import current_authority
from forge.attest.authority import public_key
from forge.attest.keys import signer_for, weights_signer_for
from forge.attest.signers import prove
from forge.attest.trust import read_trust_root
from forge.contract.kinds import StepKind
from forge.contract.messages import FailureCause
from forge.contract.record import Record, Release
from forge.contract.verdict import VERDICT_FILE
from forge.contract.verdict import Verdict as GateVerdict
from forge.errors import LedgerError, RefusedError, StepError, TrustError
from forge.executors import local
from forge.executors.open_runs import note_closed
from forge.ledger.lease import AlreadyRecordedError, Lease, LeaseHeldError, LeaseLostError, StaleLeaseError
from forge.ledger.ledger import Draft, Snapshot
from forge.ledger.remote import UnreachableError
from forge.plan.action import Action, Plan
from forge.plan.graph import FromCommit, Step, build_graph
from forge.plan.reason import ReasonKind
from forge.plan.recorded import EVERYTHING, Scope
from forge.plan.saved import exceeds
from forge.plan.withdrawn import is_withdrawn
from forge.reconcile.admit import verify_move
from forge.reconcile.at_work import AtWork, begin, store_bundle
from forge.reconcile.observer import Observer
from forge.reconcile.place import Look, Place, look
from forge.reconcile.recording import attempt_draft, note_draft, record_drafts, release_draft
from forge.reconcile.stop import Stop
from forge.reconcile.timestamping import check_authority

_POLL_SECONDS = 0.1
_LOOK_AGAIN_SECONDS = 2.0
_GRACE_SECONDS = 60.0
_BEATS_PER_LIFE = 4
_TRIES_PER_BEAT = 4
"""How much sooner a beat is tried again that failed."""


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
    allowed: Plan | None = None
    """A plan that was approved: nothing beyond it is done."""
    approvals: tuple[str, ...] = ()
    """Digests of the ledger's approvals of that plan; what is done under it names them."""
    keep_going: bool = False
    """After a failure, go on with what does not need the failed step."""
    refresh: Callable[[Place], Place] | None = None
    """Called between looks: a controller hands over the place as a newer commit wants it."""
    holds_back: Callable[[str], bool] = lambda _key: False
    """Asked before a step is launched, by key: whether it is too early to try it again."""
    recorded: Callable[[Record], None] = lambda _record: None
    """Told of each step that is in the ledger now."""


DEFAULT_MODE = Mode()
"""Everything, up to the first failure."""


def apply(place: Place, observer: Observer, stop: Stop, mode: Mode = DEFAULT_MODE) -> Plan:
    """Do everything the commit asks for; returns the last plan, which holds only what is in sync or blocked.

    Raises RefusedError for a plan that may not be applied, StepError when a step fails (the attempt is recorded),
    InterruptedApplyError when someone asked to stop, TrustError when there is no key to sign with, and LedgerError or
    StoreError when state cannot be kept.
    """
    if place.desired.commit is None:
        raise RefusedError("only a commit can be applied: commit your changes first")
    running = _Apply(place, observer, stop, mode)
    try:
        return running.run()
    except BaseException:
        running.end_all()
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
    at_work: dict[str, AtWork] = field(default_factory=dict)
    """By step key."""
    unsettled: list[AtWork] = field(default_factory=list)
    """What has ended and is not recorded yet."""
    failures: dict[str, FailedStep] = field(default_factory=dict)
    """By step id."""
    done: list[Record] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """By step id: releases that may not serve, and why."""
    waiting: set[str] = field(default_factory=set)
    bundled: set[str] = field(default_factory=set)
    next_beat: float = 0.0
    unheard: bool = False
    """Whether the last beat did not reach the ledger."""
    unlogged: str | None = None
    """Why the transparency log does not hold what was appended."""

    def run(self) -> Plan:
        """The loop."""
        now = look(self.place, self.mode.scope)
        self._check(now.plan)
        self.observer.planned(now.plan)
        self.waiting = {action.id for action in now.plan.changes}
        while not self.stop.asked:
            self._store_bundles(now.plan)
            if not self._note_and_move(now):
                self._stop_what_nobody_wants(now.plan)
                self._start(now)
                if not self.at_work and (self._is_failing() or not self._others_at_work(now)):
                    break
                self._wait()
                self._settle(now)
            now = self._look_again()
        if self.stop.asked:
            self._drain()
            self._settle(now)
            raise InterruptedApplyError("stopped as asked; `forge apply` goes on where it stopped")
        if self.failures:
            raise FailedStepsError(self.failures)
        if self.refused:
            raise TrustError("\n".join(self.refused.values()))
        return now.plan

    def end_all(self) -> None:
        """After an error of the reconciler itself: let no step outlive it. Their results and checkpoints stay.

        So do not their leases: this process may go on living, as a controller does, and would wait for itself.
        """
        if any(not work.is_over() for work in self.at_work.values()):
            self._drain()
        for work in (*self.at_work.values(), *self.unsettled):
            with suppress(LedgerError):  # then it is the ledger's error that is raised here; the lease dies with this process
                self.place.leases.end(work.lease)

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
        if now.plan.refusals:
            raise RefusedError("what is left to do may not be done:\n  " + "\n  ".join(now.plan.refusals))
        self._check_approved(now.plan)
        if self.mode.allowed is not None:
            spent = sum(record.actual.cost or 0.0 for record in self.done)
            beyond = exceeds(self.mode.allowed, now.plan, spent)
            again = [action.id for action in now.plan.changes if action.id in done and action.step is not StepKind.RELEASE]
            beyond += [f"{name} was done, and now is to be done again" for name in again]
            if beyond:
                raise RefusedError("what is left to do goes beyond the approved plan:\n  " + "\n  ".join(beyond))
        settled = {action.id: action for action in now.plan.actions if not action.does_something}
        for name in sorted(self.waiting & set(settled)):
            self.waiting.discard(name)
            self.observer.skipped(settled[name])
        return now

    def _look(self, scope: Scope) -> Look:
        """A look, once the remote answers: what is at work goes on until then, as long as its leases cannot have run out."""
        while True:
            try:
                return look(self.place, scope)
            except UnreachableError as error:
                if not self.at_work or self._has_to_act():
                    raise
                self._bear(error)
                until = time.monotonic() + _LOOK_AGAIN_SECONDS
                while not self._has_to_act() and time.monotonic() < until:
                    self._beat()
                    time.sleep(_POLL_SECONDS)

    def _has_to_act(self) -> bool:
        return bool(self.stop.asked) or any(work.is_over() for work in self.at_work.values())

    def _check(self, plan: Plan) -> None:
        """Refuse before the work, not after it: budgets, and keys that are missing."""
        if plan.refusals:
            raise RefusedError("\n".join(plan.refusals))
        self._check_approved(plan)
        if plan.changes:
            self._check_keys(plan)

    def _check_approved(self, plan: Plan) -> None:
        """A plan that needs approvals, also one that came to need them in the middle, is carried out from its file alone."""
        if plan.approvals > len(self.mode.approvals):
            raise RefusedError(
                f"this plan needs the approval of {plan.approvals}: write it (`forge plan --out FILE`), have it approved "
                "(`forge approve FILE`), and apply that file"
            )

    def _check_keys(self, plan: Plan) -> None:
        """Whether what is signed at the end will count."""
        snapshot = self.place.ledger.snapshot()
        authority = current_authority(snapshot, read_trust_root(self.place.config))
        now = self.place.now().isoformat()
        check_authority(self.place, authority.charter)
        for step in {action.step or StepKind.RELEASE for action in plan.changes}:
            role = self.place.role_of(step)
            signers = authority.signers(role, now)
            signer = signer_for(role, self.place.config)
            prove(signer)
            keyid = signer.public_key.keyid
            if not signers.count(keyid):
                refusal = next((f"{known.name} {known.refusal}" for known in signers.known if known.key.keyid == keyid), None)
                raise TrustError(
                    f"the key of the {role.value} here ({keyid[:12]}) does not count: "
                    f"{refusal or 'neither the trust root nor its supply chain lists it for this role'}"
                )
            if step is StepKind.TRAIN:
                weights = weights_signer_for(self.place.config)
                prove(weights)
                listed = {public_key(pem).keyid for pem in authority.weights_keys(now)}
                if weights.public_key.keyid not in listed:
                    raise TrustError(
                        f"the key for weights here ({weights.public_key.keyid[:12]}) does not count: neither the trust root "
                        "nor its supply chain lists it among the trainer's keys that are valid now"
                    )

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
        moves = [action for action in now.plan.changes if action.step is StepKind.RELEASE and action.products]
        notes = [action for action in now.plan.changes if action.step is None]
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

    def _moves(self, action: Action, step: Step, snapshot: Snapshot, record: Draft | None = None) -> list[Draft]:
        """The move of a pointer, where what it would name may serve; why not is told at the end.

        ``record`` is the release step's, where it is to be appended with the move.
        """
        made = record.body if record is not None and isinstance(record.body, Record) else None
        digest = (made.products if made is not None else action.products)["release"]
        if action.id in self.refused:
            return []
        try:
            draft = release_draft(self.place, snapshot, action, step, digest, self.mode.approvals, made)
            verify_move(self.place, snapshot, [record, draft] if record is not None else [draft])
        except TrustError as error:
            self.refused[action.id] = str(error)
            return []
        return [draft]

    def _is_failing(self) -> bool:
        return bool(self.failures) and not self.mode.keep_going

    def _others_at_work(self, now: Look) -> bool:
        """Whether another runner, which may live, works at something that this plan waits for."""
        wanted = {action.key for action in now.plan.changes} | {action.replaces for action in now.plan.changes}
        return any(key in wanted and key not in self.at_work for key in now.leases)

    def _stop_what_nobody_wants(self, plan: Plan) -> None:
        """A run whose key the commit no longer asks for is stopped; its checkpoints stay where they are."""
        wanted = {action.key for action in plan.actions if not is_withdrawn(action)}
        undecided = {action.id for action in plan.actions if action.key is None and not is_withdrawn(action)}
        for key, work in self.at_work.items():
            if key not in wanted and work.action.id not in undecided and not work.stopping:
                self.observer.superseded(work.action)
                work.ask_to_stop()

    def _start(self, now: Look) -> None:
        """Launch what is ready and fits the executor's slots."""
        if self._is_failing():
            return
        graph = build_graph(self.place.desired)
        for action in now.plan.changes:
            if self._is_ready(action, now) and self._fits(graph[action.id].processes):
                began = time.monotonic()
                lease = self._take_lease(action, now)
                if lease is not None:
                    self._begin(action, graph[action.id], lease, began)

    def _fits(self, processes: int) -> bool:
        """Whether so many processes more find a place; where nothing is at work, any number does."""
        taken = sum(work.request.resources.processes for work in self.at_work.values())
        return not taken or taken + processes <= self.place.desired.settings.executor.slots

    def _begin(self, action: Action, step: Step, lease: Lease, shown: float) -> None:
        try:
            self.at_work[lease.key] = begin(self.place, action, step, lease, self.observer)
            self.at_work[lease.key].shown = shown
        except BaseException:
            self.place.leases.end(lease)
            raise

    def _is_ready(self, action: Action, now: Look) -> bool:
        if action.key is None or action.step is None or action.products or action.id in {*self.failures, *self.refused}:
            return False
        if self.mode.holds_back(action.key):
            return False
        if action.replaces in now.leases:  # first the run in flight has to end
            return False
        return action.key not in self.at_work and action.id not in {work.action.id for work in self.at_work.values()}

    def _take_lease(self, action: Action, now: Look) -> Lease | None:
        """This run's lease on a step; None while another runner holds it that lives, or may live."""
        key, commit = action.key or "", self.place.desired.commit or ""
        handle = {
            "executor": "local",
            "workspace": str(self.place.work / key.removeprefix("sha256:")),
            "inputs": ",".join(sorted(set(action.inputs.values()))),
        }
        left_behind = self.place.leases.current().get(key)
        try:
            if left_behind is None:
                known = now.snapshot.made(key)
                return self.place.leases.take(key, action.id, commit, handle, recorded=known.sequence if known else 0)
            if self.place.holders.holder_may_live(left_behind):
                return None
            return self.place.leases.take_over(left_behind, commit, handle)
        except (LeaseHeldError, LeaseLostError, AlreadyRecordedError):
            return None  # another runner was faster: the next look sees its lease, or its record

    def _wait(self) -> None:
        """Until something has ended, someone asks to stop, or it is time to look again."""
        until = time.monotonic() + _LOOK_AGAIN_SECONDS
        patient = self.mode.refresh is None and bool(self.at_work)
        while not self.stop.asked and (patient or time.monotonic() < until):
            if any(work.is_over() for work in self.at_work.values()):
                return
            self._beat()
            time.sleep(_POLL_SECONDS)

    def _beat(self) -> None:
        """Show that this holder lives, well within the leases' time to live.

        Raises LedgerError when the ledger cannot be reached for so long that another runner may soon find this one dead.
        """
        if time.monotonic() < self.next_beat:
            return
        self.next_beat = time.monotonic() + self._seconds_per_beat
        for work in self.at_work.values():
            began = time.monotonic()
            try:
                work.lease = self.place.leases.beat(work.lease)
            except LeaseLostError:  # its result would be refused: another runner has the step now
                self.observer.superseded(work.action)
                work.ask_to_stop()
            except LedgerError as error:
                self._bear(error)
                return
            else:
                work.shown = began
        self.unheard = False

    @property
    def _seconds_per_beat(self) -> float:
        return self.place.desired.settings.leases.time_to_live_seconds / _BEATS_PER_LIFE

    def _bear(self, error: LedgerError) -> None:
        """Let the steps go on while no lease can have run out; the last of the beats in a life is the margin."""
        now = time.monotonic()
        longest = now - min((work.shown for work in self.at_work.values() if not work.stopping), default=now)
        left = self._seconds_per_beat * (_BEATS_PER_LIFE - 1) - longest
        if left <= 0:
            raise error
        if not self.unheard:
            self.observer.said(f"the ledger is out of reach; what is at work ends in {left:.0f} s if that lasts: {error}")
        self.unheard = True
        self.next_beat = min(self.next_beat, now + min(left, self._seconds_per_beat / _TRIES_PER_BEAT))

    def _drain(self) -> None:
        """Ask every step to stop and wait for its checkpoint; asked twice, or after too long, end them at once."""
        until = time.monotonic() + _GRACE_SECONDS
        for work in self.at_work.values():
            work.ask_to_stop()
        while not all(work.is_over() for work in self.at_work.values()):
            if self.stop.asked > 1 or time.monotonic() > until:
                for work in self.at_work.values():
                    work.kill()
            elif self.stop.asked:  # not after an error: then the ledger may be what is at fault
                with suppress(LedgerError):  # they end anyway, and what they leave is recorded or refused afterwards
                    self._beat()
            time.sleep(_POLL_SECONDS)

    def _settle(self, now: Look) -> None:
        """Record what has ended, in one append; a failure is recorded too, a stop that this run asked for is not one."""
        drafts: list[Draft] = []
        ended: list[tuple[AtWork, Record | None]] = []
        for key, work in list(self.at_work.items()):
            if not work.is_over():
                continue
            del self.at_work[key]
            self.unsettled.append(work)
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
            for work, _ in ended:
                if work.lease not in recorded:  # it was stopped: there is nothing to record
                    self.place.leases.end(work.lease)
        except StaleLeaseError as error:
            raise RefusedError(f"{error}: another runner took these steps over; what was made here is not recorded") from error
        except LedgerError as error:
            told = "".join(f"{failure.error}\nand the attempt is not recorded: " for failure in self.failures.values())
            raise LedgerError(f"{told}{error}") from error
        self.unsettled.clear()
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


def _told(work: AtWork, error: local.StepFailedError) -> local.StepFailedError:
    """A step knows its inputs by number; whoever has to mend one needs its path in the repository."""
    rows: list[str] = []
    if error.cause is FailureCause.INPUT:
        rows = [
            f"\n  {name}/{path} is {origin}"
            for name, source in sorted(work.step.inputs.items())
            if isinstance(source, FromCommit)
            for path, origin in source.bundle.sources.items()
        ]
    return local.StepFailedError(f"{work.action.id} failed: {error}{''.join(rows[:20])}", error.cause, error.attempt)


def no_go_table(place: Place, plan: Plan) -> str:
    """Why actions are blocked: for a gate, metric, threshold and value of every check, the failed ones marked."""
    lines = []
    for action in plan.blocked:
        if not any(reason.kind is ReasonKind.GATE for reason in action.reasons):
            lines.append(f"{action.id} is blocked: {'; '.join(str(reason) for reason in action.reasons)}")
            continue
        name = action.id.split("/", 1)[1]
        gate = next(other for other in plan.actions if other.id == f"{StepKind.GATE}/{name}")
        verdict = GateVerdict.model_validate_json(place.store.read_file(gate.products["verdict"], VERDICT_FILE))
        lines.append(f"{action.id} is blocked: {gate.id} says {verdict.verdict}")
        rows = [("", "task", "metric", "threshold", "value")]
        for check in verdict.checks:
            value = "absent" if check.value is None else f"{check.value:.4g}"
            sign = ">=" if check.bound == "min" else "<="
            rows.append(("ok" if check.passed else "FAIL", check.task, check.metric, f"{sign} {check.threshold:g}", value))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines += ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.append("Nothing was released. Change the model, its data or the gate, commit, and apply again.")
    return "\n".join(lines)
