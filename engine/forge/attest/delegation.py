"""What the root signs: the charter, its layouts, and the next root. The signer and the verifier call the same functions."""

import datetime
from collections.abc import Mapping

from pydantic import ValidationError

from forge.attest.authority import Authority
from forge.attest.layout import layout_of
from forge.attest.statements import STATEMENT_TYPE
from forge.attest.trust import TrustRoot
from forge.canonical import canonical_json, hex_of
from forge.contract.charter import Charter
from forge.contract.record import Delegation, RootChange
from forge.errors import TrustError

MOST_DAYS = 36_500.0
"""Retention for longer than a century counts as that: there are no later times to compare with."""
DELEGATION_TYPE = "urn:forge:delegation:v1"
ROOT_PAYLOAD_TYPE = "application/vnd.forge.trust-root+json"
"""The payload of a root change is the change itself: it is about no artifact that an in-toto subject could name."""


def delegation_statement(delegation: Delegation) -> bytes:
    """The root's word on a charter."""
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": "charter", "digest": {"sha256": hex_of(delegation.digest)}}],
            "predicateType": DELEGATION_TYPE,
            "predicate": delegation.model_dump(mode="json", exclude={"attestations"}),
        }
    )


def delegation_payloads(delegation: Delegation, root: TrustRoot) -> Mapping[str, bytes]:
    """Everything that the root signs with a delegation, by the name under which the ledger's entry lists it.

    Raises TrustError for a charter that this engine does not read, or for which no layout can be made.
    """
    charter = charter_of(delegation)
    authority = Authority(root, charter, charter)
    payloads = {"delegation": delegation_statement(delegation)}
    for shape in charter.supply_chain.shapes:
        payloads[f"layout-{shape}"] = layout_of(authority, shape, delegation.signed)
    return payloads


def charter_of(delegation: Delegation) -> Charter:
    """The charter that was signed; raises TrustError for one that this engine does not read."""
    try:
        charter = Charter.from_document(delegation.charter)
    except ValidationError as error:
        raise TrustError(f"delegation {delegation.version}: its charter is not one this engine reads: {error}") from error
    if charter.digest != delegation.digest:
        raise TrustError(
            f"delegation {delegation.version}: it names the charter {delegation.digest}, but holds {charter.digest}"
        )
    return charter


def root_payload(change: RootChange) -> bytes:
    """What the old root and the new one sign."""
    return canonical_json(change.model_dump(mode="json", exclude={"attestations"}))


def root_of(change: RootChange) -> TrustRoot:
    """The new root; raises TrustError for one that this engine does not read."""
    try:
        return TrustRoot.model_validate(change.root)
    except ValidationError as error:
        raise TrustError(f"root change {change.version}: not a trust root: {error}") from error


def expires_too_soon(charter: Charter, now: datetime.datetime, retention_days: float) -> str | None:
    """Why a charter may not be signed now: a layout has to outlive what retention keeps, or its chains end before it does."""
    ends = datetime.datetime.fromisoformat(charter.supply_chain.expires)
    least = now + datetime.timedelta(days=min(retention_days, MOST_DAYS))
    if ends >= least:
        return None
    return (
        f"it expires {charter.supply_chain.expires}, before the {retention_days:g} days that retention.days keeps records: "
        f"set `expires` to {least.strftime('%Y-%m-%dT%H:%M:%SZ')} or later"
    )
