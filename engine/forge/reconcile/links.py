"""The links of a release's chain, one for each kind of step: signed by the roles whose keys are here, or by their own machines.

Where one machine has every key, all links are signed when the pointer moves. Where roles have machines of their own
(``forge apply --as ROLE``), each signs the link of its kinds as soon as every step of the kind behind a release is
recorded, and appends it; the machine that moves the pointer takes it from the ledger. Rules:
1. A link that was signed before is taken only if it is, to the byte, what the chain's records say, and signed by a key that
   counts now: whoever can write the ledger can put anything there.
2. A role signs a link over records that hold, each verified from the bytes up: to whoever checks a chain with in-toto alone,
   the link is the role's word for all of them.
"""

from collections.abc import Iterator, Mapping, Sequence

from forge.admission.history import current_authority
from forge.attest.authority import Authority, Signers
from forge.attest.envelope import seal, unseal
from forge.attest.keys import signer_for
from forge.attest.layout import Done, chain_links, recorded_behind, steps_behind
from forge.attest.trust import read_trust_root
from forge.canonical import digest_of_bytes
from forge.contract.kinds import Role, StepKind
from forge.contract.record import Links, Release
from forge.errors import LedgerError, TrustError
from forge.ledger.entry import RELEASES, links_folder
from forge.ledger.ledger import Draft, Snapshot
from forge.plan.action import SETTLED, Plan
from forge.plan.graph import Step, build_graph
from forge.plan.withdrawn import is_withdrawn
from forge.reconcile.admit import must_hold
from forge.reconcile.place import Place
from forge.reconcile.preflight import counting_signer
from forge.reconcile.reproductions import links_of, withdrawn_keys
from forge.reconcile.timestamping import stamped


def release_links(place: Place, snapshot: Snapshot, release: Step, chain: Sequence[Done]) -> dict[str, bytes]:
    """The signed link of each kind of step in a whole chain, by the name of its attestation.

    Raises TrustError for one that can neither be signed here nor was signed before.
    """
    digests = {each for done in chain for each in (*done.record.inputs.values(), *done.record.products.values())}
    links = chain_links(chain, {each: place.store.manifest(each) for each in digests})
    return {f"chain-{kind.value}": _sealed(place, snapshot, release, kind, payload) for kind, payload in links.items()}


def link_drafts(place: Place, snapshot: Snapshot, plan: Plan) -> list[Draft]:
    """The links that the roles of this machine may sign now, and have not signed, for releases that a plan has not done.

    None where every role acts here: then they are signed when the pointer moves. Raises TrustError where a record that a link
    would vouch for does not hold.
    """
    if place.desired.charter is None or place.roles >= set(Role):
        return []
    graph = build_graph(place.desired)
    authority = current_authority(snapshot, read_trust_root(place.config))
    held: set[str] = set()
    drafts = []
    for action in plan.actions:
        if action.step is StepKind.RELEASE and action.kind not in SETTLED and not is_withdrawn(action):
            release = graph[action.id]
            payloads = _mine(place, snapshot, authority, release, graph, held)
            if payloads:
                drafts.append(_draft(place, authority, release, payloads))
    return drafts


def _sealed(place: Place, snapshot: Snapshot, release: Step, kind: StepKind, payload: bytes) -> bytes:
    role = place.role_of(kind)
    missing = TrustError(f"this machine does not act as the {role.value}")
    if place.acts_for(kind):
        try:
            return seal(payload, signer_for(role, place.config))
        except TrustError as error:  # another machine may have signed it
            missing = error
    authority = current_authority(snapshot, read_trust_root(place.config))
    before = _signed_before(place, snapshot, authority, release, kind, payload)
    if before is None:
        raise TrustError(
            f"{release.id}: the link of its steps of the kind {kind.value} is not signed: {missing}; "
            f"`forge apply --as {role.value}` signs it on the machine that does"
        )
    return before


def _mine(
    place: Place, snapshot: Snapshot, authority: Authority, release: Step, graph: Mapping[str, Step], held: set[str]
) -> dict[StepKind, bytes]:
    """By kind: the links that are to be signed here. ``held``: keys of records that were found to hold."""
    wanted = [step for step in steps_behind(release, graph) if step.kind is not StepKind.RELEASE and place.acts_for(step.kind)]
    recorded = recorded_behind(release, graph, snapshot.record)
    unfinished = {step.kind for step in wanted if step.id not in recorded}
    kinds = {step.kind for step in wanted} - unfinished
    if not kinds:
        return {}
    links = links_of(place, [done for done in recorded.values() if done.step.kind is not StepKind.RELEASE])
    found = {}
    for kind in sorted(kinds):
        payload = links.get(kind)  # none where an artifact is lost, and then the step is to be done again
        if payload is None or _signed_before(place, snapshot, authority, release, kind, payload) is not None:
            continue
        for done in recorded.values():
            if done.step.kind is kind and done.record.key not in held:
                refused = f"the link of {done.step.id} is not signed, for its record does not hold"
                must_hold(place, snapshot, done.record.key, refused)
                held.add(done.record.key)
        found[kind] = payload
    return found


def _draft(place: Place, authority: Authority, release: Step, payloads: Mapping[StepKind, bytes]) -> Draft:
    now = place.now().isoformat()
    sealed = {}
    for kind, payload in payloads.items():
        role = place.role_of(kind)
        sealed[f"chain-{kind.value}"] = seal(payload, counting_signer(place, authority.signers(role, now), role))
    sealed = stamped(sealed, place)
    names = {name: str(digest_of_bytes(data)) for name, data in sealed.items()}
    body = Links(deployment=release.name, commit=place.desired.commit or "", attestations=names)
    return Draft(body, tuple(sealed.values()))


def _signed_before(
    place: Place, snapshot: Snapshot, authority: Authority, release: Step, kind: StepKind, payload: bytes
) -> bytes | None:
    """The newest envelope of the ledger that says exactly this, by a key of the role that is valid now and not withdrawn."""
    name = f"chain-{kind.value}"
    known = authority.signers(authority.role_of(kind), place.now().isoformat())
    withdrawn = withdrawn_keys(place, snapshot)
    signers = Signers(known.role, tuple(each for each in known.known if each.key.keyid not in withdrawn))
    for digest in _named(snapshot, release, name):
        try:
            sealed = snapshot.attestation(digest)
            if unseal(sealed, signers, name) == payload:
                return sealed
        except (LedgerError, TrustError):  # of whoever wrote it there: it is as good as absent
            continue
    return None


def _named(snapshot: Snapshot, release: Step, name: str) -> Iterator[str]:
    """Digests of attestations of a name: of links that roles appended for a deployment, and of its environment's releases."""
    for folder in (links_folder(release.name), f"{RELEASES}/{release.environment}"):
        for entry in snapshot.entries_newest_first(folder):
            if isinstance(entry.body, Links | Release) and name in entry.body.attestations:
                yield entry.body.attestations[name]
