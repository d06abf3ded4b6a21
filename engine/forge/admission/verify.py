"""Verify a subject: ``model/NAME``, ``release/ENV``, an artifact's digest or a step key. The one entry to this room."""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass

from forge.admission.collect import (
    collect,
    collect_delegations,
    collect_governance,
    collect_plans,
    collect_reproductions,
    collect_retirement,
    collect_withdrawals,
)
from forge.admission.earlier import earlier_moves
from forge.admission.entries import collect_ledger
from forge.admission.evidence import Evidence
from forge.admission.governance import judge_governance
from forge.admission.history import History, read_history
from forge.admission.plans import Done, judge_plans
from forge.admission.registration import collect_measured
from forge.admission.rules import Judgement, judge, judge_gate, judge_moves, judge_retirement, record_holds
from forge.admission.searches import judge_searches
from forge.admission.summary import judge_subjects, judge_summary
from forge.admission.thresholds import judge_thresholds
from forge.admission.timestamps import Body, judge_timestamps, unjudged
from forge.admission.verdict import Check, Finding, Rule, Verdict, WithdrawnSubject
from forge.admission.withdrawals import judge_withdrawals
from forge.attest.timestamps import TimestampAuthority
from forge.attest.trust import TrustRoot
from forge.attest.weights import verify_weights
from forge.canonical import digest_of_bytes, is_digest
from forge.contract.hyperparameters import HYPERPARAMETERS
from forge.contract.kinds import StepKind
from forge.contract.record import Record, Release, Retirement
from forge.contract.weights import bytes_looked_at, why_refused
from forge.errors import LedgerError, RefusedError, TrustError, UsageError
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


@dataclass(frozen=True)
class Candidate:
    """A release that is about to be appended, with everything that goes into the ledger with it."""

    entries: tuple[Entry, ...]
    """What follows the ledger's head; the release is the last of its environment."""
    attestations: tuple[bytes, ...]


@dataclass(frozen=True)
class Examination:
    """A verdict with what it was reached by."""

    verdict: Verdict
    evidence: Evidence
    history: History
    release: Release | None
    """What the subject stands for, where that is a release."""


def verify(
    subject: str,
    repository: Repository,
    snapshot: Snapshot,
    store: Store,
    root: TrustRoot,
    now: datetime.datetime | None = None,
    candidate: Candidate | None = None,
    timestamps: TimestampAuthority | None = None,
) -> Verdict:
    """Check everything that a subject rests on; raises UsageError for a subject that the ledger does not know.

    Raises RetiredError for a release of an environment that was retired since; a retirement that does not hold is a finding.
    A model is the one that an environment serves now under that name; where none does, the one that was trained last, which
    cannot hold, for it has passed no gate: use its digest to check a chain that ends before one.

    ``now`` is when the layouts must not have expired yet; the time of this machine when left out. ``candidate`` is judged as if
    the ledger held it already. ``timestamps`` is whose time stamps are believed, where whoever verifies has pinned somebody.
    """
    return examine(subject, repository, snapshot, store, root, now, candidate, timestamps).verdict


