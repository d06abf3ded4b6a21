"""Who was trusted when: the ledger's root changes and delegations, read in order, each verified by what came before it.

A signature's moment is what its entry claims, or the latest moment that an earlier entry claims, whichever is later: the
ledger's order bounds it from below, so a key that was revoked cannot sign for the time before. Which claims count:

1. Those of entries that are signed by who may sign them there, at the moment that they claim. Whether one is, is looked at
   where it would make a difference; whoever can only write the ref moves no time.
2. None that lies further ahead of the verifier than a day: a clock was wrong there, and it is that entry's own fault.
3. None that is later than what the root signed after it: a delegation ends what a wrong clock has said.
"""

import datetime
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

from forge.admission.signed import Read, is_signed
from forge.admission.verdict import Check, Finding, Rule
from forge.attest.authority import Authority, Signer, Signers, is_before
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
from forge.ledger.entry import DELEGATIONS, ROOTS, Entry, sequence_path
from forge.ledger.snapshot import Snapshot

_MOST_AHEAD = datetime.timedelta(days=1)
"""Of a verifier's clock; machines that sign and machines that verify are rarely minutes apart."""


def _nothing(digest: str) -> bytes:
    raise LookupError(digest)


@dataclass(eq=False)
class _Claim:
    """When an entry says that it was signed."""

    entry: Entry
    moment: str
    held: bool
    """Whether somebody has looked at its signature, and it holds."""

    @property
    def is_roots(self) -> bool:
        """Whether the root says it."""
        return isinstance(self.entry.body, Delegation | RootChange)


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
    _claims: list[_Claim] = field(default_factory=list)
    """What the entries claim, in order; those that turned out to be nobody's are taken out."""
    _floors: list[tuple[int, _Claim]] = field(default_factory=list)
    """Sequence number of an entry, and the latest claim up to it."""
    _read: Read = _nothing
    _guard: Lock = field(default_factory=Lock, repr=False, compare=False)
    """Records are opened by several threads."""
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

    def outdated(self, sequence: int, body: Record | Release) -> str | None:
        """Why a body may not be signed by the statements that it says; None where it may.

        What the root's delegation says of statements decides: a body that says that it was made by an engine before would take
        from itself what that engine did not sign. Before a delegation, and under an old one, the body decides.
        """
        delegation = self.delegation(sequence)
        if delegation is None or body.statements >= delegation.statements:
            return None
        return (
            f"it says that it is signed by statements {body.statements}, as engines before did, and what is made under "
            f"delegation {delegation.version} is signed by statements {delegation.statements}"
        )

    def authors_since(self) -> str | None:
        """The commit of the first supply chain that keeps authors and approvers apart: since then commits have to be signed."""
        for _, charter, delegation in self.charters:
            if any({"author", "approver"} <= set(group) for group in charter.supply_chain.separation_of_duties):
                return delegation.commit
        return None

    def moment(self, sequence: int, claimed: str) -> str:
        """When an entry was signed at the earliest."""
        with self._guard:
            while place := bisect_left(self._floors, sequence, key=lambda row: row[0]):
                latest = self._floors[place - 1][1]
                if not is_before(claimed, latest.moment):
                    break
                if self._counts(latest):
                    return latest.moment
                self._claims.remove(latest)
                self._floors = _latest_claims(self._claims)
        return claimed

    def is_signed(self, entry: Entry, read: Read) -> bool:
        """Whether an entry is signed, at the moment that it claims, by who may sign it there; not where that is no time."""
        body = entry.body
        if not isinstance(body, Record | Reproduction | Release | Retirement | Withdrawal):
            return False
        try:
            moment = self.moment(entry.sequence, claimed_moment(body))
        except TrustError:
            return False
        return is_signed(body, self.authority(entry.sequence), moment, read)

    def _counts(self, claim: _Claim) -> bool:
        """Whether the latest of some claims was signed; no earlier entry says that it was signed later than it claims."""
        if not claim.held:
            entry = claim.entry
            claim.held = is_signed(entry.body, self.authority(entry.sequence), claim.moment, self._read)
        return claim.held

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
    read: Read | None = None,
    now: datetime.datetime | None = None,
) -> History:
    """Walk the ledger.

    Args:
        entries: in the ledger's order.
        attestations: those of delegations and root changes, by digest; an absent one is a finding.
        pinned: the root that the ledger begins with.
        timestamps: whose time stamps are believed.
        read: any other attestation, for the moments that entries claim; left out: they are in ``attestations``.
        now: the verifier's time; this machine's when left out.
    """
    history = History(pinned, pinned, timestamps=timestamps, _roots=[(0, pinned)], _read=read or attestations.__getitem__)
    ahead = ((now or datetime.datetime.now(datetime.UTC)) + _MOST_AHEAD).isoformat()
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
        except (TrustError, ValueError) as error:
            history.findings.append(Finding(Rule.AUTHORITY, sequence_path(entry.sequence), str(error)))
        else:
            history._claims += _claims_of(entry, ahead)  # noqa: SLF001 (built here)
    history._floors = _latest_claims(history._claims)  # noqa: SLF001 (built here)
    return history


def _latest_claims(claims: Sequence[_Claim]) -> list[tuple[int, _Claim]]:
    """The latest claim up to each entry, without those that the root contradicts later."""
    kept: list[_Claim] = []
    bound: str | None = None
    for claim in reversed(claims):
        if bound is not None and is_before(bound, claim.moment):
            continue
        bound = claim.moment if claim.is_roots else bound
        kept.append(claim)
    floors: list[tuple[int, _Claim]] = []
    for claim in reversed(kept):
        latest = floors[-1][1] if floors else claim
        floors.append((claim.entry.sequence, claim if is_before(latest.moment, claim.moment) else latest))
    return floors


def current_authority(snapshot: Snapshot, pinned: TrustRoot) -> Authority:
    """Who may sign now; raises TrustError where a root change or a delegation of the ledger does not hold."""
    return delegated(snapshot, pinned).authority(snapshot.head[0] + 1)


def delegated(snapshot: Snapshot, pinned: TrustRoot) -> History:
    """Who was trusted when, by what the root signed; raises TrustError where one of its words does not hold.

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
    return history


def claimed_moment(body: Record | Reproduction | Release | Retirement | Withdrawal) -> str:
    """When the signer of a body says that it was signed."""
    return body.finished if isinstance(body, Record | Reproduction) else body.moved


def root_signers(root: TrustRoot) -> Signers:
    """The root's own keys."""
    return Signers(Role.ROOT.value, tuple(Signer(key, f"root {key.keyid[:12]}") for key in root.roles.get(Role.ROOT, ())))


def _claims_of(entry: Entry, ahead: str) -> list[_Claim]:
    """What an entry claims, unless that is no time, or one that lies too far ahead."""
    body, held = entry.body, False
    match body:
        case Record() | Reproduction() | Release() | Retirement() | Withdrawal():
            moment = claimed_moment(body)
        case Approval():
            moment = body.given
        case Delegation() | RootChange():  # it was accepted
            moment, held = body.signed, True
        case _:
            return []
    try:
        return [] if is_before(ahead, moment) else [_Claim(entry, moment, held)]
    except TrustError:  # whatever rests on the entry is refused for that
        return []


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
