"""From what was done to what the ledger keeps: records, failed attempts, releases and notes, each signed by its role.

Where forge.toml names a time-stamping authority, a token for each signature goes with it.
"""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from forge.admission.history import delegated
from forge.admission.signed import is_signed
from forge.attest.envelope import seal
from forge.attest.keys import signer_for, weights_signer_for
from forge.attest.layout import chain_of
from forge.attest.statements import (
    CURRENT_STATEMENTS,
    VERIFICATION_SUMMARY,
    payloads_of,
    release_statement,
    retirement_statement,
    verification_summary,
    withdrawal_statement,
)
from forge.attest.trust import read_trust_root
from forge.attest.weights import sign_weights
from forge.canonical import digest_of_bytes
from forge.contract.checkpoints import name_of_checkpoint
from forge.contract.kinds import STEPS, StepKind
from forge.contract.manifest import Manifest
from forge.contract.messages import Continued, StepResult
from forge.contract.record import Attempt, Protection, Record, Release, Renaming, Retirement, Spent, Withdrawal
from forge.contract.verdict import VERDICT_FILE
from forge.contract.weights import bytes_looked_at, why_refused
from forge.errors import LedgerError, RefusedError
from forge.executors.local import StepFailedError
from forge.ledger.entry import Entry, key_folder, withdrawal_folder
from forge.ledger.ledger import Draft, Snapshot
from forge.plan.action import Action, ActionKind, Withdraw
from forge.plan.cost import price, spent
from forge.plan.graph import build_graph
from forge.plan.lineage import Lineage
from forge.plan.step import FromCommit, FromStep, Step, producers_of
from forge.reconcile.at_work import AtWork
from forge.reconcile.links import release_links
from forge.reconcile.place import Place
from forge.reconcile.timestamping import stamped
from forge.reconcile.withdrawals import why_unheld


def record_drafts(
    place: Place, work: AtWork, snapshot: Snapshot, result: StepResult, output: Path, plan_approvals: tuple[str, ...] = ()
) -> tuple[Record, list[Draft]]:
    """Store what a finished step made, hashed here, and what the ledger keeps of it.

    ``plan_approvals``: digests of the ledger's approvals of the plan that is carried out.
    """
    action, step, request = work.action, work.step, work.request
    check_result(action.id, request.key, step.kind, result, output)
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
        plan_approvals=plan_approvals,
        continued=_named(result.continued, snapshot),
        **_statements(place, step, snapshot, action, result),
    )
    record, attestations = _attest(place, step, record, manifests)
    lock = (result.lock.encode(),) if record.lock is not None else ()  # its text lies beside the attestations that name it
    return record, [Draft(record, (*attestations, *lock))]


def release_draft(
    place: Place,
    snapshot: Snapshot,
    action: Action,
    step: Step,
    digest: str,
    plan_approvals: tuple[str, ...] = (),
    record: Record | None = None,
) -> Draft:
    """A signed move of the environment's pointer; ``record`` is the release step's where the ledger does not have it yet.

    It names the entries that it rests on, and a summary says so to verifiers that know nothing of Forge. Under a supply chain
    it also carries one link per kind of step, each signed by its role. Raises TrustError where the chain is not recorded whole.
    """
    graph = build_graph(place.desired)
    chain = chain_of(
        step, graph, lambda key: record if record and record.key == key else snapshot.record(key), action.key or ""
    )
    behind = _entries_behind([done.record for done in chain if done.step.id != step.id], snapshot)
    release = Release(
        environment=step.environment or "",
        deployment=step.name,
        release=digest,
        key=action.key or "",
        commit=place.desired.commit or "",
        moved=_time_of_move(place, snapshot, step.environment or ""),
        approvals=action.approvals,
        plan_approvals=plan_approvals,
        statements=CURRENT_STATEMENTS,
        rests_on=tuple(entry.digest for entry in behind),
    )
    records = [entry.body for entry in behind if isinstance(entry.body, Record)]
    signer = signer_for(place.role_of(step.kind), place.config)
    weights = next(done.record.inputs["weights"] for done in chain if done.step.id == step.id)
    sealed = {
        "release": seal(release_statement(release), signer),
        VERIFICATION_SUMMARY: seal(verification_summary(release, weights, records), signer),
    }
    if place.desired.charter is not None:
        sealed |= release_links(place, snapshot, step, chain)
    sealed = stamped(sealed, place)
    names = {name: str(digest_of_bytes(data)) for name, data in sealed.items()}
    return Draft(release.model_copy(update={"attestations": names}), tuple(sealed.values()))


