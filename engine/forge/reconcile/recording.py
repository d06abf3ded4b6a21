"""From what was done to what the ledger keeps: records, failed attempts, releases and notes, each signed by its role."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forge.admission.verify import verify_before_release
from forge.attest.envelope import seal
from forge.attest.keys import signer_for, weights_key
from forge.attest.statements import (
    CURRENT_STATEMENTS,
    VERIFICATION_SUMMARY,
    link_of,
    release_statement,
    retirement_statement,
    statements_of,
    verification_summary,
)
from forge.attest.trust import read_trust_root
from forge.attest.weights import sign_weights, weights_signer
from forge.canonical import digest_of_bytes
from forge.contract.kinds import STEPS, StepKind
from forge.contract.manifest import Manifest
from forge.contract.messages import StepResult
from forge.contract.record import Attempt, Protection, Record, Release, Retirement, Spent
from forge.contract.release import RELEASE_FILE, ReleaseDocument
from forge.contract.verdict import VERDICT_FILE
from forge.contract.weights import HEAD_BYTES, why_refused
from forge.errors import RefusedError
from forge.executors.local import StepFailedError
from forge.ledger.ledger import Draft, Snapshot
from forge.plan.action import Action, ActionKind
from forge.plan.cost import price, spent
from forge.plan.graph import FromCommit, FromStep, Step, build_graph, producers_of
from forge.reconcile.at_work import AtWork
from forge.reconcile.place import Place


def record_drafts(
    place: Place, work: AtWork, snapshot: Snapshot, result: StepResult, output: Path
) -> tuple[Record, list[Draft]]:
    """Store what a finished step made, hashed here, and what the ledger keeps of it; a release step moves its pointer too."""
    action, step, request = work.action, work.step, work.request
    _check_result(action, step, result, output)
    manifests: dict[str, Manifest] = {digest: place.store.manifest(digest) for digest in action.inputs.values()}
    products: dict[str, str] = {}
    for name in STEPS[step.kind].products:
        if step.kind is StepKind.TRAIN:
            _check_formats(step, output / result.products[name])
        manifest = place.store.put_folder(output / result.products[name])
        products[name] = manifest.digest
        manifests[manifest.digest] = manifest
    for folder in result.byproducts.values():
        _check_formats(step, output / folder)
    byproducts = {name: place.store.put_folder(output / folder).digest for name, folder in result.byproducts.items()}
    began, ended = (datetime.datetime.fromisoformat(text) for text in (result.started, result.finished))
    seconds = (ended - began).total_seconds()
    known = snapshot.record_entry(request.key)
    record = Record(
        key=request.key,
        step=step.kind,
        step_version=STEPS[step.kind].version,
        step_id=step.id,
        subject=step.subject,
        parameters=dict(step.parameters),
        inputs=dict(action.inputs),
        products=products,
        byproducts=byproducts,
        sources={name: item.bundle.sources for name, item in step.inputs.items() if isinstance(item, FromCommit)},
        metrics=result.metrics,
        commit=place.desired.commit or "",
        attempt=result.attempt,
        started=result.started,
        finished=result.finished,
        environment=result.environment,
        estimate=spent(action.estimate),
        actual=Spent(seconds=seconds, cost=price(seconds, step.processes, step.accelerator, place.desired.settings)),
        attestations={},
        supersedes=known.digest if known and action.again else None,
        continued=result.continued,
        **_statements(place, step, snapshot, action, result),
    )
    record, attestations = _attest(place, step, record, manifests)
    lock = (result.lock.encode(),) if record.lock is not None else ()  # its text lies beside the attestations that name it
    drafts = [Draft(record, (*attestations, *lock))]
    if step.kind is StepKind.RELEASE:
        drafts.append(release_draft(place, action, step, products["release"]))
    return record, drafts


def release_draft(place: Place, action: Action, step: Step, digest: str) -> Draft:
    """A signed move of the environment's pointer, once the chain behind the weights is verified; raises TrustError."""
    document = ReleaseDocument.model_validate_json(place.store.read_file(digest, RELEASE_FILE))
    entries = verify_before_release(
        document.weights,
        document.verdict,
        place.repository,
        place.ledger.snapshot(),
        place.store,
        read_trust_root(place.config),
    )
    release = Release(
        environment=step.environment or "",
        deployment=step.name,
        release=digest,
        key=action.key or "",
        commit=place.desired.commit or "",
        moved=_now(place),
        statements=CURRENT_STATEMENTS,
        rests_on=tuple(entry.digest for entry in entries),
    )
    records = [entry.body for entry in entries if isinstance(entry.body, Record)]
    signer = signer_for(STEPS[step.kind].role, place.config)
    sealed = {
        "release": seal(release_statement(release), signer),
        VERIFICATION_SUMMARY: seal(verification_summary(release, document.weights, records), signer),
    }
    names = {name: str(digest_of_bytes(data)) for name, data in sealed.items()}
    return Draft(release.model_copy(update={"attestations": names}), tuple(sealed.values()))


