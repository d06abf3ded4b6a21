"""Carry out a recorded step again, as another functionary, and sign that it made the same; or say what it made instead.

Rules:
1. Nothing is run that would not count: the record has to be the one in force and its whole chain has to hold from the bytes up;
   the key here has to be one of the role, valid now, of a functionary who has not carried the step out yet.
2. The run reads the record's inputs and nothing of the first run: no checkpoint, no by-product. It has a workspace of its own
   for each key, so that nobody signs what another one ran; what it makes is hashed there, and never enters the store.
3. Signed is what every product of the run agrees with. One product that differs, and nothing is signed or appended.
4. Whoever has carried out every step of a kind behind a release of the commit signs the link of that kind too. Where only
   that is lacking (a step was renamed, a deployment was added), the link is signed and nothing is run again.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import Signer

from forge.admission.reproductions import Run, Runs
from forge.admission.verdict import told
from forge.attest.envelope import seal
from forge.attest.layout import Done, recorded_behind, steps_behind
from forge.attest.reproduction import reproduction_payloads
from forge.canonical import digest_of_bytes, hex_of
from forge.contract.kinds import StepKind
from forge.contract.messages import RESULT_FILE, StepResult
from forge.contract.record import Record, Reproduction
from forge.errors import RefusedError, StepError, TrustError, UsageError
from forge.executors import local
from forge.executors.workspace import Workspace, step_lock
from forge.ledger.entry import Entry
from forge.ledger.ledger import Draft, Snapshot
from forge.plan.action import Action, ActionKind
from forge.plan.graph import build_graph
from forge.plan.reason import Reason, ReasonKind
from forge.plan.step import FromCommit, Step
from forge.reconcile.admit import verified
from forge.reconcile.apply import InterruptedApplyError
from forge.reconcile.at_work import request_of, store_bundle, teller
from forge.reconcile.observer import Observer
from forge.reconcile.place import Place
from forge.reconcile.preflight import counting_signer
from forge.reconcile.recording import check_result
from forge.reconcile.reproductions import links_of, manifests_of, runs_here
from forge.reconcile.stop import Stop
from forge.reconcile.timestamping import check_authority, stamped
from forge.spec.load import did_you_mean
from forge.store.store import manifest_of_folder

_POLL_SECONDS = 0.1
_MOST_FILES = 5


class NotReproducedError(StepError):
    """A step was carried out again and made something else: nothing is signed."""


@dataclass(frozen=True)
class Reproduced:
    """What was appended."""

    body: Reproduction
    signer: str
    """What the key is called."""
    ran: bool
    """False: it was carried out before, and only links were signed."""
    links: tuple[str, ...]
    """The attestations that are links of a kind."""


@dataclass(frozen=True)
class _Task:
    """A recorded step, who would carry it out again, and what is known of its runs."""

    step: Step
    entry: Entry
    record: Record
    signer: Signer
    signer_name: str
    functionary: str
    runs: Runs


def reproduce(place: Place, step_id: str, observer: Observer, stop: Stop) -> Reproduced:
    """Carry out a recorded step of the commit again and append the signed reproduction.

    Raises UsageError for what is no step of the commit, RefusedError and TrustError for a run that would not count,
    StepFailedError where the step fails, NotReproducedError where it makes something else, InterruptedApplyError where someone
    asked to stop.
    """
    snapshot = place.ledger.snapshot()
    task = _task(place, snapshot, step_id)
    before = next((run for run in task.runs.of(task.record) if run.functionary == task.functionary and not run.refusal), None)
    if before is not None:
        return _links_alone(place, snapshot, task, before)
    _must_hold(place, snapshot, task)
    space = _space(place, task)
    result, output = _run(place, task, space, observer, stop)
    check_result(step_id, task.record.key, task.step.kind, result, output)
    _must_be_equal(place, task, result, output)
    body = _body(task, result)
    producers = task.runs.producers(task.record)
    if producers is None:
        raise TrustError(f"commit {task.record.commit} of the record of {step_id} cannot be read")
    manifests = manifests_of(place, [*task.record.inputs.values(), *task.record.products.values()])
    payloads = {**reproduction_payloads(body, task.record, manifests, producers), **_links(place, snapshot, task)}
    done = _append(place, task, body, payloads, result.lock.encode())
    space.clear()
    return Reproduced(done, task.signer_name, ran=True, links=tuple(name for name in payloads if name.startswith("chain-")))


def _task(place: Place, snapshot: Snapshot, step_id: str) -> _Task:
    """What is to be done, and by whom; raises where it may not be."""
    if place.desired.commit is None:
        raise RefusedError("only what a commit asks for can be reproduced: commit your changes first")
    graph = build_graph(place.desired)
    step = graph.get(step_id)
    if step is None:
        raise UsageError(f"commit {place.desired.commit[:12]} asks for no step {step_id}{did_you_mean(step_id, graph)}")
    if step.kind is StepKind.RELEASE:
        raise UsageError(f"{step_id}: nobody releases twice; who agrees to a release approves it (`forge approve`)")
    done = recorded_behind(step, graph, snapshot.record).get(step_id)
    entry = snapshot.record_entry(done.record.key) if done is not None else None
    if done is None or entry is None:
        raise RefusedError(f"{step_id} is not recorded as commit {place.desired.commit[:12]} asks for it: `forge apply` first")
    runs = runs_here(place, snapshot, _records_of_kind(step, graph, snapshot))
    authority, now = runs.authority, place.now().isoformat()
    check_authority(place, authority.charter)
    role = authority.role_of(step.kind)
    signers = authority.signers(role, now)
    signer = counting_signer(place, signers, role)
    keyid = signer.public_key.keyid
    name = next(known.name for known in signers.known if known.key.keyid == keyid)
    functionary = authority.functionaries(role).get(keyid)
    if keyid in runs.withdrawn or functionary is None:
        why = "is withdrawn" if keyid in runs.withdrawn else "signs weights, and stands for no functionary"
        raise TrustError(f"the key {name} {why}: what it signs as a reproduction does not count")
    return _Task(step, entry, done.record, signer, name, functionary, runs)


def _records_of_kind(step: Step, graph: Mapping[str, Step], snapshot: Snapshot) -> list[Record]:
    """The records of all steps of a step's kind behind the releases that it is part of; its own among them."""
    found = dict(recorded_behind(step, graph, snapshot.record))
    for release in _releases_on(step, graph):
        found |= recorded_behind(release, graph, snapshot.record)
    return [done.record for done in found.values() if done.step.kind is step.kind]


