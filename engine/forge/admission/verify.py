"""Verify a subject: ``model/NAME``, ``release/ENV`` or an artifact's digest. The one entry to this room."""

import tempfile
from pathlib import Path

from forge.admission.evidence import Evidence, collect, collect_ledger
from forge.admission.rules import Judgement, judge, judge_gate
from forge.admission.verdict import Check, Finding, Rule, Verdict
from forge.attest.trust import TrustRoot
from forge.attest.weights import verify_weights
from forge.canonical import is_digest
from forge.contract.kinds import StepKind
from forge.contract.record import Record, Release, Retirement
from forge.errors import StoreError, TrustError, UsageError
from forge.ledger.entry import Entry
from forge.ledger.ledger import Snapshot
from forge.repo.repository import Repository
from forge.store.store import Store


def verify(subject: str, repository: Repository, snapshot: Snapshot, store: Store, root: TrustRoot) -> Verdict:
    """Check everything that a subject rests on; raises UsageError for a subject that the ledger does not know.

    A model is the one that an environment serves now under that name; where none does, the one that was trained last, which
    cannot hold, for it has passed no gate: use its digest to check a chain that ends before one.
    """
    evidence = collect_ledger(repository, snapshot)
    if evidence.findings:  # nothing is looked up in a ledger that is at fault
        return Verdict(subject, root.describe(), (), tuple(evidence.findings))
    history = _History(evidence.entries)
    roots, weights, release = _resolve(subject, history)
    collect(repository, snapshot, store, evidence, roots, release)
    judgements = judge(evidence, root, release)
    judgements += _judge_weights(evidence, store, root)
    if weights is not None:
        judgements += _judge_gates(evidence, weights, release)
    return Verdict(
        subject,
        root.describe(),
        tuple(item for item in judgements if isinstance(item, Check)),
        tuple(item for item in judgements if isinstance(item, Finding)),
        release.release if release else None,
    )


class _History:
    """The entries of a whole ledger, by what a subject is looked up with; later entries win."""

    def __init__(self, entries: list[Entry]) -> None:
        bodies = [entry.body for entry in entries]
        self.records = [body for body in bodies if isinstance(body, Record)]
        self.releases = [body for body in bodies if isinstance(body, Release)]
        moves = [body for body in bodies if isinstance(body, Release | Retirement) and body.environment is not None]
        self.pointers = {move.environment: move for move in moves}
        """What moved each environment's pointer last."""
        self.by_key = {record.key: record for record in self.records}
        self.by_step = {record.step_id: record for record in self.records}
        self.makers = {digest: record for record in self.records for digest in record.products.values()}

    def current_releases(self) -> list[Release]:
        """What each environment's pointer names now, the newest move first."""
        newest = [move for move in self.pointers.values() if isinstance(move, Release)]
        return sorted(newest, key=self.releases.index, reverse=True)


def _resolve(subject: str, history: _History) -> tuple[list[Record], str | None, Release | None]:
    """The records that a subject stands for, the weights that gates must be about, and the release, if any."""
    kind, _, name = subject.partition("/")
    if is_digest(subject):
        if subject not in history.makers:
            raise UsageError(f"no recorded step made {subject}")
        return [history.makers[subject]], None, None
    if kind == "release" and name:
        release = history.pointers.get(name)
        if release is None:
            raise UsageError(f"nothing was ever released to {name!r}")
        if isinstance(release, Retirement):
            raise UsageError(
                f"{release.subject}, which {name!r} served, is retired since {release.moved}: nothing is released to it"
            )
        record = history.by_key.get(release.key)
        if record is None or "weights" not in record.inputs:
            raise TrustError(f"release/{name}: the ledger has no record of the release step {release.key}")
        return [record], record.inputs["weights"], release
    if kind == "model" and name:
        for release in history.current_releases():
            record = history.by_key.get(release.key)
            if record is not None and "weights" in record.inputs and record.parameters.get("model") == name:
                return [record], record.inputs["weights"], release
        trained = history.by_step.get(f"{StepKind.TRAIN}/{name}")
        if trained is None or "weights" not in trained.products:
            raise UsageError(f"no model {name!r} was ever trained here: `forge plan` shows what would be")
        return [trained], trained.products["weights"], None
    raise UsageError(f"not a subject: {subject!r}; expected model/NAME, release/ENVIRONMENT or sha256:DIGEST")


def _judge_gates(evidence: Evidence, weights: str, release: Release | None) -> list[Judgement]:
    """The gate that made the release's verdict must be GO for these weights; one that does so is enough."""
    released = evidence.records.get(release.key) if release else None
    verdict = released.inputs.get("verdict") if released else None
    gates = [record for record in evidence.records.values() if record.products.get("verdict") == verdict and verdict]
    judged = [judge_gate(gate, weights, evidence) for gate in gates if gate.step is StepKind.GATE]
    if not judged:
        return [Finding(Rule.GATE, weights, "these weights have passed no gate")]
    passed = [judgements for judgements in judged if not any(isinstance(item, Finding) for item in judgements)]
    return passed[0] if passed else judged[0]


def _judge_weights(evidence: Evidence, store: Store, root: TrustRoot) -> list[Judgement]:
    judgements: list[Judgement] = []
    for record in evidence.records.values():
        if record.step is not StepKind.TRAIN or record.products.get("weights") not in evidence.manifests:
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
