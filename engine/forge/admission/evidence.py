"""What a verification looks at, as a value: ``entries`` and ``collect`` fill it, ``rules`` and the others judge it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from forge.admission.approvals import Authors
from forge.admission.history import History, claimed_moment
from forge.admission.signed import Read
from forge.admission.verdict import Finding
from forge.attest.authority import Signers
from forge.contract.kinds import StepKind
from forge.contract.manifest import Manifest
from forge.contract.record import Record, Release, Retirement, Withdrawal
from forge.errors import LedgerError
from forge.ledger.entry import Body, Entry
from forge.ledger.ledger import Snapshot
from forge.plan.step import Step


@dataclass(frozen=True)
class Measured:
    """An evaluation of a release's weights, or a gate's verdict on one, as its role signed it."""

    sequence: int
    record: Record
    decision: str | None = None
    """Of a gate: ``GO`` or ``NO-GO``; None where its statements do not tell."""


@dataclass
class Evidence:
    """Everything that was loaded, and everything that could not be."""

    entries: list[Entry] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    """By step key: the subject's record and all that it descends from."""
    continued: dict[tuple[str, str], Record] = field(default_factory=dict)
    """By step key and checkpoint: the records of runs that others went on from. Their statements are verified, their bytes
    are not hashed: weights that nothing serves any more, and checkpoints, may be gone from the store."""
    attestations: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    """By artifact digest; only artifacts whose bytes were hashed and are whole, and those of ``beside``."""
    beside: set[str] = field(default_factory=set)
    """Weights of trials that a search did not pick: their files' list is in ``manifests`` as they were signed, and their bytes
    are not hashed."""
    whole: set[str] = field(default_factory=set)
    """Blobs that were hashed: what several artifacts hold is hashed once."""
    documents: dict[str, bytes] = field(default_factory=dict)
    """By artifact digest: the one small JSON file of reports, verdicts, releases and what sweeps chose."""
    graphs: dict[str, Mapping[str, Step]] = field(default_factory=dict)
    """By commit: the steps that the commit asks for."""
    charters: dict[str, Mapping[str, Any] | None] = field(default_factory=dict)
    """By commit: its SupplyChain and People; None where it has no SupplyChain."""
    authors: Authors | None = None
    """Who signed the commits that a release brings, where authors and approvers are kept apart."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """By person: what they signed of the release as a role that is kept from approving."""
    retention_days: float | None = None
    """How long the commit of the delegation in force at a release keeps records; None where that commit is not here."""
    plan_authors: dict[int, Authors | None] = field(default_factory=dict)
    """By number of an approval's entry: who wrote what the plan brings, where authors and approvers are kept apart."""
    previous: Release | None = None
    """The last release of the environment before, that had the approvals it needed."""
    goes_back_from: str | None = None
    """The commit that the environment served before, where the release's commit does not descend from it."""
    measured: tuple[Measured, ...] = ()
    """What was measured of a release's weights before it, and decided on it, in the ledger's order."""
    unfounded: dict[int, str] = field(default_factory=dict)
    """By number of an entry that lifts or softens a withdrawal: why its commit does not say so."""
    former_names: dict[str, set[str]] = field(default_factory=dict)
    """Address -> what it was called before, as the ledger notes and the commits say; known where something is withdrawn."""
    findings: list[Finding] = field(default_factory=list)
    listing: Mapping[str, str] = field(default_factory=dict)
    """Every path of the ledger's tree with its object id."""
    made: dict[tuple[str, str, str, str], bool] = field(default_factory=dict)
    """By commit, step id, product and digest: whether a record made it that the commit asks for, as far as was asked."""
    _places: dict[int, int] = field(default_factory=dict)
    """By the identity of an entry's body: its number. A body does not say its place, and what it lists anybody can list."""

    @cached_property
    def makers(self) -> Mapping[str, Sequence[Record]]:
        """By product: the records of the chain that made it. Asked for once everything is collected."""
        found: dict[str, list[Record]] = defaultdict(list)
        for record in self.records.values():
            for digest in record.products.values():
                found[digest].append(record)
        return found

    @cached_property
    def by_step(self) -> Mapping[tuple[str, str], Record]:
        """By product and step id: the record of that name which made it. Asked for once everything is collected."""
        return {(digest, record.step_id): record for digest, records in self.makers.items() for record in records}

    def locate(self, entries: Iterable[Entry]) -> None:
        """Note where the bodies of entries stand."""
        for entry in entries:
            self._places[id(entry.body)] = entry.sequence

    def sequence(self, body: Body) -> int:
        """The number of the entry that a body was read from; raises LedgerError for a body that no entry here holds.

        Told from the entry itself: two entries may list the same attestations, and whoever can write the ref could have put
        one of them there before a key was revoked.
        """
        try:
            return self._places[id(body)]
        except KeyError:
            raise LedgerError(f"a {body.kind} was judged that is no entry of this ledger: read it from one") from None

    def reader(self, snapshot: Snapshot) -> Read:
        """Any attestation of the ledger: what was collected, else what the snapshot has."""
        return lambda digest: self.attestations.get(digest) or snapshot.attestation(digest)


def signers_of(
    body: Record | Release | Retirement | Withdrawal, step: StepKind, evidence: Evidence, history: History
) -> Signers:
    """Who may have signed a body, as far as the ledger's order tells when."""
    sequence = evidence.sequence(body)
    authority = history.authority(sequence)
    return authority.signers(authority.role_of(step), history.moment(sequence, claimed_moment(body)))
