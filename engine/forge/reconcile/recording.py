"""From what was done to what the ledger keeps: records, failed attempts, releases and notes, each signed by its role."""

import datetime
from collections.abc import Mapping
from pathlib import Path

from forge.attest.envelope import seal
from forge.attest.keys import signer_for, weights_key
from forge.attest.statements import (
    link_of,
    release_statement,
    retirement_statement,
    statement_name,
    statement_of,
    withdrawal_statement,
)
from forge.attest.weights import sign_weights
from forge.canonical import digest_of_bytes
from forge.contract.kinds import STEPS, StepKind
from forge.contract.manifest import Manifest
from forge.contract.messages import StepResult
from forge.contract.record import Attempt, Protection, Record, Release, Retirement, Spent, Withdrawal
from forge.errors import RefusedError
from forge.executors.local import StepFailedError
from forge.ledger.ledger import Draft, Snapshot
from forge.plan.action import Action, ActionKind, Withdraw
from forge.plan.cost import price, spent
from forge.plan.graph import FromCommit, Step, producers_of
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
        manifest = place.store.put_folder(output / result.products[name])
        products[name] = manifest.digest
        manifests[manifest.digest] = manifest
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
    )
    record, attestations = _attest(place, step, record, manifests, output)
    drafts = [Draft(record, attestations)]
    if step.kind is StepKind.RELEASE:
        drafts.append(release_draft(place, action, step, products["release"]))
    return record, drafts


def release_draft(place: Place, action: Action, step: Step, digest: str) -> Draft:
    """A signed move of the environment's pointer."""
    release = Release(
        environment=step.environment or "",
        deployment=step.name,
        release=digest,
        key=action.key or "",
        commit=place.desired.commit or "",
        moved=_now(place),
    )
    sealed = seal(release_statement(release), signer_for(STEPS[step.kind].role, place.config))
    signed = release.model_copy(update={"attestations": {"release": str(digest_of_bytes(sealed))}})
    return Draft(signed, (sealed,))


def note_draft(place: Place, action: Action) -> Draft:
    """What the ledger notes of a resource: that it left the commit, or whether it is protected or withdrawn."""
    commit = place.desired.commit or ""
    if action.withdraw is not None:
        return _withdrawal_draft(place, action.withdraw, commit)
    if action.kind is ActionKind.RETIRE:
        retirement = Retirement(subject=action.subject, environment=action.environment, commit=commit, moved=_now(place))
        if retirement.environment is None:
            return Draft(retirement)
        # An environment's service ends by this: agents take it from the releaser only.
        sealed = seal(retirement_statement(retirement), signer_for(STEPS[StepKind.RELEASE].role, place.config))
        return Draft(retirement.model_copy(update={"attestations": {"retirement": str(digest_of_bytes(sealed))}}), (sealed,))
    return Draft(Protection(subject=action.subject, protected=bool(action.protect), commit=commit))


def _withdrawal_draft(place: Place, item: Withdraw, commit: str) -> Draft:
    """A signed withdrawal, or a signed end of one; raises RefusedError for a commit that never knew what it would lift."""
    known = place.ledger.snapshot().withdrawal_entry(item.subject)
    before = known.body if known is not None and isinstance(known.body, Withdrawal) else None
    if item.lifted and (before is None or not place.repository.is_ancestor(before.commit, commit)):
        since = before.commit if before is not None else "of another clone"
        raise RefusedError(
            f"commit {commit[:12]} cannot lift the withdrawal of {item.subject}: it does not descend from commit {since[:12]}, "
            "which made it, so it never knew of it. Apply a commit that does (rebase or merge), and remove the entry there"
        )
    withdrawal = Withdrawal(
        subject=item.subject,
        reason=item.reason,
        serving="refuse" if item.serving == "refuse" else "stop",
        lifted=item.lifted,
        supersedes=known.digest if known is not None else None,
        commit=commit,
        moved=_now(place),
    )
    sealed = seal(withdrawal_statement(withdrawal), signer_for(STEPS[StepKind.RELEASE].role, place.config))
    return Draft(withdrawal.model_copy(update={"attestations": {"withdrawal": str(digest_of_bytes(sealed))}}), (sealed,))


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


def _now(place: Place) -> str:
    return place.now().isoformat(timespec="milliseconds")