def _entries_behind(records: Sequence[Record], snapshot: Snapshot) -> list[Entry]:
    """The ledger's entries of some records and of the runs that they went on from, in its order."""
    found: dict[str, Entry] = {}
    pending = [entry for record in records for entry in snapshot.entries_in(key_folder(record.key)) if entry.body == record]
    while pending:
        entry = pending.pop()
        found[entry.digest] = entry
        continued = entry.body.continued if isinstance(entry.body, Record) else None
        if continued is not None:
            earlier = snapshot.entries_in(key_folder(continued.key))
            pending += [
                each
                for each in earlier
                if isinstance(each.body, Record)
                and each.body.byproducts.get(continued.byproduct) == continued.checkpoint
                and each.digest not in found
            ]
    return sorted(found.values(), key=lambda entry: entry.sequence)


def note_draft(place: Place, action: Action) -> Draft:
    """What the ledger notes of a resource: that it left the commit, was renamed, is protected or withdrawn."""
    commit = place.desired.commit or ""
    if action.withdraw is not None:
        return _withdrawal_draft(place, action.withdraw, commit)
    if action.kind is ActionKind.RENAME:
        return Draft(Renaming(subject=action.subject, previous=place.desired.previous[action.subject], commit=commit))
    if action.kind is ActionKind.RETIRE:
        moved = _now(place)
        if action.environment is not None:
            moved = _time_of_move(place, place.ledger.snapshot(), action.environment)
        retirement = Retirement(subject=action.subject, environment=action.environment, commit=commit, moved=moved)
        if retirement.environment is None:
            return Draft(retirement)
        # An environment's service ends by this: agents take it from the releaser only.
        return _signed_note(place, retirement, "retirement", retirement_statement(retirement))
    return Draft(Protection(subject=action.subject, protected=bool(action.protect), commit=commit))


def _withdrawal_draft(place: Place, item: Withdraw, commit: str) -> Draft:
    """A signed withdrawal, or the end of one; raises RefusedError for a commit that never knew what it lifts or softens."""
    snapshot = place.ledger.snapshot()
    noted = snapshot.entries_in(withdrawal_folder(item.subject))
    withdrawal = Withdrawal(
        subject=item.subject,
        reason=item.reason,
        serving="refuse" if item.serving == "refuse" else "stop",
        lifted=item.lifted,
        supersedes=noted[-1].digest if noted else None,
        commit=commit,
        moved=_now(place),
    )
    entry = Entry(sequence=snapshot.head[0] + 1, previous=snapshot.head[1], body=withdrawal)
    fault = why_unheld(place, snapshot, [*noted, entry], withdrawal)
    if fault is not None:
        does, change = ("lift", "remove") if item.lifted else ("soften", "change")
        raise RefusedError(
            f"commit {commit[:12]} cannot {does} the withdrawal of {item.subject}: "
            f"{fault.replace(f'commit {commit}', 'it', 1)}. "
            f"Apply a commit that does (rebase or merge), and {change} the entry there"
        )
    return _signed_note(place, withdrawal, "withdrawal", withdrawal_statement(withdrawal))


def _signed_note(place: Place, body: Retirement | Withdrawal, name: str, payload: bytes) -> Draft:
    """A note that the releaser signs."""
    sealed = stamped({name: seal(payload, signer_for(place.role_of(StepKind.RELEASE), place.config))}, place)
    names = {each: str(digest_of_bytes(data)) for each, data in sealed.items()}
    return Draft(body.model_copy(update={"attestations": names}), tuple(sealed.values()))


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