def examine(
    subject: str,
    repository: Repository,
    snapshot: Snapshot,
    store: Store,
    root: TrustRoot,
    now: datetime.datetime | None = None,
    candidate: Candidate | None = None,
    timestamps: TimestampAuthority | None = None,
) -> Examination:
    """As ``verify``; also what was looked at."""
    evidence = collect_ledger(repository, snapshot)
    if evidence.findings:  # nothing is looked up in a ledger that is at fault
        verdict = Verdict(subject, root.describe(), (), tuple(evidence.findings))
        return Examination(verdict, evidence, History(root, root), None)
    if candidate is not None:
        evidence.entries += candidate.entries
        evidence.attestations |= {str(digest_of_bytes(data)): data for data in candidate.attestations}
        evidence.locate(candidate.entries)
    collect_delegations(snapshot, evidence)
    history = read_history(evidence.entries, evidence.attestations, root, timestamps, evidence.reader(snapshot), now)
    past = _Past(evidence.entries)
    retirement = past.retirement(subject)
    if retirement is not None:
        collect_retirement(snapshot, evidence, retirement)
        judged = [*history.findings, *judge_retirement(retirement, evidence, history)]
        judged += judge_moves(retirement.environment or "", evidence, history, evidence.reader(snapshot))
        judged += judge_timestamps([retirement], evidence, history)
        findings = tuple(item for item in judged if isinstance(item, Finding))
        if findings:
            return Examination(Verdict(subject, history.describe(), (), findings), evidence, history, None)
        raise RetiredError(retirement)
    roots, weights, release = _resolve(subject, past)
    collect(repository, snapshot, store, evidence, roots, release)
    moves = earlier_moves(repository, snapshot, evidence, history)
    if release is not None:
        collect_governance(repository, snapshot, evidence, history, release, moves)
        collect_measured(repository, snapshot, evidence, history, release)
    done = [Done(body, evidence.sequence(body)) for body in (*evidence.records.values(), *evidence.continued.values())]
    done += [Done(release, evidence.sequence(release))] if release is not None else []
    bodies: list[Body] = [each.body for each in done]
    collect_plans(repository, snapshot, evidence, history, done, moves)
    judgements = [*history.findings, *history.checks(), *judge(evidence, history, release)]
    judgements += _judge_records(evidence, snapshot, store, history)
    if release is not None:
        judgements += judge_moves(release.environment, evidence, history, evidence.reader(snapshot))
        judgements += judge_summary(release, evidence, history)
        judgements += judge_governance(release, evidence, history, now or datetime.datetime.now(datetime.UTC))
    judgements += judge_plans(done, evidence.entries, evidence.attestations, evidence.plan_authors, history)
    judgements += judge_timestamps(bodies, evidence, history)
    collect_withdrawals(repository, snapshot, evidence, history)
    found, withdrawn = judge_withdrawals(evidence, history, roots, release)
    judgements += found
    collect_reproductions(repository, snapshot, evidence)
    judgements += judge_thresholds(release, evidence, history)
    if weights is not None:
        released = evidence.records.get(release.key) if release else None
        judgements += _judge_gates(evidence, weights, released.inputs.get("verdict") if released else None)
    blind = unjudged(bodies, history)
    verdict = Verdict(
        subject,
        history.describe() + (f"; {blind} time stamps were not judged: no authority is pinned here (tsa.pem)" if blind else ""),
        tuple(item for item in judgements if isinstance(item, Check)),
        tuple(item for item in judgements if isinstance(item, Finding)),
        release.release if release else None,
        withdrawn,
    )
    return Examination(verdict, evidence, history, release)


def withdrawn_from(
    release: str,
    repository: Repository,
    snapshot: Snapshot,
    root: TrustRoot,
    timestamps: TimestampAuthority | None = None,
) -> tuple[WithdrawnSubject, ...]:
    """What is withdrawn of all that a release (the digest of its artifact) descends from; no bytes are read.

    For an agent that serves it: neither a store that is away nor a ledger that is at fault elsewhere must keep a service up. So
    what cannot be read is passed over; what is told is signed all the same.
    """
    evidence = collect_ledger(repository, snapshot)
    collect_delegations(snapshot, evidence)
    history = read_history(evidence.entries, evidence.attestations, root, timestamps, evidence.reader(snapshot))
    past = _Past(evidence.entries)
    moves = [move for move in past.releases if move.release == release]
    roots = [record for record in past.records if record.products.get("release") == release]
    collect(repository, snapshot, None, evidence, roots, moves[-1] if moves else None)
    collect_withdrawals(repository, snapshot, evidence, history)
    honest = [record for record in roots if record_holds(record, evidence, history)]  # anybody can say what made a release
    return judge_withdrawals(evidence, history, honest or roots, moves[-1] if moves else None)[1]


class _Past:
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

    def trained(self, name: str) -> tuple[Record | None, Record | None]:
        """What picked a model's weights, where a search did, and the newest training that they are of.

        That is the model's own, or the trial's that was picked.
        """
        own = self.by_step.get(f"{StepKind.TRAIN}/{name}")
        found = [own]
        pick = self.by_step.get(f"{StepKind.SWEEP}/{name}")
        for record in self.records if pick is not None else ():
            is_trial = record.step is StepKind.TRAIN and record.step_id.rpartition(".")[0] == f"{StepKind.TRAIN}/{name}"
            if is_trial and pick is not None and record.inputs.get(HYPERPARAMETERS) == pick.products[HYPERPARAMETERS]:
                found.append(record)
        newest = max((record for record in found if record is not None), key=self.records.index, default=None)
        return (pick if newest is not None and HYPERPARAMETERS in newest.inputs else None), newest

    def retirement(self, subject: str) -> Retirement | None:
        """What retired the environment of ``release/ENVIRONMENT``, where nothing was released to it since."""
        newest = next((move for move in reversed(self.moves) if f"release/{move.environment}" == subject), None)
        return newest if isinstance(newest, Retirement) else None


