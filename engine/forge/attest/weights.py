"""OpenSSF model signatures over weights (https://github.com/ossf/model-signing-spec), with a P-256 key.

The signed statement lists each file with its sha256. Whoever signs or verifies here has hashed the files already, for the
artifact's manifest: the statement is made from the manifest and compared with it, and no byte is hashed twice. The library
``model_signing`` accepts these signatures and refuses what is refused here, which tests/outside shows.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from securesystemslib.dsse import Envelope
from securesystemslib.signer import Signer

from forge.attest.bundle import BUNDLE_TYPE, bundle_of
from forge.attest.statements import PAYLOAD_TYPE, STATEMENT_TYPE
from forge.canonical import canonical_json, hex_of
from forge.contract.manifest import Manifest
from forge.errors import TrustError

SIGNATURE_TYPE = "https://model_signing/signature/v1.0"
MODEL_NAME = "weights"
_HASHES: dict[int, HashAlgorithm] = {256: SHA256(), 384: SHA384(), 521: SHA512()}
"""By the size of the curve, as Sigstore's registry of algorithms pairs them."""


def sign_weights(manifest: Manifest, signer: Signer) -> bytes:
    """Sign every file of an artifact; returns the signature, a Sigstore bundle in canonical JSON.

    ``signer`` is one of securesystemslib's with a P-256 key: a file's, or that of a token or a key service.
    """
    if signer.public_key.keytype != "ecdsa":
        raise TrustError(f"weights are signed with a P-256 key, not with one of type {signer.public_key.keytype}")
    public = _public(signer.public_key.keyval["public"])
    envelope = Envelope(canonical_json(_statement(manifest)), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return bundle_of(canonical_json(envelope.to_dict()), _hint(public))


def verify_weights(manifest: Manifest, signature: bytes, public_keys: Sequence[str]) -> None:
    """Raise TrustError unless one of the keys signed exactly the files of the manifest.

    That the files have the manifest's digests is not looked at here: it was, when they were hashed.
    """
    reasons = []
    for number, pem in enumerate(public_keys, 1):
        try:
            signed = _open(signature, pem)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reasons.append(f"key {number}: {error}")
            continue
        expected = {file.path: hex_of(file.sha256) for file in manifest.files}
        if signed != expected:
            raise TrustError(f"the OpenSSF signature of the weights does not hold: {_difference(signed, expected)}")
        return
    raise TrustError(
        "the OpenSSF signature of the weights does not hold: " + "; ".join(reasons or ["no key is trusted for weights"])
    )


def _statement(manifest: Manifest) -> dict[str, Any]:
    rows = [{"name": file.path, "algorithm": "sha256", "digest": hex_of(file.sha256)} for file in manifest.files]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": MODEL_NAME, "digest": {"sha256": _root(row["digest"] for row in rows)}}],
        "predicateType": SIGNATURE_TYPE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": rows,
        },
    }


def _open(signature: bytes, pem: str) -> dict[str, str]:
    """Path -> sha256 in hexadecimal, of the files that the key signed; raises ValueError, KeyError or TypeError."""
    key = _public(pem)
    bundle = json.loads(signature)
    if bundle["mediaType"] != BUNDLE_TYPE:
        raise ValueError(f"media type {bundle['mediaType']!r}, expected {BUNDLE_TYPE!r}")
    hint = bundle["verificationMaterial"]["publicKey"].get("hint")
    if hint and hint != _hint(key):
        raise ValueError(f"it was signed with another key (hint {hint[:12]}, this key's is {_hint(key)[:12]})")
    document = bundle["dsseEnvelope"]
    if document["payloadType"] != PAYLOAD_TYPE:
        raise ValueError(f"payload type {document['payloadType']!r}, expected {PAYLOAD_TYPE!r}")
    (entry,) = document["signatures"]
    payload = base64.b64decode(document["payload"], validate=True)
    try:
        key.verify(
            base64.b64decode(entry["sig"], validate=True),
            Envelope(payload, PAYLOAD_TYPE, {}).pae(),
            ec.ECDSA(_HASHES[key.curve.key_size]),
        )
    except InvalidSignature as error:
        raise ValueError("the signature is not this key's over this statement") from error
    return _files(json.loads(payload))


def _files(statement: dict[str, Any]) -> dict[str, str]:
    """What a verified statement lists; raises ValueError where it contradicts itself or is of another kind."""
    predicate = statement["predicate"]
    kinds = (statement["_type"], statement["predicateType"])
    how = (predicate["serialization"]["method"], predicate["serialization"]["hash_type"])
    if kinds != (STATEMENT_TYPE, SIGNATURE_TYPE) or how != ("files", "sha256"):
        raise ValueError(f"it is signed, but as {kinds[1]} with {how}: expected {SIGNATURE_TYPE} over files by sha256")
    rows = predicate["resources"]
    files = {row["name"]: row["digest"] for row in rows}
    (subject,) = statement["subject"]
    if len(files) != len(rows) or any(row["algorithm"] != "sha256" for row in rows):
        raise ValueError("its list of files names one twice, or hashes one by another algorithm")
    if subject["digest"]["sha256"] != _root(row["digest"] for row in rows):
        raise ValueError("its subject is not the digest of its list of files")
    return files


def _public(pem: str) -> ec.EllipticCurvePublicKey:
    key = load_pem_public_key(pem.encode())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError("the key that is trusted for weights is no elliptic-curve key")
    return key


def _root(digests: Any) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests)).hexdigest()


def _hint(key: ec.EllipticCurvePublicKey) -> str:
    """What the bundle says of the key: sha256 of its PEM, as model_signing expects it."""
    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _difference(signed: dict[str, str], expected: dict[str, str]) -> str:
    parts = {
        "not signed": sorted(expected.keys() - signed.keys()),
        "signed but absent": sorted(signed.keys() - expected.keys()),
        "other bytes than were signed": sorted(
            name for name in signed.keys() & expected.keys() if signed[name] != expected[name]
        ),
    }
    return "; ".join(f"{what}: {', '.join(names[:5])}" for what, names in parts.items() if names)
