"""Apply a commit: the plan that ``forge plan`` shows, carried out one action at a time.

After each action the plan is made again, because products decide what comes next (early cutoff): what was "decided
after" becomes a run, or nothing. A finished step is recorded at once. Whatever is interrupted, the next call finds the
finished results, the living processes and the checkpoints, and goes on from there.
"""

import datetime
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from forge.attest.envelope import seal
from forge.attest.keys import signer_for, weights_key
from forge.attest.statements import link_of, release_statement, statement_name, statement_of
from forge.attest.weights import sign_weights
from forge.canonical import digest_of_bytes
from forge.contract.kinds import STEPS, StepKind
from forge.contract.manifest import Manifest
from forge.contract.messages import FailureCause, InputArtifact, Resources, StepRequest, StepResult
from forge.contract.record import Attempt, Record, Release, Spent
from forge.contract.verdict import VERDICT_FILE
from forge.contract.verdict import Verdict as GateVerdict
from forge.errors import LedgerError, RefusedError, StoreError
from forge.executors import local
from forge.ledger.ledger import Draft, Ledger, Snapshot
from forge.plan.cost import price, spent
from forge.plan.desired import Desired
from forge.plan.graph import FromCommit, Step, producers_of
from forge.plan.plan import Action, ActionKind, Plan, make_plan
from forge.reconcile.observer import Observer
from forge.repo.tree import Tree
from forge.store.store import Store


@dataclass(frozen=True)
class Place:
    """Where a commit is applied: the parts that hold state."""

    tree: Tree
    desired: Desired
    ledger: Ledger
    store: Store
    work: Path
    config: Path
    """The folder with keys and trust root."""
    now: Callable[[], datetime.datetime]


def current_plan(place: Place, target: frozenset[str] = frozenset()) -> tuple[Plan, Snapshot]:
    """The plan for the state of this moment, and the ledger head it was made of."""
    snapshot = place.ledger.snapshot()
    return make_plan(place.desired, snapshot, place.store.index(), target), snapshot


def apply(place: Place, observer: Observer, target: frozenset[str] = frozenset()) -> Plan:
    """Do everything the commit asks for; returns the last plan, which holds only what is in sync or blocked.

    Raises StepError when a step fails (the attempt is recorded), TrustError when there is no key to sign with, and
    LedgerError or StoreError when state cannot be kept.
    """
    if place.desired.commit is None:
        raise RefusedError("only a commit can be applied: commit your changes first")
    plan, snapshot = current_plan(place, target)
    observer.planned(plan)
    for action in plan.changes:  # fail before the work, not after it
        signer_for(STEPS[action.step.kind].role, place.config)
        if action.step.kind is StepKind.TRAIN:
            weights_key(place.config)
    for action in plan.actions:  # what a step read stays verifiable, whatever the store has lost since
        for source in action.step.inputs.values():
            if isinstance(source, FromCommit):
                _store_bundle(place, source)
    waiting = {action.step.id for action in plan.changes}
    while plan.changes:
        action = next(action for action in plan.changes if action.key is not None)
        waiting.discard(action.step.id)
        if action.products:
            _move_pointer(place, action, observer)
        else:
            _run(place, action, snapshot, observer)
        plan, snapshot = current_plan(place, target)
        for idle in [other for other in plan.actions if other.step.id in waiting and other.kind is ActionKind.NOTHING]:
            waiting.discard(idle.step.id)
            observer.skipped(idle)
    return plan


