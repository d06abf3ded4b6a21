"""What only the keeper of the root's key does: sign a commit's supply chain, and hand over to another root."""

import datetime
from pathlib import Path

from pydantic import ValidationError

from forge.admission.history import current_authority
from forge.attest.delegation import ROOT_PAYLOAD_TYPE, delegation_payloads, expires_too_soon, root_payload
from forge.attest.envelope import seal
from forge.attest.keys import signer_for
from forge.attest.statements import CURRENT_STATEMENTS
from forge.attest.trust import TrustRoot, read_trust_root
from forge.canonical import digest_of_bytes
from forge.contract.charter import Charter
from forge.contract.kinds import Role
from forge.contract.record import Delegation, RootChange
from forge.errors import RefusedError, TrustError
from forge.ledger.entry import DELEGATIONS, ROOTS
from forge.ledger.ledger import Draft
from forge.reconcile.place import Place


def proposed_charter(place: Place) -> Charter:
    """The supply chain of the commit; raises RefusedError for a commit that has none."""
    if place.desired.charter is None or place.desired.commit is None:
        raise RefusedError("this commit has no SupplyChain: there is nothing to sign")
    return Charter.from_document(dict(place.desired.charter))


def charter_in_force(place: Place) -> Charter | None:
    """The supply chain that the root signed last; raises TrustError where something that it signed does not hold."""
    return current_authority(place.ledger.snapshot(), read_trust_root(place.config)).charter


def delegate(place: Place) -> Delegation:
    """Sign the commit's supply chain and its layouts as the root, and append that to the ledger; one in force is left as it is.

    Raises RefusedError for one that expires before retention does, TrustError for a key that is not the root's, and for a role
    that nobody could sign as.
    """
    charter = proposed_charter(place)
    snapshot = place.ledger.snapshot()
    root = current_authority(snapshot, read_trust_root(place.config)).root
    known = snapshot.newest(DELEGATIONS)
    last = known.body if known is not None and isinstance(known.body, Delegation) else None
    now = place.now()
    if last is not None and last.digest == charter.digest:
        return last
    too_soon = expires_too_soon(charter, now, place.desired.settings.retention.days)
    if too_soon is not None:
        raise RefusedError(f"the supply chain is not signed: {too_soon}")
    signer = signer_for(Role.ROOT, place.config)
    _must_be_the_roots(signer.public_key.keyid, root)
    body = Delegation(
        version=last.version + 1 if last is not None else 1,
        charter=charter.to_document(),
        digest=charter.digest,
        commit=place.desired.commit or "",
        signed=_text(now),
        statements=CURRENT_STATEMENTS,
    )
    sealed = {name: seal(payload, signer) for name, payload in delegation_payloads(body, root).items()}
    names = {name: str(digest_of_bytes(data)) for name, data in sealed.items()}
    signed = body.model_copy(update={"attestations": names})
    place.ledger.append([Draft(signed, tuple(sealed.values()))])
    return signed


def rotate(place: Place, new_root: bytes, new_config: Path) -> RootChange:
    """Hand over to another root: its predecessor signs it, and so does its own key, which lies in ``new_config``.

    Raises TrustError for anything that is no root, and where a key is not the one that its root lists.
    """
    try:
        new = TrustRoot.model_validate_json(new_root)
    except ValidationError as error:
        raise TrustError(f"not a trust root: {error}") from error
    snapshot = place.ledger.snapshot()
    old = current_authority(snapshot, read_trust_root(place.config)).root
    if new == old:
        raise RefusedError(f"this is the root in force already ({old.digest})")
    known = snapshot.newest(ROOTS)
    change = RootChange(
        version=known.body.version + 1 if known is not None and isinstance(known.body, RootChange) else 1,
        previous=old.digest,
        root=new.model_dump(mode="json"),
        signed=_text(place.now()),
    )
    sealed = {}
    for name, root, folder in (("by-previous", old, place.config), ("by-itself", new, new_config)):
        signer = signer_for(Role.ROOT, folder)
        _must_be_the_roots(signer.public_key.keyid, root)
        sealed[name] = seal(root_payload(change), signer, ROOT_PAYLOAD_TYPE)
    signed = change.model_copy(update={"attestations": {name: str(digest_of_bytes(data)) for name, data in sealed.items()}})
    place.ledger.append([Draft(signed, tuple(sealed.values()))])
    return signed


def _must_be_the_roots(keyid: str, root: TrustRoot) -> None:
    listed = [key.keyid for key in root.roles.get(Role.ROOT, ())]
    if keyid not in listed:
        expected = ", ".join(each[:12] for each in listed) or "none; `forge keys init` adds one to a development root"
        raise TrustError(f"the root key here ({keyid[:12]}) is not one that the root {root.digest} lists ({expected})")


def _text(moment: datetime.datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
