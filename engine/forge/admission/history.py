"""Who was trusted when: the ledger's root changes and delegations, read in order, each verified by what came before it.

A signature's moment is what its entry claims, or the latest moment that an earlier entry claims, whichever is later: the
ledger's order bounds it from below, so a key that was revoked cannot sign for the time before.
"""

import datetime
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from forge.admission.verdict import Check, Finding, Rule
from forge.attest.authority import Authority, Signer, Signers, later_of
from forge.attest.delegation import ROOT_PAYLOAD_TYPE, charter_of, delegation_payloads, root_of, root_payload
from forge.attest.envelope import unseal
from forge.attest.timestamps import TimestampAuthority
from forge.attest.trust import TrustRoot
from forge.contract.charter import Charter
from forge.contract.kinds import Role
from forge.contract.record import (
    Approval,
    Delegation,
    Record,
    Release,
    Reproduction,
    Retirement,
    RootChange,
    Withdrawal,
)
from forge.errors import TrustError
from forge.ledger.entry import DELEGATIONS, ROOTS, Body, Entry, sequence_path
from forge.ledger.snapshot import Snapshot

_EPOCH = "1970-01-01T00:00:00+00:00"


@dataclass
class History:
    """The trust of every entry of one ledger."""

    pinned: TrustRoot
    root: TrustRoot
    """The root in force at the end: the pinned one, or one that it, or a successor of it, has signed."""
    charters: list[tuple[int, Charter, Delegation]] = field(default_factory=list)
    """Sequence number, charter and delegation, in order; only what the root in force had signed."""
    findings: list[Finding] = field(default_factory=list)
    timestamps: TimestampAuthority | None = None
    """Whose time stamps are believed; None where whoever verifies has pinned nobody."""
    _floors: list[tuple[int, str]] = field(default_factory=list)
    """Sequence number of an entry, and the latest moment that it and those before it claim."""
    _roots: list[tuple[int, TrustRoot]] = field(default_factory=list)

    def authority(self, sequence: int) -> Authority:
        """Who may sign an entry."""
        place = bisect_left(self.charters, sequence, key=lambda row: row[0])
        charter = self.charters[place - 1][1] if place else None
        root = self._roots[bisect_left(self._roots, sequence, key=lambda row: row[0]) - 1][1]
        return Authority(root, charter, self.charters[-1][1] if self.charters else None)

    def delegation(self, sequence: int) -> Delegation | None:
        """The delegation in force at an entry."""
        place = bisect_left(self.charters, sequence, key=lambda row: row[0])
        return self.charters[place - 1][2] if place else None

    def authors_since(self) -> str | None:
        """The commit of the first supply chain that keeps authors and approvers apart: since then commits have to be signed."""
        for _, charter, delegation in self.charters:
            if any({"author", "approver"} <= set(group) for group in charter.supply_chain.separation_of_duties):
                return delegation.commit
        return None

    def moment(self, sequence: int, claimed: str) -> str:
        """When an entry was signed at the earliest."""
        place = bisect_left(self._floors, sequence, key=lambda row: row[0])
        return later_of(claimed, self._floors[place - 1][1]) if place else claimed

    def expired(self, sequence: int, now: datetime.datetime) -> Iterator[Finding]:
        """Whether the layouts by which an entry is judged have expired since."""
        delegation = self.delegation(sequence)
        ends = self.authority(sequence).charter
        if delegation is not None and ends is not None and datetime.datetime.fromisoformat(ends.supply_chain.expires) <= now:
            message = (
                f"it expired {ends.supply_chain.expires}: the root has to sign it anew (`forge keys delegate`), and "
                "`forge apply --force release/DEPLOYMENT` releases under it"
            )
            yield Finding(Rule.AUTHORITY, f"delegation {delegation.version}", message)

    def describe(self) -> str:
        """One line for a verdict: which trust it rests on."""
        text = self.pinned.describe()
        if self.root != self.pinned:
            text += f", and its successor {self.root.digest}"
        if self.charters:
            delegation = self.charters[-1][2]
            text += f"; supply chain {delegation.digest} (delegation {delegation.version}, commit {delegation.commit[:12]})"
        return text

    def checks(self) -> Iterator[Check]:
        """What holds."""
        for _, charter, delegation in self.charters[-1:]:
            ends = charter.supply_chain.expires
            message = f"the root signed the supply chain of commit {delegation.commit[:12]}, which expires {ends}"
            yield Check(Rule.AUTHORITY, message)


