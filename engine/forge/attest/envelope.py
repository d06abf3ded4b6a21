"""DSSE envelopes: sign bytes with a role's key, and open an envelope only by a key that the trust root gives the role."""

import json
from functools import lru_cache
from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import Signer, SSlibKey

from forge.attest.authority import Signer as KnownSigner
from forge.attest.authority import Signers
from forge.attest.statements import PAYLOAD_TYPE
from forge.attest.trust import PublicKey
from forge.canonical import canonical_json
from forge.errors import TrustError


def seal(payload: bytes, signer: Signer, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Sign a payload; returns the envelope as canonical JSON (https://github.com/secure-systems-lab/dsse).

    The type is signed with the payload: what is sealed as one type never opens as another.
    """
    envelope = Envelope(payload, payload_type, {})
    envelope.sign(signer)
    return canonical_json(envelope.to_dict())


def unseal(data: bytes, signers: Signers, name: str, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """The payload of an envelope; raises TrustError unless one of the signers signed it. ``name`` is for the message."""
    return opened_by(data, signers, name, payload_type)[0]


def opened_by(data: bytes, signers: Signers, name: str, payload_type: str = PAYLOAD_TYPE) -> tuple[bytes, KnownSigner]:
    """As ``unseal``; also which of the signers it was. An envelope with several signatures is opened by one of them."""
    try:
        document: dict[str, Any] = json.loads(data)
        is_canonical = _as_sealed(document) == data or canonical_json(document) == data
        envelope = Envelope.from_dict(document)  # takes the document apart
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TrustError(f"{name}: not a DSSE envelope: {error}") from error
    if not is_canonical:
        raise TrustError(f"{name}: the envelope is not in its canonical form")
    if envelope.payload_type != payload_type:
        raise TrustError(f"{name}: payload type {envelope.payload_type!r}, expected {payload_type!r}")
    refusals = []
    for signer in signers.known:
        try:
            envelope.verify([_library_key(signer.key)], 1)
        except (VerificationError, ValueError):
            continue
        if signer.refusal is None:
            return envelope.payload, signer
        refusals.append(f"the key {signer.name} {signer.refusal}")
    if refusals:
        raise TrustError(f"{name}: {'; '.join(refusals)}")
    signed_by = ", ".join(str(keyid)[:12] for keyid in envelope.signatures) or "nobody"
    raise TrustError(f"{name}: no valid signature of the role {signers.role} (signed by {signed_by})")


def _as_sealed(document: dict[str, Any]) -> bytes | None:
    """The canonical form of an envelope with one signature and nothing to escape; None for any other document.

    It is written without looking for what to escape: where there is any, it differs from what was read.
    """
    match document:
        case {"payload": str(payload), "payloadType": str(kind), "signatures": [{"keyid": str(keyid), "sig": str(sig)}]}:
            text = f'{{"payload":"{payload}","payloadType":"{kind}","signatures":[{{"keyid":"{keyid}","sig":"{sig}"}}]}}'
            return text.encode(errors="surrogatepass")
    return None


@lru_cache(maxsize=256)
def _library_key(key: PublicKey) -> SSlibKey:
    return SSlibKey(key.keyid, key.keytype, key.scheme, {"public": key.public})
