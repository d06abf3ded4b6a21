"""Verify a subject: ``model/NAME``, ``release/ENV`` or an artifact's digest. The one entry to this room."""

import tempfile
from pathlib import Path

from forge.admission.evidence import Evidence, collect, collect_ledger, collect_retirement, collect_withdrawals
from forge.admission.rules import Judgement, judge, judge_gate, judge_retirement
from forge.admission.verdict import Check, Finding, Rule, Verdict, WithdrawnSubject
from forge.admission.withdrawals import judge_withdrawals
from forge.attest.trust import TrustRoot
from forge.attest.weights import verify_weights
from forge.canonical import is_digest
from forge.contract.kinds import StepKind
from forge.contract.record import Record, Release, Retirement
from forge.errors import RefusedError, StoreError, TrustError, UsageError
from forge.ledger.entry import Entry
from forge.ledger.ledger import Snapshot
from forge.repo.repository import Repository
from forge.store.store import Store


class RetiredError(RefusedError):
    """An environment serves nothing: its deployment was retired, and the releaser signed that."""

    def __init__(self, retirement: Retirement) -> None:
        self.retirement = retirement
        super().__init__(
            f"{retirement.environment!r} serves nothing: commit {retirement.commit} retired {retirement.subject} "
            f"({retirement.moved}). A commit that asks for a Deployment to it again, and `forge apply`, release anew"
        )


def verify(subject: str, repository: Repository, snapshot: Snapshot, store: Store, root: TrustRoot) -> Verdict:
    """Check everything that a subject rests on; raises UsageError for a subject that the ledger does not know.

    Raises RetiredError for a release of an environment that was retired since; a retirement that does not hold is a finding.
    A model is the one that an environment serves now under that name; where none does, the one that was trained last, which
    cannot hold, for it has passed no gate: use its digest to check a chain that ends before one.
    """
    evidence = collect_ledger(repository, snapshot)
    if evidence.findings:  # nothing is looked up in a ledger that is at fault
        return Verdict(subject, root.describe(), (), tuple(evidence.findings))
    history = _History(evidence.entries)
    retirement = history.retirement(subject)
    if retirement is not None:
        collect_retirement(snapshot, evidence, retirement)
        judged = judge_retirement(retirement, evidence, root)
        findings = tuple(item for item in judged if isinstance(item, Finding))
        if findings:
            return Verdict(subject, root.describe(), (), findings)
        raise RetiredError(retirement)
    roots, weights, release = _resolve(subject, history)
    collect(repository, snapshot, store, evidence, roots, release)
    judgements = judge(evidence, root, release)
    judgements += _judge_weights(evidence, store, root)
    collect_withdrawals(repository, snapshot, evidence)
    found, withdrawn = judge_withdrawals(evidence, root, roots, release)
    judgements += found
    if weights is not None:
        judgements += _judge_gates(evidence, weights, release)
    return Verdict(
        subject,
        root.describe(),
        tuple(item for item in judgements if isinstance(item, Check)),
        tuple(item for item in judgements if isinstance(item, Finding)),
        release.release if release else None,
        withdrawn,
    )


def withdrawn_from(release: str, repository: Repository, snapshot: Snapshot, root: TrustRoot) -> tuple[WithdrawnSubject, ...]:
    """What is withdrawn of all that a release (the digest of its artifact) descends from; no bytes are read.

    For an agent that serves it: a store that is away must not keep a service up. Raises TrustError for a ledger at fault.
    """
    evidence = collect_ledger(repository, snapshot)
    if evidence.findings:
        raise TrustError("the ledger does not hold:\n" + "\n".join(f"  {finding}" for finding in evidence.findings))
    history = _History(evidence.entries)
    moves = [move for move in history.releases if move.release == release]
    roots = [record for record in history.records if record.products.get("release") == release]
    collect(repository, snapshot, None, evidence, roots, moves[-1] if moves else None)
    collect_withdrawals(repository, snapshot, evidence)
    return judge_withdrawals(evidence, root, roots, moves[-1] if moves else None)[1]


class _History:
    """The entries of a whole ledger, by what a subject is looked up with; later entries win."""

    def __init__(self, entries: list[Entry]) -> None:
        bodies = [entry.body for entry in entries]
        self.records = [body for body in bodies if isinstance(body, Record)]
        self.moves = [body for body in bodies if isinstance(body, Release | Retirement) and body.environment is not None]
        self.releases = [body for body in self.moves if isinstance(body, Release)]
        self.by_key = {record.key: record for record in self.records}
        self.by_step = {record.step_id: record for record in self.records}
        self.makers = {digest: record for record in self.records for digest in record.products.values()}

    def current_releases(self) -> list[Release]:
        """What each environment's pointer names now, the newest move first."""
        newest = {move.environment: move for move in self.moves}
        current = [move for move in newest.values() if isinstance(move, Release)]
        return sorted(current, key=self.releases.index, reverse=True)

    def retirement(self, subject: str) -> Retirement | None:
        """What retired the environment of ``release/ENVIRONMENT``, where nothing was released to it since."""
        newest = next((move for move in reversed(self.moves) if f"release/{move.environment}" == subject), None)
        return newest if isinstance(newest, Retirement) else None


def _resolve(subject: str, history: _History) -> tuple[list[Record], str | None, Release | None]:
    """The records that a subject stands for, the weights that gates must be about, and the release, if any."""
    kind, _, name = subject.partition("/")
    if is_digest(subject):
        if subject not in history.makers:
            raise UsageError(f"no recorded step made {subject}")
        return [history.makers[subject]], None, None
    if kind == "release" and name:
        release = next((move for move in reversed(history.releases) if move.environment == name), None)
        if release is None:
            raise UsageError(f"nothing was ever released to {name!r}")
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
