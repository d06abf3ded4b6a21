"""Verify a subject: ``model/NAME``, ``release/ENV`` or an artifact's digest. The one entry to this room."""

import tempfile
from pathlib import Path

from forge.admission.evidence import Evidence, collect
from forge.admission.rules import Judgement, judge, judge_gate
from forge.admission.verdict import Check, Finding, Rule, Verdict
from forge.attest.trust import TrustRoot
from forge.attest.weights import verify_weights
from forge.canonical import is_digest
from forge.contract.kinds import StepKind
from forge.contract.record import Record, Release
from forge.errors import StoreError, TrustError, UsageError
from forge.ledger.ledger import Snapshot
from forge.repo.repository import Repository
from forge.store.store import Store


def verify(subject: str, repository: Repository, snapshot: Snapshot, store: Store, root: TrustRoot) -> Verdict:
    """Check everything that a subject rests on; raises UsageError for a subject that the ledger does not know.

    A model must have passed a gate to hold: use its digest to check a chain that ends before one.
    """
    kind, _, name = subject.partition("/")
    release: Release | None = None
    if is_digest(subject):
        roots = _makers(snapshot, subject)
        weights = None
    elif kind == "release" and name:
        release = snapshot.release(name)
        if release is None:
            raise UsageError(f"nothing was ever released to {name!r}")
        record = snapshot.record(release.key)
        if record is None:
            raise TrustError(f"release/{name}: the ledger has no record of the release step {release.key}")
        roots, weights = [record], record.inputs["weights"]
    elif kind == "model" and name:
        trained = snapshot.latest(f"{StepKind.TRAIN}/{name}")
        if trained is None:
            raise UsageError(f"no model {name!r} was ever trained here: `forge plan` shows what would be")
        weights = trained.products["weights"]
        release = _release_of(snapshot, weights)
        roots = [trained]
        if release is not None:
            released = snapshot.record(release.key)
            roots = [trained, *([released] if released else [])]
    else:
        raise UsageError(f"not a subject: {subject!r}; expected model/NAME, release/ENVIRONMENT or sha256:DIGEST")
    evidence = collect(repository, snapshot, store, roots, release)
    judgements = judge(evidence, root, release)
    judgements += _judge_weights(evidence, store, root)
    if weights is not None:
        judgements += _judge_gates(evidence, weights)
    return Verdict(
        subject,
        root.describe(),
        tuple(item for item in judgements if isinstance(item, Check)),
        tuple(item for item in judgements if isinstance(item, Finding)),
        release.release if release else None,
    )


def _makers(snapshot: Snapshot, digest: str) -> list[Record]:
    for sequence in range(snapshot.head[0], 0, -1):
        entry = snapshot.entry(sequence)
        if entry is not None and isinstance(entry.body, Record) and digest in entry.body.products.values():
            return [entry.body]
    raise UsageError(f"no recorded step made {digest}")


def _release_of(snapshot: Snapshot, weights: str) -> Release | None:
    """The newest release of these weights, of whichever environment."""
    for sequence in range(snapshot.head[0], 0, -1):
        entry = snapshot.entry(sequence)
        if entry is not None and isinstance(entry.body, Release):
            record = snapshot.record(entry.body.key)
            if record is not None and record.inputs.get("weights") == weights:
                return entry.body
    return None


def _judge_gates(evidence: Evidence, weights: str) -> list[Judgement]:
    gates = [record for record in evidence.records.values() if record.step is StepKind.GATE]
    if not gates:
        return [Finding(Rule.GATE, weights, "these weights have passed no gate")]
    readable = [gate for gate in gates if gate.products["verdict"] in evidence.documents]
    return [judgement for gate in readable for judgement in judge_gate(gate, weights, evidence)]


def _judge_weights(evidence: Evidence, store: Store, root: TrustRoot) -> list[Judgement]:
    judgements: list[Judgement] = []
    for record in evidence.records.values():
        if record.step is not StepKind.TRAIN or record.products["weights"] not in evidence.manifests:
            continue
        signature = evidence.attestations.get(record.attestations.get("weights-signature", ""))
        if signature is None:
            judgements.append(Finding(Rule.SIGNATURE, record.step_id, "its weights carry no OpenSSF signature"))
            continue
        try:
            with tempfile.TemporaryDirectory() as scratch:
                store.lay_out(record.products["weights"], Path(scratch))
                verify_weights(Path(scratch), signature, root.weights)
        except (TrustError, StoreError) as error:
            judgements.append(Finding(Rule.SIGNATURE, f"{record.step_id} weights", str(error)))
        else:
            judgements.append(Check(Rule.SIGNATURE, f"the weights of {record.step_id} carry a valid OpenSSF model signature"))
    return judgements