def _releases_on(step: Step, graph: Mapping[str, Step]) -> list[Step]:
    releases = [each for each in graph.values() if each.kind is StepKind.RELEASE]
    return [release for release in releases if any(each.id == step.id for each in steps_behind(release, graph))]


def _must_hold(place: Place, snapshot: Snapshot, task: _Task) -> None:
    """Raise TrustError unless the record, and everything that it was made of, holds from the bytes up."""
    for source in task.step.inputs.values():
        if isinstance(source, FromCommit) and not place.store.has(source.bundle.digest):
            store_bundle(place, source)
    verdict = verified(place, snapshot, task.record.key)
    if not verdict.holds:
        raise TrustError(
            f"{task.step.id} is not carried out again, for its record (entry {task.entry.sequence}) does not hold\n"
            f"{told(verdict.findings)}"
        )


def _space(place: Place, task: _Task) -> Workspace:
    """A folder beside those of steps, so that devices are lent once, and in no list of runs."""
    folder = place.work / f"reproduce-{task.signer.public_key.keyid[:12]}-{hex_of(task.record.key)}"
    folder.mkdir(parents=True, exist_ok=True)
    return Workspace(folder)


def _run(place: Place, task: _Task, space: Workspace, observer: Observer, stop: Stop) -> tuple[StepResult, Path]:
    """The result of a run, or of one that ended before anybody could compare it."""
    action = Action(
        ActionKind.RUN,
        task.step.id,
        task.step.subject,
        (Reason(ReasonKind.FORCED),),
        task.step.kind,
        task.record.key,
        task.record.inputs,
    )
    with step_lock(space) as lock:
        if lock is None:
            raise RefusedError(f"{task.step.id} is being carried out here already (pid {local.living_process(space)})")
        done = space.finished()
        if done is not None:
            return done
        request = request_of(place, action, task.step, space)
        observer.started(action, adopted=False)
        job = local.launch(request, space, lock, teller(place, action, request, observer))
    _wait(job, stop)
    if stop.asked and space.finished() is None:
        raise InterruptedApplyError(f"stopped as asked; `forge reproduce {task.step.id}` goes on from its last checkpoint")
    try:
        return job.outcome()
    except local.StepFailedError as error:
        message = f"{task.step.id} failed when it was carried out again; nothing is signed: {error}"
        raise local.StepFailedError(message, error.cause, error.attempt) from error


def _wait(job: local.Job, stop: Stop) -> None:
    asked = False
    try:
        while not job.is_over():
            if stop.asked > 1:
                job.kill()
            elif stop.asked and not asked:
                job.ask_to_stop()
                asked = True
            time.sleep(_POLL_SECONDS)
    except BaseException:
        job.kill()
        raise


def _must_be_equal(place: Place, task: _Task, result: StepResult, output: Path) -> None:
    """Raise NotReproducedError where a product differs; what was made stays for whoever looks, and is not taken up again."""
    rows = []
    for name, recorded in task.record.products.items():
        made = manifest_of_folder(output / result.products[name])
        if made.digest != recorded:
            before = {file.path: file.sha256 for file in place.store.manifest(recorded).files}
            now = {file.path: file.sha256 for file in made.files}
            files = [path for path in sorted({*before, *now}) if before.get(path) != now.get(path)]
            more = f" and {len(files) - _MOST_FILES} more" if len(files) > _MOST_FILES else ""
            rows.append(f"  {name}: recorded {recorded}, made here {made.digest}: {', '.join(files[:_MOST_FILES])}{more}")
    if not rows:
        return
    (output.parent / RESULT_FILE).replace(output.parent / f"different-{RESULT_FILE}")
    for folder in (output.parent.parent / "inputs", output.parent.parent / "scratch"):
        shutil.rmtree(folder, ignore_errors=True)
    raise NotReproducedError(
        "\n".join([f"{task.step.id} made something else when it was carried out again; nothing is signed:", *rows])
        + f"\n  {_explained(task.record, result)}\n  what was made here lies in {output}"
    )


