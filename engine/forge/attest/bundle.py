"""DSSE envelopes as Sigstore bundles v0.3, and public keys as PEM: the forms that verifiers in other languages read.

Pure: a bundle is made from an envelope whenever somebody asks for one, so the ledger keeps one form.
``verificationMaterial`` names a raw public key by a hint; there is neither certificate nor transparency log in it, so whoever
verifies brings the key and asks for no log entries. A time stamp of the signature goes with it where there is one. A bundle
holds one signature: an envelope with several gives several.
(https://github.com/sigstore/protobuf-specs, sigstore_bundle.proto)
"""

import base64
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from forge.attest.trust import PublicKey
from forge.canonical import canonical_json
from forge.errors import TrustError

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def bundle_of(envelope: bytes, hint: str) -> bytes:
    """The bundle of an envelope with one signature, in canonical JSON; ``hint`` names the public key."""
    document = _parse(envelope)
    if len(document["signatures"]) != 1:
        raise TrustError(
            f"a Sigstore bundle holds one signature, the envelope has {len(document['signatures'])}: use bundles_of"
        )
    return _bundle(document, document["signatures"][0], hint)


def bundles_of(envelope: bytes) -> dict[str, bytes]:
    """Key id -> the bundle with that key's signature, for every signature of an envelope; the hint is the key id."""
    document = _parse(envelope)
    return {entry["keyid"]: _bundle(document, entry, entry["keyid"]) for entry in document["signatures"]}


def with_timestamp(bundle: bytes, token: bytes) -> bytes:
    """A bundle that carries an authority's answer (RFC 3161, DER) with a token over its signature, where Sigstore has it."""
    document = json.loads(bundle)
    rows = [{"signedTimestamp": base64.b64encode(token).decode()}]
    document["verificationMaterial"]["timestampVerificationData"] = {"rfc3161Timestamps": rows}
    return canonical_json(document)


def signed_by(envelope: bytes) -> tuple[str, ...]:
    """The ids of the keys that an envelope says it was signed with."""
    return tuple(row["keyid"] for row in _parse(envelope)["signatures"])


def payload_of(attestation: bytes) -> dict[str, Any]:
    """The JSON that an envelope or a bundle carries, unverified; an empty object where there is none."""
    try:
        document = json.loads(attestation)
        envelope = document.get("dsseEnvelope", document)
        payload = json.loads(base64.b64decode(envelope["payload"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return payload if isinstance(payload, dict) else {}


def is_bundle(attestation: bytes) -> bool:
    """Whether some bytes are a Sigstore bundle already, as the signature of weights is."""
    try:
        document = json.loads(attestation)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("mediaType") == BUNDLE_TYPE


def pem_of(key: PublicKey) -> str:
    """A public key of the trust root as PEM (SubjectPublicKeyInfo)."""
    if key.keytype != "ed25519":
        return key.public  # securesystemslib keeps every other type as PEM
    raw = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public))
    return raw.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _parse(envelope: bytes) -> dict[str, Any]:
    try:
        document = json.loads(envelope)
        rows = [(row["keyid"], row["sig"]) for row in document["signatures"]]
        shape = (document["payload"], document["payloadType"], *(text for row in rows for text in row))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TrustError(f"not a DSSE envelope: {error!r}") from error
    if not all(isinstance(text, str) for text in shape):
        raise TrustError("not a DSSE envelope: payload, type, key ids and signatures are texts")
    return dict(document)


def _bundle(document: dict[str, Any], signature: dict[str, str], hint: str) -> bytes:
    return canonical_json(
        {
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": document["payload"],
                "payloadType": document["payloadType"],
                "signatures": [{"keyid": signature["keyid"], "sig": signature["sig"]}],
            },
        }
    )
