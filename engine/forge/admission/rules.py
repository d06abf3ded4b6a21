"""The rules of admission, as pure functions over collected evidence.

1. Ledger: nothing at fault while collecting; entries form one chain (checked there, entry by entry).
2. Each record of the closure: identity, commit, materials, signatures, statements.
3. Each artifact of the closure: its bytes hash to its name (checked while collecting).
4. A training that was continued: the ledger names the checkpoint for a run whose key differs from this one's in
   ``training.tokens`` alone, and which ``spec.extend`` allows to continue; that run's record is verified as in 2, but for
   its bytes.
5. Retirement: whoever may release to an environment signed that it serves nothing from now on.
6. Release: names this model, policy and verdict; the verdict is GO, and the thresholds of the gate's record, evaluated
   again over the reports of this very model, agree.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from pydantic import ValidationError

from forge.admission.evidence import Evidence, signers_of
from forge.admission.history import History
from forge.admission.signed import Read
from forge.admission.verdict import Check, Finding, Rule
from forge.attest.envelope import unseal
from forge.attest.statements import (
    VERIFICATION_RESULT,
    payloads_of,
    release_statement,
    retirement_statement,
    statement_name,
)
from forge.contract.kinds import STEPS, StepKind
from forge.contract.messages import Continued, FailureCause
from forge.contract.record import Attempt, Record, Release, Retirement
from forge.contract.release import ReleaseDocument
from forge.contract.verdict import Decision, Report, check
from forge.contract.verdict import Verdict as GateVerdict
from forge.errors import TrustError
from forge.ledger.entry import sequence_path
from forge.plan.step import FromCommit, FromStep, Step, producers_of, step_key
from forge.spec.deployment import Gate
from forge.spec.extend import earlier_runs, why_not_extended
from forge.spec.meaning import RELOAD, meaningful

Judgement = Finding | Check
_Opened = dict[str, bytes | TrustError]
"""By the name under which a record lists it."""
_MANY = 50
"""As many records are opened at a time; of fewer than that, none in a thread."""


def judge(evidence: Evidence, history: History, release: Release | None) -> list[Judgement]:
    """All checks and findings about the evidence."""
    judgements: list[Judgement] = list(evidence.findings)
    if not any(finding.rule is Rule.LEDGER for finding in evidence.findings):
        judgements.append(Check(Rule.LEDGER, f"{len(evidence.entries)} entries form one chain; every object has its own bytes"))
    records = sorted(evidence.records.values(), key=lambda record: record.started)
    for record, opened in zip(records, _open_all(records, evidence, history), strict=True):
        found = list(_judge_record(record, evidence, opened, history))
        judgements.extend(found or [Check(Rule.SIGNATURE, _held(record, evidence, history))])
    for (_key, checkpoint), record in evidence.continued.items():
        found = list(_judge_record(record, evidence, _open(record, evidence, history), history))
        judgements.extend(
            found or [Check(Rule.MATERIAL, f"{checkpoint} is a checkpoint of {_held(record, evidence, history)}")]
        )
    whole = [manifest for digest, manifest in evidence.manifests.items() if digest not in evidence.beside]
    size = sum(manifest.size for manifest in whole)
    judgements.append(Check(Rule.BYTES, f"{len(whole)} artifacts hashed from their bytes ({size:,} bytes)"))
    if release is not None:
        found = list(judge_move(release, evidence, history))
        judgements.extend(
            found or [Check(Rule.RELEASE, f"{release.environment} serves {release.release}, as its releaser signed")]
        )
    return judgements


def _open_all(records: Sequence[Record], evidence: Evidence, history: History) -> list[_Opened]:
    """What the records' statements hold, each read by threads of its own: checking signatures leaves the interpreter free."""
    if len(records) < _MANY:
        return [_open(record, evidence, history) for record in records]
    batches = [records[start : start + _MANY] for start in range(0, len(records), _MANY)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        opened = pool.map(lambda batch: [_open(record, evidence, history) for record in batch], batches)
        return [item for batch in opened for item in batch]


def _open(record: Record, evidence: Evidence, history: History) -> _Opened:
    """The payload of each of a record's envelopes that is there, or why it cannot be believed."""
    opened: _Opened = {}
    for name in (statement_name(record.step), VERIFICATION_RESULT, "link"):
        sealed = evidence.attestations.get(record.attestations.get(name, ""))
        if sealed is not None:
            place = f"{record.step_id} {name}"
            try:
                opened[name] = unseal(sealed, signers_of(record, record.step, evidence, history), place)
            except TrustError as error:
                opened[name] = TrustError(str(error).removeprefix(f"{place}: "))
    return opened


def judge_retirement(retirement: Retirement, evidence: Evidence, history: History) -> list[Judgement]:
    """Whether the releaser signed that an environment is retired; else whoever can write the ref could end its service."""
    place = f"retirement of {retirement.environment}"
    unread = [finding for finding in evidence.findings if finding.rule is not Rule.LEDGER]
    sealed = evidence.attestations.get(retirement.attestations.get("retirement", ""))
    if sealed is None:
        unsigned = Finding(Rule.SIGNATURE, place, "the retirement is not signed")
        return [*unread] if "retirement" in retirement.attestations else [unsigned]
    try:
        signers = signers_of(retirement, StepKind.RELEASE, evidence, history)
        if unseal(sealed, signers, place) != retirement_statement(retirement):
            return [Finding(Rule.STATEMENT, place, "what was signed is not what the ledger says")]
    except TrustError as error:
        return [Finding(Rule.SIGNATURE, place, str(error).removeprefix(f"{place}: "))]
    return [
        Check(Rule.RELEASE, f"{retirement.environment} was retired by commit {retirement.commit}, signed by {signers.role}")
    ]


def judge_moves(environment: str, evidence: Evidence, history: History, read: Read) -> Iterator[Finding]:
    """Whether each signed move of an environment's pointer is later than the one before, so that none was appended again.

    What nobody signed is no move, and another environment is another matter.
    """
    before: Release | Retirement | None = None
    for entry in evidence.entries:
        body = entry.body
        if not isinstance(body, Release | Retirement) or body.environment != environment:
            continue
        if not history.is_signed(entry, read):
            continue
        if before is not None and body.moved <= before.moved:
            message = f"a {body.kind} of {environment} moved {body.moved} follows one of {before.moved}"
            yield Finding(Rule.LEDGER, sequence_path(entry.sequence), message)
        before = body


def record_holds(record: Record, evidence: Evidence, history: History) -> bool:
    """Whether a record is what its commit asks for, and signed; its artifacts' bytes are another matter."""
    return next(_judge_record(record, evidence, _open(record, evidence, history), history), None) is None


def judge_gate(gate: Record, weights: str, evidence: Evidence) -> list[Judgement]:
    """Whether a gate's verdict is GO for these weights, evaluated again from the reports."""
    try:
        return _judge_gate(gate, weights, evidence)
    except (KeyError, ValueError) as error:  # a ValidationError is a ValueError
        return [Finding(Rule.GATE, gate.step_id, f"its record, reports or verdict cannot be read: {error!r}")]


def _judge_gate(gate: Record, weights: str, evidence: Evidence) -> list[Judgement]:
    reports = []
    for index in range(len(gate.inputs)):
        digest = gate.inputs[f"report-{index}"]
        makers = evidence.makers.get(digest, ())
        if not makers or digest not in evidence.documents:
            return [Finding(Rule.GATE, gate.step_id, f"report-{index} ({digest}) is not a report that could be read")]
        if not any(maker.step is StepKind.EVALUATE and maker.inputs.get("weights") == weights for maker in makers):
            about = ", ".join(sorted(maker.inputs.get("weights", "nothing") for maker in makers))
            message = f"report-{index} is about {about}, not about these weights ({weights})"
            return [Finding(Rule.GATE, gate.step_id, message)]
        reports.append(Report.model_validate_json(evidence.documents[digest]))
    again = check([Gate.model_validate(item) for item in gate.parameters["gates"]], reports)
    if gate.products["verdict"] not in evidence.documents:
        return [Finding(Rule.GATE, gate.step_id, f"its verdict ({gate.products['verdict']}) could not be read")]
    stated = GateVerdict.model_validate_json(evidence.documents[gate.products["verdict"]])
    if again != stated:
        return [Finding(Rule.GATE, gate.step_id, f"it states {stated.verdict}, but its reports give {again.verdict}")]
    figures = "; ".join(f"{c.task} {c.metric} {c.value} ({c.bound} {c.threshold:g})" for c in again.checks)
    if again.verdict is not Decision.GO:
        return [Finding(Rule.GATE, gate.step_id, f"{again.verdict}: {figures}")]
    return [Check(Rule.GATE, f"{gate.step_id} is GO for these very weights: {figures}")]


def _held(record: Record, evidence: Evidence, history: History) -> str:
    role = history.authority(evidence.sequence(record)).role_of(record.step)
    return f"{record.step_id} (commit {record.commit[:12]}) is signed by {role.value}"


def _judge_record(record: Record, evidence: Evidence, opened: _Opened, history: History) -> Iterator[Finding]:
    name = record.step_id
    outdated = history.outdated(evidence.sequence(record), record)
    if outdated is not None:
        yield Finding(Rule.SIGNATURE, name, outdated)
    if step_key(record.step, record.step_version, record.parameters, record.inputs) != record.key:
        yield Finding(Rule.IDENTITY, name, f"its key {record.key} is not the digest of its step, parameters and inputs")
    step = evidence.graphs.get(record.commit, {}).get(name)
    if step is None:
        if record.commit in evidence.graphs:
            yield Finding(Rule.COMMIT, name, f"commit {record.commit} asks for no such step")
        return
    if record.step is not step.kind or record.products.keys() != set(STEPS[step.kind].products):
        yield Finding(Rule.COMMIT, name, f"a {step.kind.value} step is asked for; the record is of a {record.step.value} step")
        return
    if dict(step.parameters) != record.parameters:
        yield Finding(Rule.COMMIT, name, f"commit {record.commit} gives it other parameters than the record has")
    if set(step.inputs) != set(record.inputs):
        yield Finding(Rule.MATERIAL, name, "it reads other inputs than its commit asks for")
        return  # no statement can be made of it
    yield from _judge_materials(record, step, evidence)
    yield from _judge_continuation(record, evidence)
    yield from _judge_attestations(record, step, evidence, opened)


def _judge_materials(record: Record, step: Step, evidence: Evidence) -> Iterator[Finding]:
    for name, digest in record.inputs.items():
        source = step.inputs[name]
        place = f"{record.step_id} {name}"
        if isinstance(source, FromCommit):
            expected = source.bundle.digest
            if expected != digest:
                message = f"the record read {digest}, but the files of commit {record.commit} give {expected}"
                yield Finding(Rule.COMMIT, place, message)
            if record.sources.get(name) != source.bundle.sources:
                yield Finding(Rule.COMMIT, place, "the record names other files than the commit")
            continue
        if not _is_made_by(source, digest, record.commit, evidence):
            yield Finding(Rule.MATERIAL, place, f"{digest} is no recorded product of {source.step_id}")


def _judge_continuation(record: Record, evidence: Evidence) -> Iterator[Finding]:
    continued, place = record.continued, f"{record.step_id} continued"
    if continued is None:
        return
    training = record.parameters.get("training")
    if record.step is not StepKind.TRAIN or not isinstance(training, Mapping):
        yield Finding(Rule.MATERIAL, place, f"a {record.step.value} step continues no checkpoint")
        return
    runs = list(earlier_runs(record.parameters, continued.tokens))
    keys = [step_key(record.step, record.step_version, parameters, record.inputs) for parameters in runs]
    if continued.key not in keys:
        others = ", nor that of a run that it branches from" if len(runs) > 1 else ""
        message = (
            f"step key {continued.key} is not this step's with training.tokens {continued.tokens:,}{others}: other parameters "
            "or inputs"
        )
        yield Finding(Rule.MATERIAL, place, message)
    reason = why_not_extended(runs[keys.index(continued.key) if continued.key in keys else 0], record.parameters)
    if reason:
        yield Finding(Rule.MATERIAL, place, f"it is no continuation of a run of {continued.tokens:,} tokens: {reason}")
    if not any(_names_checkpoint(entry.body, continued) for entry in evidence.entries):
        message = f"no record of step key {continued.key} names the checkpoint {continued.checkpoint}"
        yield Finding(Rule.MATERIAL, place, message)


def _names_checkpoint(body: object, continued: Continued) -> bool:
    """Whether a finished run left this checkpoint, or one that was stopped to be continued under another key."""
    match body:
        case Record() | Attempt(cause=FailureCause.STOPPED):
            return body.key == continued.key and body.byproducts.get(continued.byproduct) == continued.checkpoint
    return False


def _is_made_by(source: FromStep, digest: str, commit: str, evidence: Evidence) -> bool:
    """Whether a record made it that this very commit asks for: same kind, parameters and inputs, all the way up.

    Not the step's id: two deployments with equal gates share one record. Not merely a recorded product: a gate of another
    commit could have laxer thresholds.
    """
    place = (commit, source.step_id, source.product, digest)
    if place not in evidence.made:
        step = evidence.graphs[commit][source.step_id]
        likely = evidence.by_step.get((digest, source.step_id))  # a thousand evaluations may give one report
        evidence.made[place] = any(
            record.products.get(source.product) == digest and _is_asked_for(record, step, commit, evidence)
            for record in chain([likely] if likely is not None else [], evidence.makers.get(digest, ()))
        )
    return evidence.made[place]


def _is_asked_for(record: Record, step: Step, commit: str, evidence: Evidence) -> bool:
    return (
        record.step is step.kind
        and record.parameters == dict(step.parameters)
        and record.inputs.keys() == step.inputs.keys()
        and all(
            source.bundle.digest == record.inputs[name]
            if isinstance(source, FromCommit)
            else _is_made_by(source, record.inputs[name], commit, evidence)
            for name, source in step.inputs.items()
        )
    )


def _judge_attestations(record: Record, step: Step, evidence: Evidence, opened: _Opened) -> Iterator[Finding]:
    producers = producers_of(step)
    is_whole = all(digest in evidence.manifests for digest in (*record.inputs.values(), *record.products.values()))
    # else the damaged artifact is a finding of its own, or of a run that was continued only the statement is compared
    expected = payloads_of(record, evidence.manifests if is_whole else None, producers, evidence.documents)
    for name, payload in expected.items():
        place = f"{record.step_id} {name}"
        signed = opened.get(name)
        if signed is None:
            if name not in record.attestations:
                yield Finding(Rule.SIGNATURE, place, "the record has no such attestation")
        elif isinstance(signed, TrustError):
            yield Finding(Rule.SIGNATURE, place, str(signed))
        elif signed != payload:
            yield Finding(Rule.STATEMENT, place, "what was signed is not what the record and its artifacts say")


def judge_move(release: Release, evidence: Evidence, history: History) -> Iterator[Finding]:
    """Whether a release is signed, and what its commit asks for; its document is judged where it was read."""
    place = f"release of {release.environment}"
    sealed = evidence.attestations.get(release.attestations.get("release", ""))
    if sealed is None:
        if "release" not in release.attestations:
            yield Finding(Rule.SIGNATURE, place, "the pointer's move is not signed")
    else:
        try:
            if unseal(sealed, signers_of(release, StepKind.RELEASE, evidence, history), place) != release_statement(release):
                yield Finding(Rule.STATEMENT, place, "what was signed is not what the ledger says")
        except TrustError as error:
            yield Finding(Rule.SIGNATURE, place, str(error).removeprefix(f"{place}: "))
    record = evidence.records.get(release.key)
    if record is None or record.products.get("release") != release.release:
        yield Finding(Rule.RELEASE, place, f"{release.release} is no product of a recorded release step")
        return
    step = evidence.graphs.get(release.commit, {}).get(f"{StepKind.RELEASE}/{release.deployment}")
    if step is None or not _is_asked_for(record, step, release.commit, evidence):
        yield Finding(Rule.COMMIT, place, f"commit {release.commit} does not ask for this release")
    if release.release in evidence.documents:  # else its bytes are a finding of their own
        yield from _judge_document(release, record, evidence.documents[release.release])


def _judge_document(release: Release, record: Record, data: bytes) -> Iterator[Finding]:
    """Whether the release artifact says what its step was given: the agent serves by it."""
    place = f"release of {release.environment}"
    try:
        document = ReleaseDocument.model_validate_json(data)
    except ValidationError as error:
        yield Finding(Rule.RELEASE, place, f"{release.release} is no release document: {error}")
        return
    if record.parameters.get("engine", {}) != meaningful(document.engine, RELOAD) or (
        document.model,
        document.policy_name,
    ) != (record.parameters.get("model"), record.parameters.get("policy")):
        yield Finding(Rule.RELEASE, place, "the release's model, policy name or engine is not what its step was given")
    stated = {"weights": document.weights, "policy": document.policy, "verdict": document.verdict}
    for name, digest in stated.items():
        if record.inputs.get(name) != digest:
            yield Finding(Rule.RELEASE, place, f"the release names {name} {digest}, its step read {record.inputs.get(name)}")
    if (document.environment, document.deployment) != (release.environment, release.deployment):
        yield Finding(Rule.RELEASE, place, f"the release is for {document.environment}/{document.deployment}")