def _run(place: Place, action: Action, snapshot: Snapshot, observer: Observer) -> None:
    key = _known(action)
    space = local.workspace(place.work, key)
    with local.step_lock(space) as lock:
        alive = lock is None
    if alive:
        observer.started(action, adopted=True)
        local.adopt(space, lambda event: observer.progressed(action, event))
    else:
        observer.started(action, adopted=False)
    done = space.finished()
    if done is None:
        with local.step_lock(space) as lock:
            if lock is None:
                raise RefusedError(
                    f"{action.step.id}: a process (pid {local.living_process(space)}) works at it; try again later"
                )
            request = _request(place, action, space)
            began = place.now()
            try:
                done = local.run(request, space, lock, lambda event: observer.progressed(action, event))
            except local.StepFailedError as error:
                try:
                    _record_failure(place, action, error, request, (place.now() - began).total_seconds())
                except LedgerError as unrecorded:
                    raise LedgerError(
                        f"{action.step.id} failed: {error}\nand the attempt is not recorded: {unrecorded}"
                    ) from error
                message = f"{action.step.id} failed: {error}{_where_inputs_lie(action, error)}"
                raise local.StepFailedError(message, error.cause, error.attempt) from error
    result, output = done
    for name in STEPS[action.step.kind].products:
        folder = (output / result.products.get(name, name)).resolve()
        if result.key != key or folder.parent != output.resolve():
            raise RefusedError(f"{action.step.id}: the result in {output.parent} is not this step's: remove that folder")
    record = _record(place, action, snapshot, result, output)
    space.clear()
    observer.finished(action, record)


def _where_inputs_lie(action: Action, error: local.StepFailedError) -> str:
    """A step knows its inputs by number; whoever has to mend one needs its path in the repository."""
    if error.cause is not FailureCause.INPUT:
        return ""
    rows = [
        f"\n  {name}/{path} is {origin}"
        for name, source in sorted(action.step.inputs.items())
        if isinstance(source, FromCommit)
        for path, origin in source.bundle.sources.items()
    ]
    return "".join(rows[:20])


def _known(action: Action) -> str:
    if action.key is None:
        raise ValueError(f"{action.step.id} has no key yet")
    return action.key


def _request(place: Place, action: Action, space: local.Workspace) -> StepRequest:
    step = action.step
    inputs: dict[str, InputArtifact] = {}
    shutil.rmtree(space.inputs, ignore_errors=True)
    for name, digest in action.inputs.items():
        source = step.inputs[name]
        if isinstance(source, FromCommit):
            _store_bundle(place, source)
        path = None
        if name not in STEPS[step.kind].by_reference:
            folder = space.inputs / name
            folder.mkdir(parents=True)
            place.store.lay_out(digest, folder)
            path = str(folder)
        inputs[name] = InputArtifact(digest=digest, path=path)
    attempt = max(space.attempts(), default=0) + 1
    return StepRequest(
        step=step.kind,
        step_version=STEPS[step.kind].version,
        key=_known(action),
        subject=step.subject,
        parameters=dict(step.parameters),
        settings=dict(step.settings),
        inputs=inputs,
        output=str(space.attempt(attempt) / "output"),
        scratch=str(space.scratch),
        attempt=attempt,
        resources=Resources(
            accelerator=step.accelerator, threads=place.desired.settings.executor.threads, processes=step.processes
        ),
    )


def _store_bundle(place: Place, source: FromCommit) -> None:
    expected = source.bundle.manifest.digest
    if place.store.has(expected):
        return
    contents = {}
    for path, file in source.bundle.files.items():
        contents[path] = file.inline if file.inline is not None else place.tree.read(file.origin or "")
    found = place.store.put_bytes(contents).digest
    if found != expected:
        raise StoreError(f"{source.address}: its files changed while they were read (planned {expected}, stored {found})")