def check_result(step_id: str, key: str, kind: StepKind, result: StepResult, output: Path) -> None:
    """A result names folders; only those directly below this attempt's output are believed to be its products."""
    named = {**{name: name for name in STEPS[kind].products}, **result.products, **result.byproducts}
    for folder in named.values():
        if result.key != key or (output / folder).resolve().parent != output.resolve():
            raise RefusedError(f"{step_id}: the result in {output.parent} is not this step's: remove that folder")


def _check_formats(step: Step, folder: Path) -> None:
    """Weights and checkpoints that could run code when they are loaded are not even stored."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(bytes_looked_at(path.name, path.stat().st_size))
            refusal = why_refused(path.relative_to(folder).as_posix(), path.stat().st_size, head)
            if refusal is not None:
                raise RefusedError(f"{step.id}: {refusal}: nothing of this run is recorded; export the weights as safetensors")


def _named(continued: Continued | None, snapshot: Snapshot) -> Continued | None:
    """What a run went on from, with the name that the ledger has for the checkpoint: a step knows its digest alone."""
    if continued is None:
        return None
    for entry in snapshot.entries_in(key_folder(continued.key)):
        if isinstance(entry.body, Record):
            name = name_of_checkpoint(entry.body.byproducts, continued.checkpoint)
            if name is not None:
                return continued.model_copy(update={"byproduct": name})
    return continued


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
    graph, lineage = build_graph(place.desired), Lineage(place.desired, snapshot)
    found = {}
    for name, source in step.inputs.items():
        if not isinstance(source, FromStep):
            continue
        evaluate = graph[source.step_id]
        record = next(
            (
                record
                for record in map(snapshot.latest, lineage.ids(evaluate))
                if record is not None and record.products.get(source.product) == action.inputs[name]
            ),
            None,
        )
        if record is None:
            return {}
        found[producers_of(evaluate)["weights"]] = record.inputs["weights"]
    return found


def _attest(place: Place, step: Step, record: Record, manifests: Mapping[str, Manifest]) -> tuple[Record, tuple[bytes, ...]]:
    signer = signer_for(place.role_of(step.kind), place.config)
    producers = producers_of(step)
    verdict = record.products.get("verdict")
    documents = {} if verdict is None else {verdict: place.store.read_file(verdict, VERDICT_FILE)}
    payloads = payloads_of(record, manifests, producers, documents)
    sealed = {name: seal(payload, signer) for name, payload in payloads.items()}
    if step.kind is StepKind.TRAIN:
        sealed["weights-signature"] = sign_weights(manifests[record.products["weights"]], weights_signer_for(place.config))
    sealed = stamped(sealed, place)
    names = {name: str(digest_of_bytes(data)) for name, data in sealed.items()}
    return record.model_copy(update={"attestations": names}), tuple(sealed.values())


def _time_of_move(place: Place, snapshot: Snapshot, environment: str) -> str:
    """Now, or just after the environment's last move where the clock of whoever made that is ahead of this one.

    A verifier takes a move that is not later than the signed one before it for an old one, appended again.
    """
    history = delegated(snapshot, read_trust_root(place.config))
    moves = [(entry.sequence, entry.body) for entry in snapshot.moves(environment)]
    signed = (
        body
        for sequence, body in reversed(moves)
        if isinstance(body, Release | Retirement)
        and is_signed(body, history.authority(sequence), body.moved, snapshot.attestation)
    )
    last = next(signed, None)
    if last is None:
        return _now(place)
    try:
        earliest = datetime.datetime.fromisoformat(last.moved) + datetime.timedelta(milliseconds=1)
        return max(place.now(), earliest).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError) as error:  # the end of time, or none
        raise LedgerError(
            f"the last move of {environment} says that it was made {last.moved!r}, after which nothing can be: it was not made "
            f"by Forge; `forge verify release/{environment}` says who signed it"
        ) from error


def _now(place: Place) -> str:
    return place.now().isoformat(timespec="milliseconds")
