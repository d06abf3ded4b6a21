"""The links of a release's chain, one for each kind of step: signed by the roles whose keys are here, or by their own machines.

Where one machine has every key, all links are signed when the pointer moves. Where roles have machines of their own
(``forge apply --as ROLE``), each signs the link of its kinds as soon as every step of the kind behind a release is
recorded, and appends it; the machine that moves the pointer takes it from the ledger. Rules:
1. A link that was signed before is taken only if it is, to the byte, what the chain's records say, and signed by a key that
   counts now: whoever can write the ledger can put anything there.
2. A role signs a link over records that hold, each verified from the bytes up: to whoever checks a chain with in-toto alone,
   the link is the role's word for all of them.
3. Where a kind has a threshold, the release's own link is by one who carried out all its steps and has not signed the link
   beside a reproduction: by the others it is there already, and each counts once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from securesystemslib.signer import Signer

from forge.admission.history import current_authority
from forge.admission.verdict import told
from forge.attest.authority import Authority, Signers
from forge.attest.envelope import seal, unseal
from forge.attest.layout import Done, chain_links, recorded_behind, steps_behind
from forge.attest.trust import read_trust_root
from forge.canonical import digest_of_bytes
from forge.contract.kinds import Role, StepKind
from forge.contract.record import Links, Release
from forge.errors import LedgerError, TrustError
from forge.ledger.entry import RELEASES, links_folder
from forge.ledger.ledger import Draft, Snapshot
from forge.plan.action import SETTLED, Plan
from forge.plan.graph import build_graph
from forge.plan.step import Step
from forge.plan.withdrawn import is_withdrawn
from forge.reconcile.admit import verified
from forge.reconcile.place import Place
from forge.reconcile.preflight import own_signer
from forge.reconcile.reproductions import links_of, runs_here, withdrawn_keys
from forge.reconcile.timestamping import stamped


class MissingLinkError(TrustError):
    """A link can neither be signed here nor was it signed before: the release waits for the machine of its role."""


def release_links(place: Place, snapshot: Snapshot, release: Step, chain: Sequence[Done]) -> dict[str, bytes]:
    """The signed link of each kind of step in a whole chain, by the name of its attestation; raises MissingLinkError."""
    digests = {each for done in chain for each in (*done.record.inputs.values(), *done.record.products.values())}
    links = chain_links(chain, {each: place.store.manifest(each) for each in digests})
    desk = _Desk(place, snapshot)
    return {f"chain-{kind.value}": _sealed(desk, release, kind, payload, chain) for kind, payload in links.items()}


@dataclass
class LinkSigner:
    """Signs, as the roles of this machine, what the machine of the releaser will need."""

    held: set[str] = field(default_factory=set)
    """Keys of records that were found to hold."""
    refused: dict[str, str] = field(default_factory=dict)
    """By id of a release: why a link of it is not signed here."""
    _seen: tuple[str | None, str | None] | None = None
    """The ledger's head and the commit that were looked at last."""

    def drafts(self, place: Place, snapshot: Snapshot, plan: Plan) -> list[Draft]:
        """The links that may be signed now, and are not yet, for releases that rest on what a plan is about.

        None where every role acts here: then they are signed when the pointer moves.
        """
        seen = (snapshot.commit, place.desired.commit)
        if place.desired.charter is None or place.roles >= set(Role) or seen == self._seen:
            return []
        self._seen = seen
        self.refused.clear()
        drafts = []
        graph = build_graph(place.desired)
        desk = _Desk(place, snapshot)
        for release in _unreleased(place, graph, plan):
            try:
                sealed = self._sign(desk, release, graph)
            except TrustError as error:
                self.refused[release.id] = str(error)
                continue
            if sealed:
                names = {name: str(digest_of_bytes(data)) for name, data in sealed.items()}
                body = Links(deployment=release.name, commit=place.desired.commit or "", attestations=names)
                drafts.append(Draft(body, tuple(sealed.values())))
        return drafts

    def _sign(self, desk: "_Desk", release: Step, graph: Mapping[str, Step]) -> dict[str, bytes]:
        """The attestations of one release; raises TrustError where a record that a link would vouch for does not hold."""
        place = desk.place
        steps = steps_behind(release, graph)
        wanted = [step for step in steps if step.kind is not StepKind.RELEASE and place.acts_for(step.kind)]
        recorded = recorded_behind(release, graph, desk.snapshot.record)
        kinds = {step.kind for step in wanted} - {step.kind for step in wanted if step.id not in recorded}
        behind = [done for done in recorded.values() if done.step.kind is not StepKind.RELEASE]
        links = links_of(place, behind) if kinds else {}
        sealed: dict[str, bytes] = {}
        for kind in sorted(kinds & set(links)):  # without an artifact there is no link, and the step is to be done again
            signer = desk.signer(kind)
            mine = desk.keys_of_the_same(kind, signer.public_key.keyid)
            able = desk.keys_that_may(kind, links[kind], behind)
            if able is not None and signer.public_key.keyid not in able:
                continue
            if desk.signed_before(release, kind, links[kind], None if able is None else mine) is not None:
                continue
            if not self._hold(desk, [done for done in behind if done.step.kind is kind]):
                return {}
            sealed[f"chain-{kind.value}"] = seal(links[kind], signer)
        return stamped(sealed, place) if sealed else {}

    def _hold(self, desk: "_Desk", steps: Iterable[Done]) -> bool:
        """Whether records may be vouched for: not what is withdrawn. Raises TrustError for one that does not hold."""
        for done in steps:
            if done.record.key not in self.held:
                verdict = verified(desk.place, desk.snapshot, done.record.key)
                if verdict.withdrawn:
                    return False
                if not verdict.holds:
                    refused = f"the link of {done.step.id} is not signed, for its record does not hold"
                    raise TrustError(f"{refused}\n{told(verdict.findings)}")
                self.held.add(done.record.key)
        return True