def read_history(
    entries: Sequence[Entry],
    attestations: Mapping[str, bytes],
    pinned: TrustRoot,
    timestamps: TimestampAuthority | None = None,
) -> History:
    """Walk the ledger. ``attestations`` holds those of delegations and root changes; an absent one is a finding."""
    history = History(pinned, pinned, timestamps=timestamps, _roots=[(0, pinned)])
    floor = _EPOCH
    changes = 0
    for entry in entries:
        body = entry.body
        try:
            match body:
                case Delegation():
                    _accept_delegation(history, entry, body, attestations)
                case RootChange():
                    changes += 1
                    _accept_root(history, entry, body, attestations, changes)
            floor = later_of(floor, *_claimed(body))
            history._floors.append((entry.sequence, floor))  # noqa: SLF001 (built here)
        except (TrustError, ValueError) as error:
            history.findings.append(Finding(Rule.AUTHORITY, sequence_path(entry.sequence), str(error)))
    return history


def current_authority(snapshot: Snapshot, pinned: TrustRoot) -> Authority:
    """Who may sign now; raises TrustError where a root change or a delegation of the ledger does not hold.

    Reads only what the root signed. What it leaves out, the whole ledger, is verified where a chain is.
    """
    entries = [*snapshot.entries_in(DELEGATIONS), *snapshot.entries_in(ROOTS)]
    entries.sort(key=lambda entry: entry.sequence)
    attestations = {}
    for entry in entries:
        if isinstance(entry.body, Delegation | RootChange):
            for digest in entry.body.attestations.values():
                attestations[digest] = snapshot.attestation(digest)
    history = read_history(entries, attestations, pinned)
    if history.findings:
        raise TrustError("\n".join(str(finding) for finding in history.findings))
    return history.authority(entries[-1].sequence + 1 if entries else 1)


def claimed_moment(body: Record | Reproduction | Release | Retirement | Withdrawal) -> str:
    """When the signer of a body says that it was signed."""
    return body.finished if isinstance(body, Record | Reproduction) else body.moved


def root_signers(root: TrustRoot) -> Signers:
    """The root's own keys."""
    return Signers(Role.ROOT.value, tuple(Signer(key, f"root {key.keyid[:12]}") for key in root.roles.get(Role.ROOT, ())))


def _claimed(body: Body) -> Iterator[str]:
    match body:
        case Record() | Reproduction() | Release() | Retirement() | Withdrawal():
            yield claimed_moment(body)
        case Delegation() | RootChange():
            yield body.signed
        case Approval():
            yield body.given


def _accept_delegation(history: History, entry: Entry, body: Delegation, attestations: Mapping[str, bytes]) -> None:
    place = sequence_path(entry.sequence)
    last = history.charters[-1][2].version if history.charters else 0
    if body.version != last + 1:
        raise TrustError(
            f"a delegation of version {body.version} follows one of {last}: it was appended again, or one is missing"
        )
    payloads = delegation_payloads(body, history.root)
    for name, payload in payloads.items():
        sealed = attestations.get(body.attestations.get(name, ""))
        if sealed is None:
            raise TrustError(f"the delegation's {name} is not signed")
        if unseal(sealed, root_signers(history.root), f"{place} {name}") != payload:
            raise TrustError(f"what the root signed as {name} is not what the delegation says")
    history.charters.append((entry.sequence, charter_of(body), body))


def _accept_root(history: History, entry: Entry, body: RootChange, attestations: Mapping[str, bytes], expected: int) -> None:
    place = sequence_path(entry.sequence)
    if body.version != expected or body.previous != history.root.digest:
        raise TrustError(f"root change {body.version} follows {body.previous}, but the root in force is {history.root.digest}")
    new = root_of(body)
    for name, root in (("by-previous", history.root), ("by-itself", new)):
        sealed = attestations.get(body.attestations.get(name, ""))
        if sealed is None:
            raise TrustError(f"the new root is not signed {name}")
        if unseal(sealed, root_signers(root), f"{place} {name}", ROOT_PAYLOAD_TYPE) != root_payload(body):
            raise TrustError(f"what was signed {name} is not this root change")
    history.root = new
    history._roots.append((entry.sequence, new))  # noqa: SLF001 (built here)