def _record(place: Place, action: Action, snapshot: Snapshot, result: StepResult, output: Path) -> Record:
    step = action.step
    manifests: dict[str, Manifest] = {digest: place.store.manifest(digest) for digest in action.inputs.values()}
    products: dict[str, str] = {}
    for name in STEPS[step.kind].products:
        manifest = place.store.put_folder(output / result.products[name])
        products[name] = manifest.digest
        manifests[manifest.digest] = manifest
    seconds = _seconds(result)
    settings = place.desired.settings
    earlier = snapshot.record_entry(_known(action)) if action.supersedes else None
    record = Record(
        key=_known(action),
        step=step.kind,
        step_version=STEPS[step.kind].version,
        step_id=step.id,
        subject=step.subject,
        parameters=dict(step.parameters),
        inputs=dict(action.inputs),
        products=products,
        sources={name: item.bundle.sources for name, item in step.inputs.items() if isinstance(item, FromCommit)},
        metrics=result.metrics,
        commit=place.desired.commit or "",
        attempt=result.attempt,
        started=result.started,
        finished=result.finished,
        environment=result.environment,
        estimate=spent(action.estimate),
        actual=Spent(seconds=seconds, cost=price(seconds, step.processes, step.accelerator, settings)),
        attestations={},
        supersedes=earlier.digest if earlier else None,
    )
    record, attestations = _attest(place, step, record, manifests, output)
    drafts = [Draft(record, attestations)]
    if step.kind is StepKind.RELEASE:
        drafts.append(_release_draft(place, action, products["release"]))
    place.ledger.append(drafts)
    return record


def _attest(
    place: Place, step: Step, record: Record, manifests: Mapping[str, Manifest], output: Path
) -> tuple[Record, tuple[bytes, ...]]:
    signer = signer_for(STEPS[step.kind].role, place.config)
    producers = producers_of(step)
    sealed = {
        "link": seal(link_of(record, manifests, producers), signer),
        statement_name(step.kind): seal(statement_of(record, producers), signer),
    }
    if step.kind is StepKind.TRAIN:
        sealed["weights-signature"] = sign_weights(output / "weights", weights_key(place.config))
    names = {name: str(digest_of_bytes(data)) for name, data in sealed.items()}
    return record.model_copy(update={"attestations": names}), tuple(sealed.values())


def _move_pointer(place: Place, action: Action, observer: Observer) -> None:
    draft = _release_draft(place, action, action.products["release"])
    place.ledger.append([draft])
    if isinstance(draft.body, Release):
        observer.released(action, draft.body)


def _release_draft(place: Place, action: Action, digest: str) -> Draft:
    step = action.step
    release = Release(
        environment=str(step.parameters["environment"]),
        deployment=step.name,
        release=digest,
        key=_known(action),
        commit=place.desired.commit or "",
        moved=place.now().isoformat(timespec="milliseconds"),
    )
    sealed = seal(release_statement(release), signer_for(STEPS[step.kind].role, place.config))
    signed = release.model_copy(update={"attestations": {"release": str(digest_of_bytes(sealed))}})
    return Draft(signed, (sealed,))


def _record_failure(place: Place, action: Action, error: local.StepFailedError, request: StepRequest, seconds: float) -> None:
    body = Attempt(
        key=request.key,
        step=request.step,
        step_id=action.step.id,
        subject=action.step.subject,
        commit=place.desired.commit or "",
        attempt=request.attempt,
        cause=error.cause,
        message=str(error)[:4000],
        seconds=seconds,
    )
    place.ledger.append([Draft(body)])


def _seconds(result: StepResult) -> float:
    started, finished = (datetime.datetime.fromisoformat(text) for text in (result.started, result.finished))
    return (finished - started).total_seconds()


def no_go_table(place: Place, plan: Plan) -> str:
    """Why releases are blocked: metric, threshold and value of every check, the failed ones marked."""
    lines = []
    for action in plan.blocked:
        gate = next(other for other in plan.actions if other.step.id == f"{StepKind.GATE}/{action.step.name}")
        verdict = GateVerdict.model_validate_json(place.store.read_file(gate.products["verdict"], VERDICT_FILE))
        lines.append(f"{action.step.id} is blocked: {gate.step.id} says {verdict.verdict}")
        rows = [("", "task", "metric", "threshold", "value")]
        for check in verdict.checks:
            value = "absent" if check.value is None else f"{check.value:.4g}"
            sign = ">=" if check.bound == "min" else "<="
            rows.append(("ok" if check.passed else "FAIL", check.task, check.metric, f"{sign} {check.threshold:g}", value))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines += ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append("Nothing was released. Change the model, its data or the gate, commit, and apply again.")
    return "\n".join(lines)