def _explained(record: Record, result: StepResult) -> str:
    """What usually makes products differ, as far as record and result say it of their machines."""
    before, now = dict(record.environment), dict(result.environment)
    for values, lock, hardware in ((before, record.lock, record.hardware), (now, None, result.hardware)):
        if hardware is not None:
            values |= {"cpu": hardware.cpu, "accelerators": ", ".join(hardware.accelerators) or "none"}
        if lock is not None or result.lock:
            values["lock"] = lock or str(digest_of_bytes(result.lock.encode()))
    apart = [
        f"{name} {before.get(name, 'unknown')} -> {now.get(name, 'unknown')}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if not apart:
        return (
            "both runs name the same processor, libraries and threads: then the record, this machine or the step itself is at "
            "fault (a step that is not deterministic cannot have a threshold)"
        )
    return f"products are equal to the bit on equal machines; usually one of these explains it: {'; '.join(apart)}"


def _body(task: _Task, result: StepResult) -> Reproduction:
    if not result.lock or result.hardware is None:
        raise RefusedError(f"{task.step.id}: the result says neither what it ran on nor with which distributions")
    return Reproduction(
        record=task.entry.digest,
        key=task.record.key,
        step=task.record.step,
        step_id=task.record.step_id,
        products=task.record.products,
        attempt=result.attempt,
        started=result.started,
        finished=result.finished,
        environment=result.environment,
        lock=str(digest_of_bytes(result.lock.encode())),
        hardware=result.hardware,
    )


def _links(place: Place, snapshot: Snapshot, task: _Task) -> dict[str, bytes]:
    """The links of the step's kind, for releases of the commit, that the functionary may sign now and has not signed."""
    kind, graph = task.step.kind, build_graph(place.desired)
    if task.runs.authority.threshold(kind) == 1:
        return {}
    found: list[bytes] = []
    for release in _releases_on(task.step, graph):
        behind = [
            done for done in recorded_behind(release, graph, snapshot.record).values() if done.step.kind is not StepKind.RELEASE
        ]
        wanted = {each.id for each in steps_behind(release, graph) if each.kind is kind}
        mine = {done.step.id for done in behind if done.step.kind is kind and _did(task, done)}
        payload = links_of(place, behind).get(kind) if wanted == mine else None
        if payload is not None and payload not in found and task.functionary not in task.runs.links(kind, payload, behind):
            found.append(payload)
    return {f"chain-{kind}{f'-{number}' if number > 1 else ''}": payload for number, payload in enumerate(found, 1)}


def _did(task: _Task, done: Done) -> bool:
    """Whether the functionary has carried out a step; the one that is at hand counts."""
    runs = task.runs.of(done.record)
    return done.record.key == task.record.key or any(
        run.functionary == task.functionary and run.refusal is None for run in runs
    )


def _links_alone(place: Place, snapshot: Snapshot, task: _Task, before: Run) -> Reproduced:
    """Nothing is run twice by one functionary; what may be lacking is the link of all steps of the kind."""
    if isinstance(before.body, Record):
        raise RefusedError(
            f"{task.step.id} was recorded by {before.signer}, and the key here ({task.signer_name}) is the same functionary's: "
            "a reproduction is by somebody else, with another key of the role"
        )
    payloads = _links(place, snapshot, task)
    if not payloads:
        raise RefusedError(
            f"{task.step.id} was carried out again by {before.signer} already (entry {before.sequence}), and counts once"
        )
    kept = {name: digest for name, digest in before.body.attestations.items() if "chain-" not in name}
    done = _append(place, task, before.body.model_copy(update={"attestations": kept}), payloads)
    return Reproduced(done, task.signer_name, ran=False, links=tuple(payloads))


def _append(place: Place, task: _Task, body: Reproduction, payloads: Mapping[str, bytes], *more: bytes) -> Reproduction:
    """Sign, and append unless the record was superseded meanwhile."""
    newest = place.ledger.fetch().record_entry(task.record.key)
    if newest is None or newest.digest != task.entry.digest:
        raise RefusedError(f"{task.step.id}: its record was superseded meanwhile; nothing is signed")
    sealed = stamped({name: seal(payload, task.signer) for name, payload in payloads.items()}, place)
    names = {name: str(digest_of_bytes(data)) for name, data in sealed.items()}
    signed = body.model_copy(update={"attestations": {**body.attestations, **names}})
    place.ledger.append([Draft(signed, (*sealed.values(), *more))])
    return signed
