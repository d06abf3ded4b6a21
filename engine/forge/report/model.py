"""The report as values: what a reviewer is told about a release, each statement with what it rests on.

Invariant: a fact says where it comes from. *Proved*: an attestation says so whose signature and bytes hold. *Declared*: a
person wrote it into a spec; the commit, and who signed that, stand beside it. *Missing*: nobody said it, and nothing is made up
in its place.
"""

from dataclasses import dataclass
from enum import StrEnum

from forge.admission.verdict import Verdict
from forge.contract.verdict import Bound


class Standing(StrEnum):
    """What a fact rests on."""

    PROVED = "proved"
    """A signed attestation says it, and signature and bytes hold. What a step says of its own machine is its own word."""
    DECLARED = "declared"
    """A spec of the released commit says it, in words that nothing checks."""
    MISSING = "missing"
    """Nobody says it."""


@dataclass(frozen=True)
class Evidence:
    """Where a fact stands."""

    text: str
    path: str | None = None
    """A file of the bundle; None where there is none."""


@dataclass(frozen=True)
class Fact:
    """One field of the report."""

    label: str
    value: str | None
    standing: Standing
    evidence: tuple[Evidence, ...] = ()
    remedy: str = ""
    """What to write where, so that it is no longer missing."""


@dataclass(frozen=True)
class Section:
    """Facts under one heading."""

    title: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class ReproducedBy:
    """Somebody who carried out a step again and got the same products."""

    signer: str
    finished: str
    hardware: str
    """What it ran on, as the run said."""
    entry: int
    """Its number in the ledger."""
    refusal: str | None
    """Why it does not count; None: it counts."""
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class ChainStep:
    """A step of the chain, as its record and attestations have it."""

    id: str
    level: int
    """How many steps lie before it on the longest way from the data."""
    reads: tuple[str, ...]
    """Ids of the steps whose products it reads."""
    signer: str
    commit: str
    products: tuple[tuple[str, str], ...]
    """Name and digest."""
    finished: str
    evidence: tuple[Evidence, ...]
    holds: bool
    """Whether its signatures and statements hold."""
    stamped: str | None = None
    """When the pinned time-stamping authority saw the last of its signatures; None where none was judged."""
    threshold: int = 1
    """How many functionaries the step's role asks for."""
    reproductions: tuple[ReproducedBy, ...] = ()
    trial_of: str | None = None
    """The model whose search it is a step of; None for every other step, and for the training that the search picked."""


@dataclass(frozen=True)
class DataSource:
    """One source of training documents. Counts are None where the report of the curate step is not to be believed."""

    path: str
    license: str
    origin: str
    documents_read: int | None
    documents_kept: int | None
    bytes_kept: int | None


@dataclass(frozen=True)
class DataSheet:
    """A recipe, and what became of its documents."""

    address: str
    sources: tuple[DataSource, ...]
    declared: Evidence
    """Where licences and origins stand."""
    counted: Evidence | None
    """What proves the counts."""
    removed: tuple[tuple[str, int], ...]
    replaced: tuple[tuple[str, int], ...]
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Measurement:
    """One metric of one task; with its threshold where the gate has one."""

    suite: str
    task: str
    metric: str
    value: float | None
    stderr: float | None
    num_items: int
    bound: Bound | None
    threshold: float | None
    passed: bool | None
    evidence: tuple[Evidence, ...]

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval under a normal approximation: value -/+ 1.96 standard errors."""
        if self.value is None or self.stderr is None:
            return None
        return self.value - 1.96 * self.stderr, self.value + 1.96 * self.stderr


@dataclass(frozen=True)
class MeasuredBefore:
    """An evaluation of the released weights, or a gate's verdict on one, before the release; whichever it rests on."""

    entry: int
    """Number of the ledger's entry."""
    step: str
    commit: str
    finished: str
    decision: str | None
    """A gate's ``GO`` or ``NO-GO``; None for an evaluation, and where the gate's statements do not tell."""


@dataclass(frozen=True)
class GivenApproval:
    """An approval that the release names."""

    person: str
    given: str
    commit: str
    refusal: str | None
    """Why it does not count; None: it counts."""
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class CommitRow:
    """A commit that came since the last release."""

    name: str
    subject: str
    signer: str | None
    """The person whose key signed it; None: nobody whom People lists."""


@dataclass(frozen=True)
class FieldChange:
    """A field of a spec that differs from the last release's commit."""

    address: str
    field: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class Changes:
    """What is different from the release before."""

    previous_commit: str | None
    """None: this is the first release of its environment."""
    previous_moved: str | None
    commits: tuple[CommitRow, ...]
    fields: tuple[FieldChange, ...]
    unread: str | None = None
    """Why the specs of the earlier commit could not be compared."""


@dataclass(frozen=True)
class Report:
    """Everything that the page shows."""

    verdict: Verdict
    environment: str
    deployment: str
    model: str
    release: str
    """Digest of the release artifact."""
    weights: str
    commit: str
    signed_by: str | None
    """The person who signed the released commit."""
    moved: str
    development: bool
    trust_root: str
    """The digest that a verifier pins."""
    entries: int
    """How many entries the ledger had."""
    head: str
    """Digest of the last one."""
    ledger_commit: str
    engine: str
    """Forge's version."""
    chain: tuple[ChainStep, ...]
    data: tuple[DataSheet, ...]
    training: tuple[Section, ...]
    measurements: tuple[Measurement, ...]
    measured_before: tuple[MeasuredBefore, ...]
    """Every evaluation of these weights and every verdict on one, in the ledger's order."""
    approvals_needed: int
    approvals: tuple[GivenApproval, ...]
    changes: Changes
    act: tuple[Section, ...]
    notes: tuple[str, ...]
    """What could not be told, or was not understood."""
