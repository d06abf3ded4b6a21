"""RFC 3161 time stamps of signatures: a pinned authority's word that a signature was there at a moment.

A token is about one signature's bytes, as Sigstore has it, so ``openssl ts -verify`` and ``@sigstore/verify`` check the same
file. It is kept as the authority's whole answer (DER, ``TimeStampResp``) beside the attestation that it is about.

Invariant: which authority is believed stands in the verifier's own configuration folder, ``tsa.pem``, never in the repository:
self-signed certificates, and those between them and the authority's own. A token counts when one of these chains leads to its
signer, every certificate of it valid at the time that the token states, and the signer's own is for time stamping.
"""

import base64
import binascii
import datetime
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from rfc3161_client import TimeStampResponse, VerificationError, VerifierBuilder, decode_timestamp_response

from forge.errors import TrustError, printable
from forge.own_files import read_own_file

TSA_FILE = "tsa.pem"
PREFIX = "timestamp-"
"""``timestamp-NAME`` is the token over the signature of the attestation NAME."""
MOST_BYTES = 64 * 1024
"""No token is larger: one with its chain of certificates has a few thousand bytes."""
_GRANTED = 0
_VERIFY_ERROR = re.compile(r'Verify error:\s*([^"\]]+)')
_FINGERPRINT = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


@dataclass(frozen=True)
class TimestampAuthority:
    """Whose time stamps are believed."""

    anchors: tuple[x509.Certificate, ...]
    """Self-signed certificates, at least one."""
    between: tuple[x509.Certificate, ...] = ()
    """Certificates between an anchor and the authority's own: an answer need not carry them."""

    def describe(self) -> str:
        """The anchors by name and fingerprint."""
        return ", ".join(f"{printable(each.subject.rfc4514_string())} ({fingerprint(each)})" for each in self.anchors)


def fingerprint(certificate: x509.Certificate) -> str:
    """``sha256:`` and the digest of a certificate's DER, which ``openssl x509 -fingerprint -sha256`` prints with colons."""
    return f"sha256:{certificate.fingerprint(SHA256()).hex()}"


def read_timestamp_authority(folder: Path) -> TimestampAuthority | None:
    """The pinned authority; None where none is pinned. Raises TrustError for a file that others can write, or of no use."""
    path = folder / TSA_FILE
    try:
        data = read_own_file(path)
    except FileNotFoundError:
        return None
    return _parse(data, str(path))


def pin_timestamp_authority(folder: Path, data: bytes, fingerprints: Sequence[str], *, replace: bool) -> TimestampAuthority:
    """Pin the authority whose self-signed certificates have these fingerprints, known from elsewhere.

    Raises TrustError where the file holds another self-signed certificate, or lacks one, and where another authority is pinned
    unless ``replace`` says that it is to go.
    """
    wanted = {_normal(text) for text in fingerprints}
    authority = _parse(data, "the file")
    found = {fingerprint(each) for each in authority.anchors}
    if found != wanted:
        raise TrustError(
            f"the file's self-signed certificates have the fingerprints {', '.join(sorted(found))}, and "
            f"{', '.join(sorted(wanted)) or 'none'} is to be pinned: it is another authority's, or was changed"
        )
    before = read_timestamp_authority(folder)
    if before is not None and before != authority and not replace:
        raise TrustError(
            f"{folder / TSA_FILE} pins {before.describe()} already. To believe both, pin one file with the certificates of "
            "both and `--replace`; with the old one gone, tokens of it no longer hold"
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = folder / f"{TSA_FILE}.{os.getpid()}.tmp"
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), "wb") as file:
        file.write(data)
    temporary.chmod(0o644)
    temporary.replace(folder / TSA_FILE)
    return authority


def signature_in(attestation: bytes) -> bytes:
    """The signature of an envelope or a bundle, which a token is about; raises TrustError where there is not exactly one."""
    signatures = signatures_in(attestation)
    if len(signatures) != 1:
        raise TrustError(f"a time stamp is about one signature, and the attestation has {len(signatures)}")
    return signatures[0]


