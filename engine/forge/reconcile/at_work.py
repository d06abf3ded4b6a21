"""A step that this reconciler has launched, adopted, or found finished: from an action to a process, and to its outcome."""

import datetime
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from forge.contract.checkpoints import BYPRODUCT, newest_checkpoint
from forge.contract.kinds import STEPS
from forge.contract.messages import Event, FailureCause, InputArtifact, Resources, StepRequest, StepResult
from forge.contract.record import Attempt
from forge.errors import RefusedError, StoreError
from forge.executors import local
from forge.executors.open_runs import note_open
from forge.executors.workspace import Workspace, requested, step_lock, workspace
from forge.ledger.lease import Lease
from forge.ledger.ledger import Draft
from forge.plan.action import Action
from forge.plan.step import FromCommit, Step
from forge.reconcile.observer import Observer
from forge.reconcile.place import Place
from forge.spec.extend import shared_steps

_NAMED = ("conversations", "preferences")
"""Inputs whose files a step's messages name as the commit does. Sources of recipes are too many to be listed in a request."""


@dataclass
class AtWork:
    """One step on its way."""

    action: Action
    step: Step
    request: StepRequest
    space: Workspace
    job: local.Job | None
    """None: its result was there already."""
    lease: Lease
    began: datetime.datetime
    stopping: bool = False
    """Whether this reconciler asked it to stop."""

    def is_over(self) -> bool:
        """Pass on events; whether it has ended."""
        return self.job is None or self.job.is_over()

    def outcome(self) -> tuple[StepResult, Path]:
        """The result and the folder of its products; raises StepFailedError."""
        done = self.space.finished()
        if done is not None:
            return done
        if self.job is None:
            raise StoreError(f"{self.action.id}: its result in {self.space.folder} was removed while it was read")
        return self.job.outcome()

    def ask_to_stop(self) -> None:
        """Once: a train step writes a checkpoint and ends."""
        if self.job is not None and not self.stopping:
            self.job.ask_to_stop()
        self.stopping = True

    def kill(self) -> None:
        """At once; the last checkpoint stays."""
        self.stopping = True
        if self.job is not None:
            self.job.kill()


def begin(place: Place, action: Action, step: Step, lease: Lease, observer: Observer) -> AtWork:
    """Adopt the step's living process, take up the result it left, or launch an attempt."""
    space, began = workspace(place.work, lease.key), place.now()
    with step_lock(space) as lock:
        request = requested(space)
        if lock is None:
            if request is None:
                raise RefusedError(
                    f"{action.id}: a process (pid {local.living_process(space)}) holds the lock of {space.folder} and "
                    "does not say what it works at: end it, or wait for its end"
                )
            observer.started(action, adopted=True)
            job = local.adopt(space, teller(place, action, request, observer))
            return AtWork(action, step, request, space, job, lease, began)
        if request is not None and space.finished() is not None:
            observer.started(action, adopted=True)
            return AtWork(action, step, request, space, None, lease, began)
        request = request_of(place, action, step, space)
        observer.started(action, adopted=False)
        note_open(place.work, lease.key, step.id, place.desired.commit or "")
        job = local.launch(request, space, lock, teller(place, action, request, observer))
    return AtWork(action, step, request, space, job, lease, began)


def teller(place: Place, action: Action, request: StepRequest, observer: Observer) -> Callable[[Event], None]:
    """Pass events on, with the peak of what the step runs on."""
    peak = place.desired.settings.peak_flops_per_second(request.resources.accelerator, request.resources.processes)
    return lambda event: observer.progressed(action, event, peak)


def store_bundle(place: Place, source: FromCommit) -> None:
    """Put files of the commit into the store; raises StoreError when they are not those that were planned with."""
    contents = {}
    for path, file in source.bundle.files.items():
        contents[path] = file.inline if file.inline is not None else place.tree.read(file.origin or "")
    expected, found = source.bundle.digest, place.store.put_bytes(contents).digest
    if found != expected:
        raise StoreError(f"{source.address}: its files changed while they were read (planned {expected}, stored {found})")


def request_of(place: Place, action: Action, step: Step, space: Workspace) -> StepRequest:
    """The next attempt's request, its inputs laid out in the workspace; raises StoreError for one that is lost or damaged."""
    inputs: dict[str, InputArtifact] = {}
    shutil.rmtree(space.inputs, ignore_errors=True)
    for name, digest in action.inputs.items():
        path = None
        if name not in STEPS[step.kind].by_reference:
            folder = space.inputs / name
            folder.mkdir(parents=True)
            place.store.lay_out(digest, folder)
            path = str(folder)
        source = step.inputs.get(name)
        sources = source.bundle.sources if name in _NAMED and isinstance(source, FromCommit) else {}
        inputs[name] = InputArtifact(digest=digest, path=path, sources=dict(sources))
    attempt = max(space.attempts(), default=0) + 1
    return StepRequest(
        step=step.kind,
        step_version=STEPS[step.kind].version,
        key=action.key or "",
        subject=step.subject,
        parameters=dict(step.parameters),
        settings=dict(step.settings),
        inputs=inputs,
        downloads=str(place.work.parent / "downloads") if "sources" in step.settings else None,
        continues=_checkpoint(place, action, step, space),
        output=str(space.attempt(attempt) / "output"),
        scratch=str(space.scratch),
        attempt=attempt,
        resources=Resources(
            accelerator=step.accelerator, threads=place.desired.settings.executor.threads, processes=step.processes
        ),
    )


def _checkpoint(place: Place, action: Action, step: Step, space: Workspace) -> InputArtifact | None:
    """The checkpoint to go on from: an artifact of a recorded run, or the newest that a stopped run left on this machine.

    Raises RefusedError where that is gone: a training that was to be continued does not begin anew without a word.
    """
    if action.continues is None:
        return None
    folder = space.inputs / "continues"
    if action.continues.checkpoint is not None:
        folder.mkdir(parents=True)
        place.store.lay_out(action.continues.checkpoint, folder)
        return InputArtifact(digest=action.continues.checkpoint, path=str(folder))
    stopped = workspace(place.work, action.continues.key)
    request = requested(stopped)
    newest = None
    if request is not None:
        newest = newest_checkpoint(stopped.checkpoints(), shared_steps(request.parameters, step.parameters))
    if request is None or newest is None:
        raise RefusedError(
            f"{action.id}: what it was to go on from has gone since it was planned: no checkpoint of the run under the key "
            f"{action.continues.key} is left in {stopped.scratch}; plan again"
        )
    shutil.copytree(stopped.scratch / newest, folder)
    digest = place.store.put_folder(folder).digest
    attempt = Attempt(  # whoever verifies the longer run finds here what it went on from
        key=action.continues.key,
        step=step.kind,
        step_id=step.id,
        subject=step.subject,
        commit=place.desired.commit or "",
        attempt=request.attempt,
        cause=FailureCause.STOPPED,
        message=f"stopped; {step.id} goes on from its checkpoint {newest} under the key {action.key}",
        seconds=0.0,
        byproducts={BYPRODUCT: digest},
    )
    place.ledger.append([Draft(attempt)])
    return InputArtifact(digest=digest, path=str(folder))
