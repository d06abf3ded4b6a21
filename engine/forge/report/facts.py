"""What the report is made from: an examination, the released commit's specs, and the paths of the attestations in the bundle.

Every function of the report's parts asks here whether something is proved, so that there is one rule for it: the record holds
(``rules.record_holds``) and the artifacts named are whole.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from forge.admission.approvals import author_of
from forge.admission.rules import record_holds
from forge.admission.verify import Examination
from forge.attest.authority import Authority
from forge.canonical import hex_of
from forge.contract.kinds import StepKind
from forge.contract.record import Record, Release
from forge.errors import ForgeError, LedgerError, StoreError, TrustError
from forge.plan.desired import Desired
from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import CommitTree
from forge.report.bundle import record_path
from forge.report.model import Evidence, Fact, Standing
from forge.spec.resource import Resource
from forge.store.store import Store


@dataclass
class Facts:
    """Everything that the parts of a report read from."""

    examined: Examination
    release: Release
    repository: Repository
    store: Store
    paths: Mapping[tuple[str, str], str]
    """(what it is about, name of the attestation) -> file of the bundle."""
    desired: Desired | None
    """The released commit's specs; None where they cannot be read."""
    authority: Authority
    signed_by: str | None
    notes: list[str] = field(default_factory=list)
    _judged: dict[str, bool] = field(default_factory=dict)

    def records(self, step: StepKind) -> list[Record]:
        """The chain's records of a kind of step, in the ledger's order."""
        evidence = self.examined.evidence
        found = [record for record in evidence.records.values() if record.step is step]
        return sorted(found, key=evidence.sequence)

    @property
    def beside(self) -> set[str]:
        """Weights of trials that a search did not pick."""
        return self.examined.evidence.beside

    def holds(self, record: Record) -> bool:
        """Whether what a record says is proved."""
        if record.key not in self._judged:
            self._judged[record.key] = record_holds(record, self.examined.evidence, self.examined.history)
        return self._judged[record.key]

    def resource(self, address: str) -> Resource | None:
        """A spec of the released commit."""
        if self.desired is None or address not in self.desired.compiled:
            return None
        return self.desired.resources[address]

    def attested(self, about: str, *names: str) -> tuple[Evidence, ...]:
        """The named attestations that the bundle has."""
        found = ((name, self.paths.get((about, name))) for name in names)
        return tuple(Evidence(f"{about} {name}", path) for name, path in found if path is not None)

    def declared(self, address: str) -> Evidence:
        """A spec as evidence: the commit and who signed it."""
        signer = f"signed by {self.signed_by}" if self.signed_by else "signed by nobody whom the supply chain lists"
        return Evidence(f"{address} in commit {self.release.commit[:12]}, {signer}", f"commits/{self.release.commit}.commit")

    def proved(self, label: str, value: object, record: Record | None, *names: str) -> Fact:
        """A fact that a record states; missing where there is none, or where it does not hold."""
        if record is None or value is None:
            return Fact(label, None, Standing.MISSING, remedy="no record of this chain says it")
        if not self.holds(record):
            return Fact(label, None, Standing.MISSING, remedy=f"{record.step_id}: its attestations do not hold")
        signed = self.attested(record.step_id, *(names or ("provenance", "test-result")))
        evidence = (*signed, Evidence(f"{record.step_id} record", record_path(record)))
        return Fact(label, shown(value), Standing.PROVED, evidence)

    def said(self, label: str, value: object, address: str, remedy: str) -> Fact:
        """A fact that a spec declares; missing where it is empty."""
        if value in (None, "", [], {}):
            return Fact(label, None, Standing.MISSING, remedy=remedy)
        return Fact(label, shown(value), Standing.DECLARED, (self.declared(address),))

    def document(self, record: Record, product: str, file: str) -> Mapping[str, Any] | None:
        """A small JSON product of a record that holds; None where it is not to be had, or damaged."""
        digest = record.products.get(product, "")
        if not self.holds(record) or digest not in self.examined.evidence.manifests:
            return None
        try:
            found = json.loads(self.store.read_file(digest, file))
        except (StoreError, ValueError, RecursionError) as error:
            self.notes.append(f"{record.step_id} {product}: {error}")
            return None
        return found if isinstance(found, dict) else None

    def in_bundle(self, record: Record, product: str, file: str) -> Evidence:
        """A document that the bundle holds whole."""
        return Evidence(f"{record.step_id} {product}", f"artifacts/{hex_of(record.products[product])}/{file}")


def read_facts_of(
    examined: Examination, release: Release, repository: Repository, store: Store, index: Mapping[str, Any]
) -> Facts:
    """Open everything; ``index`` is what ``write_bundle`` returned."""
    notes: list[str] = []
    authority = examined.history.authority(examined.evidence.sequence(release))
    try:
        signed_by = author_of(repository, release.commit, authority)
    except TrustError:
        signed_by = None
    return Facts(
        examined,
        release,
        repository,
        store,
        {(row["about"], row["name"]): row["dsse"] if "dsse" in row else row["sigstore"][0] for row in index["attestations"]},
        specs_of(repository, release.commit, notes),
        authority,
        signed_by,
        notes,
    )


def specs_of(repository: Repository, commit: str, notes: list[str]) -> Desired | None:
    """A commit's specs; None, and a note, where they cannot be read."""
    try:
        return read_desired(CommitTree(repository, repository.resolve_commit(commit)))
    except (ForgeError, LedgerError) as error:
        notes.append(f"the specs of commit {commit[:12]} cannot be read: {error}")
        return None


def shown(value: object) -> str:  # noqa: PLR0911 (one per type)
    """A value for people: thousands apart, lists with commas, tables as ``name value``, those inside in brackets."""
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
        case Mapping():
            # what stands at its default is left out of parameters, so a table with nothing in it is one of defaults
            rows = (
                (name, f"({shown(item) if item else 'defaults'})" if isinstance(item, Mapping) else shown(item))
                for name, item in value.items()
            )
            return ", ".join(f"{name} {text}" for name, text in rows) or "none"
        case str():
            return value
        case Iterable():
            return ", ".join(shown(item) for item in value) or "none"
    return str(value)