def note_draft(place: Place, action: Action) -> Draft:
    """What the ledger notes of a resource: that it left the commit, or whether it is protected."""
    commit = place.desired.commit or ""
    if action.kind is ActionKind.RETIRE:
        retirement = Retirement(subject=action.subject, environment=action.environment, commit=commit, moved=_now(place))
        if retirement.environment is None:
            return Draft(retirement)
        # An environment's service ends by this: agents take it from the releaser only.
        sealed = seal(retirement_statement(retirement), signer_for(STEPS[StepKind.RELEASE].role, place.config))
        return Draft(retirement.model_copy(update={"attestations": {"retirement": str(digest_of_bytes(sealed))}}), (sealed,))
    return Draft(Protection(subject=action.subject, protected=bool(action.protect), commit=commit))


def attempt_draft(place: Place, work: AtWork, error: StepFailedError) -> Draft:
    """A failed attempt, kept so that nobody has to guess."""
    return Draft(
        Attempt(
            key=work.request.key,
            step=work.request.step,
            step_id=work.action.id,
            subject=work.action.subject,
            commit=place.desired.commit or "",
            attempt=work.request.attempt,
            cause=error.cause,
            message=str(error)[:4000],
            seconds=(place.now() - work.began).total_seconds(),
        )
    )


def _check_result(action: Action, step: Step, result: StepResult, output: Path) -> None:
    """A result names folders; only those directly below this attempt's output are believed to be its products."""
    named = {**{name: name for name in STEPS[step.kind].products}, **result.products, **result.byproducts}
    for folder in named.values():
        if result.key != action.key or (output / folder).resolve().parent != output.resolve():
            raise RefusedError(f"{action.id}: the result in {output.parent} is not this step's: remove that folder")


def _check_formats(step: Step, folder: Path) -> None:
    """Weights and checkpoints that could run code when they are loaded are not even stored."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
            refusal = why_refused(path.relative_to(folder).as_posix(), path.stat().st_size, head)
            if refusal is not None:
                raise RefusedError(f"{step.id}: {refusal}: nothing of this run is recorded; export the weights as safetensors")


def _statements(place: Place, step: Step, snapshot: Snapshot, action: Action, result: StepResult) -> dict[str, Any]:
    """The fields that the current statements need; none for a result that a step of an older engine left."""
    if not result.lock or result.hardware is None:
        return {}
    return {
        "statements": CURRENT_STATEMENTS,
        "lock": str(digest_of_bytes(result.lock.encode())),
        "hardware": result.hardware,
        "about": _judged_weights(place, step, snapshot, action) if step.kind is StepKind.GATE else {},
    }


def _judged_weights(place: Place, step: Step, snapshot: Snapshot, action: Action) -> dict[str, str]:
    """The weights whose evaluation gave the reports that a gate read, by place; empty where the ledger does not tell."""
    graph = build_graph(place.desired)
    found = {}
    for name, source in step.inputs.items():
        if not isinstance(source, FromStep):
            continue
        evaluate = graph[source.step_id]
        record = next(
            (
                record
                for record in (snapshot.latest(step_id) for step_id in (evaluate.id, *evaluate.previous_ids))
                if record is not None and record.products.get(source.product) == action.inputs[name]
            ),
            None,
        )
        if record is None:
            return {}
        found[producers_of(evaluate)["weights"]] = record.inputs["weights"]
    return found


def _attest(place: Place, step: Step, record: Record, manifests: Mapping[str, Manifest]) -> tuple[Record, tuple[bytes, ...]]:
    signer = signer_for(STEPS[step.kind].role, place.config)
    producers = producers_of(step)
    verdict = record.products.get("verdict")
    documents = {} if verdict is None else {verdict: place.store.read_file(verdict, VERDICT_FILE)}
    payloads = {"link": link_of(record, manifests, producers), **statements_of(record, producers, documents)}
    sealed = {name: seal(payload, signer) for name, payload in payloads.items()}
    if step.kind is StepKind.TRAIN:
        signer = weights_signer(weights_key(place.config))
        sealed["weights-signature"] = sign_weights(manifests[record.products["weights"]], signer)
    names = {name: str(digest_of_bytes(data)) for name, data in sealed.items()}
    return record.model_copy(update={"attestations": names}), tuple(sealed.values())


def _now(place: Place) -> str:
    return place.now().isoformat(timespec="milliseconds")