def _resolve(subject: str, past: _Past) -> tuple[list[Record], str | None, Release | None]:
    """The records that a subject stands for, the weights that gates must be about, and the release, if any."""
    kind, _, name = subject.partition("/")
    if is_digest(subject):
        if subject in past.by_key:
            return [past.by_key[subject]], None, None
        if subject not in past.makers:
            raise UsageError(f"no recorded step made {subject}")
        return [past.makers[subject]], None, None
    if kind == "release" and name:
        release = next((move for move in reversed(past.releases) if move.environment == name), None)
        if release is None:
            raise UsageError(f"nothing was ever released to {name!r}")
        record = past.by_key.get(release.key)
        if record is None or "weights" not in record.inputs:
            raise TrustError(f"release/{name}: the ledger has no record of the release step {release.key}")
        return [record], record.inputs["weights"], release
    if kind == "model" and name:
        for release in past.current_releases():
            record = past.by_key.get(release.key)
            if record is not None and "weights" in record.inputs and record.parameters.get("model") == name:
                return [record], record.inputs["weights"], release
        *picks, trained = past.trained(name)
        if trained is None or "weights" not in trained.products:
            raise UsageError(f"no model {name!r} was ever trained here: `forge plan` shows what would be")
        return [trained, *(pick for pick in picks if pick is not None)], trained.products["weights"], None
    raise UsageError(f"not a subject: {subject!r}; expected model/NAME, release/ENVIRONMENT or sha256:DIGEST")


def _judge_gates(evidence: Evidence, weights: str, verdict: str | None) -> list[Judgement]:
    """The gate that made the release's verdict must be GO for these weights; one that does so is enough."""
    gates = [record for record in evidence.records.values() if record.products.get("verdict") == verdict and verdict]
    judged = [judge_gate(gate, weights, evidence) for gate in gates if gate.step is StepKind.GATE]
    if not judged:
        return [Finding(Rule.GATE, weights, "these weights have passed no gate")]
    passed = [judgements for judgements in judged if not any(isinstance(item, Finding) for item in judgements)]
    return passed[0] if passed else judged[0]


def _judge_records(evidence: Evidence, snapshot: Snapshot, store: Store, history: History) -> list[Judgement]:
    """What is asked of records besides signatures and bytes: their weights, what gates are about, and their locks."""
    judgements: list[Judgement] = [*_judge_weights(evidence, store, history), *judge_subjects(evidence)]
    judgements += judge_searches(evidence, history)
    for lock in sorted({record.lock for record in evidence.records.values() if record.lock is not None}):
        if lock in evidence.attestations:  # of a candidate, which brings it along
            continue
        try:
            snapshot.attestation(lock)
        except LedgerError as error:
            judgements.append(Finding(Rule.STATEMENT, f"lock {lock}", str(error)))
    return judgements


def _judge_weights(evidence: Evidence, store: Store, history: History) -> Iterable[Judgement]:
    """Weights are signed file by file, and hold nothing that runs when it is loaded. Their bytes were hashed already."""
    for record in evidence.records.values():
        digest = record.products.get("weights", "")
        if record.step is not StepKind.TRAIN or digest not in evidence.manifests:
            continue
        place, manifest = f"{record.step_id} weights", evidence.manifests[digest]
        for file in manifest.files if digest not in evidence.beside else ():
            refusal = why_refused(file.path, file.size, store.head(digest, file.path, bytes_looked_at(file.path, file.size)))
            if refusal is not None:
                yield Finding(Rule.FORMAT, place, refusal)
        name = record.attestations.get("weights-signature")
        signature = evidence.attestations.get(name or "")
        if signature is None:
            if name is None:  # one that is named and could not be read is a finding of its own
                yield Finding(Rule.SIGNATURE, record.step_id, "its weights carry no OpenSSF signature")
            continue
        try:
            sequence = evidence.sequence(record)
            keys = history.authority(sequence).weights_keys(history.moment(sequence, record.finished))
            verify_weights(manifest, signature, keys)
        except TrustError as error:
            yield Finding(Rule.SIGNATURE, place, str(error))
        else:
            yield Check(Rule.SIGNATURE, f"the weights of {record.step_id} carry a valid OpenSSF model signature")