def signatures_in(attestation: bytes) -> list[bytes]:
    """The signatures of an envelope or a bundle; raises TrustError for what is neither."""
    try:
        document = json.loads(attestation)
        rows = document.get("dsseEnvelope", document)["signatures"]
        return [base64.b64decode(row["sig"], validate=True) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        raise TrustError(f"not an attestation with a signature: {error!r}") from error


def read_token(token: bytes) -> TimeStampResponse:
    """An authority's answer that holds a token; raises TrustError for any other, cut off or refused."""
    if len(token) > MOST_BYTES:
        raise TrustError(f"it has {len(token):,} bytes, and no time-stamp token is larger than {MOST_BYTES:,}")
    try:
        answer = decode_timestamp_response(token)
        if answer.status != _GRANTED:
            words = "; ".join(printable(text) for text in answer.status_string) or "without a reason"
            raise TrustError(f"the authority did not grant a time stamp (status {answer.status}): {words}")
        _ = answer.tst_info  # read here, where a fault of its form is caught
    except ValueError as error:
        raise TrustError(f"it is no whole time-stamp answer in DER: {printable(str(error))}") from error
    return answer


def stated_time(token: bytes) -> str | None:
    """What a token says, whoever signed it: UTC, RFC 3339; None where it says nothing that can be read."""
    try:
        moment: datetime.datetime = read_token(token).tst_info.gen_time
    except TrustError:
        return None
    return moment.astimezone(datetime.UTC).isoformat()


def stamped_time(token: bytes, signature: bytes, authority: TimestampAuthority, *, nonce: int | None = None) -> str:
    """When the authority saw a signature: UTC, RFC 3339. Raises TrustError where the token is not its word on these very bytes.

    The certificates have to be valid at the time that the token states, not now: a token outlives its signer's certificate.
    ``nonce`` is that of the request where one was just made; a token from the ledger answers no request.
    """
    answer = read_token(token)
    verifier = VerifierBuilder(roots=list(authority.anchors), intermediates=list(authority.between), nonce=nonce).build()
    try:
        verifier.verify_message(answer, signature)
    except (VerificationError, ValueError) as error:
        raise TrustError(f"{_words(str(error))} (pinned: {authority.describe()})") from error
    moment: datetime.datetime = answer.tst_info.gen_time
    return moment.astimezone(datetime.UTC).isoformat()


_PURPOSE = "its signer's certificate is not for time stamping alone (critical extended key usage timeStamping)"
_WORDS = {
    "Mismatch between messages": "the time stamp is about another signature",
    "Nonce mismatch": "the time stamp answers another request",
    "The EKU extension does not have KeyPurposeID id-kp-timeStamping.": _PURPOSE,
    "The certificate does not contain the critical EKU extension.": _PURPOSE,
    "The EKU extension is not critical.": _PURPOSE,
}


def _words(reason: str) -> str:
    """The library's reason in words that say what is at fault."""
    found = _VERIFY_ERROR.search(reason)
    if found is None:
        return _WORDS.get(reason, f"the time stamp does not hold: {printable(reason)}")
    fault = found.group(1).strip()
    if "expired" in fault or "not yet valid" in fault:
        return f"a certificate of the time stamp's signer was not valid at the time that it states ({fault})"
    if fault == "unsuitable certificate purpose":
        return _PURPOSE
    return f"the time stamp is not signed by the pinned authority ({fault})"


def _parse(data: bytes, place: str) -> TimestampAuthority:
    if b"PRIVATE KEY" in data:
        raise TrustError(f"{place}: it holds a private key: an authority's certificates are pinned, nothing else")
    try:
        found = x509.load_pem_x509_certificates(data)
        anchors = tuple(each for each in found if _is_self_signed(each))
        between = tuple(each for each in found if each not in anchors)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrustError(f"{place}: not certificates in PEM: {printable(str(error))}") from error
    if not anchors:
        raise TrustError(
            f"{place}: none of its {len(found)} certificates is self-signed: pin the one that the authority's chain ends in"
        )
    return TimestampAuthority(anchors, between)


def _is_self_signed(certificate: x509.Certificate) -> bool:
    if certificate.issuer != certificate.subject:
        return False
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, TypeError):
        return False
    return True


def _normal(text: str) -> str:
    found = _FINGERPRINT.fullmatch(text.strip().lower().replace(":", "").replace("sha256", "", 1))
    if found is None:
        raise TrustError(
            f"{printable(text)!r} is no SHA-256 fingerprint of a certificate: expected sha256: and 64 hexadecimal digits, or "
            "what `openssl x509 -noout -fingerprint -sha256` prints after the equals sign"
        )
    return f"sha256:{found.group(1)}"