@dataclass
class _Desk:
    """What signing and looking for links needs to know of this moment."""

    place: Place
    snapshot: Snapshot

    def __post_init__(self) -> None:
        self.authority: Authority = current_authority(self.snapshot, read_trust_root(self.place.config))
        self.withdrawn = withdrawn_keys(self.place, self.snapshot)

    def signers(self, kind: StepKind) -> Signers:
        """Whose link of a kind counts now."""
        known = self.authority.signers(self.authority.role_of(kind), self.place.now().isoformat())
        return Signers(known.role, tuple(each for each in known.known if each.key.keyid not in self.withdrawn))

    def signer(self, kind: StepKind) -> Signer:
        """Who signs here; raises TrustError where there is no key, or one that does not count."""
        role = self.authority.role_of(kind)
        signer = own_signer(self.place, self.authority.signers(role, self.place.now().isoformat()), role)
        if signer.public_key.keyid in self.withdrawn:
            raise TrustError(f"the key of the {role.value} here ({signer.public_key.keyid[:12]}) is withdrawn")
        return signer

    def keys_of_the_same(self, kind: StepKind, keyid: str) -> frozenset[str]:
        """The ids of the keys that stand for the functionary of one."""
        people = self.authority.functionaries(self.authority.role_of(kind))
        return frozenset({keyid, *(each for each, who in people.items() if who == people.get(keyid))})

    def keys_that_may(self, kind: StepKind, payload: bytes, chain: Sequence[Done]) -> frozenset[str] | None:
        """The ids of the keys by which a release's own link may be signed; None where any key of the role will do."""
        if self.authority.threshold(kind) == 1:
            return None
        steps = [done for done in chain if done.step.kind is kind]
        runs = runs_here(self.place, self.snapshot, [done.record for done in steps])
        did = [{run.functionary for run in runs.of(done.record) if run.refusal is None} for done in steps]
        able = set.intersection(*did) - set(runs.links(kind, payload, chain))
        people = self.authority.functionaries(self.authority.role_of(kind))
        return frozenset(keyid for keyid, who in people.items() if who in able)

    def signed_before(self, release: Step, kind: StepKind, payload: bytes, keys: AbstractSet[str] | None) -> bytes | None:
        """The newest envelope of the ledger that says exactly this, by a key that counts now; ``keys``: by one of these."""
        name = f"chain-{kind.value}"
        signers = self.signers(kind)
        if keys is not None:
            signers = Signers(signers.role, tuple(each for each in signers.known if each.key.keyid in keys))
        for digest in self._named(release, name):
            try:
                sealed = self.snapshot.attestation(digest)
                if unseal(sealed, signers, name) == payload:
                    return sealed
            except (LedgerError, TrustError):  # of whoever wrote it there: it is as good as absent
                continue
        return None

    def _named(self, release: Step, name: str) -> Iterator[str]:
        """Digests of attestations of a name: of links appended for a deployment, and of its environment's releases."""
        for folder in (links_folder(release.name), f"{RELEASES}/{release.environment}"):
            for entry in self.snapshot.entries_newest_first(folder):
                if isinstance(entry.body, Links | Release) and name in entry.body.attestations:
                    yield entry.body.attestations[name]


def _unreleased(place: Place, graph: Mapping[str, Step], plan: Plan) -> Iterator[Step]:
    """The releases of a commit that a plan has not done or is not about, and that rest on a step of it that is signed here."""
    actions = {action.id: action for action in plan.actions}
    for release in graph.values():
        if release.kind is not StepKind.RELEASE:
            continue
        action = actions.get(release.id)
        if action is not None and (action.kind in SETTLED or is_withdrawn(action)):
            continue
        if any(step.id in actions and place.acts_for(step.kind) for step in steps_behind(release, graph)):
            yield release


def _sealed(desk: _Desk, release: Step, kind: StepKind, payload: bytes, chain: Sequence[Done]) -> bytes:
    """Signed here where the role acts here and has a key that counts; else as its machine signed it."""
    role = desk.place.role_of(kind)
    able = desk.keys_that_may(kind, payload, [done for done in chain if done.step.kind is not StepKind.RELEASE])
    signer, missing = None, f"this machine does not act as the {role.value}"
    if desk.place.acts_for(kind):
        try:
            signer = desk.signer(kind)
        except TrustError as error:  # another machine may have signed it
            missing = str(error)
    if signer is not None and (able is None or signer.public_key.keyid in able):
        return seal(payload, signer)
    before = desk.signed_before(release, kind, payload, able)
    if before is None and signer is not None:
        return seal(payload, signer)  # how many are lacking then, whoever verifies the move says
    if before is None:
        raise MissingLinkError(
            f"{release.id}: the link of its steps of the kind {kind.value} is not signed: {missing}; "
            f"`forge apply --as {role.value}` signs it on the machine that does"
        )
    return before
