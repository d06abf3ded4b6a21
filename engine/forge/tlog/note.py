"""Signed notes (c2sp.org/signed-note): the keys, the syntax, and the two kinds of signature that we make and check.

Rules:
- A key is its name and its id together; a signature of any other key is passed over, never believed.
- A signature of a known key that does not verify makes the whole note untrusted.
- An Ed25519 signature (type 1) is over the note's text; a cosignature (type 4, c2sp.org/tlog-cosignature) is over the time
  and the text, and says when a witness had seen nothing that contradicts it.
- What is not exactly in the format is refused: two readers must never see two notes in the same bytes.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from forge.errors import TrustError, printable

MOST_BYTES = 1 << 20
MOST_SIGNATURES = 100
_DASH = "\u2014 "
_VKEY = re.compile(r"([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)")


class SignatureType(IntEnum):
    """What a key signs; part of its id, so that one key can do both without being taken for the other."""

    ED25519 = 1
    """The note's text."""
    COSIGNATURE = 4
    """A time and the note's text."""


@dataclass(frozen=True)
class VerifierKey:
    """A public key with its name, as verifiers are configured with it."""

    name: str
    type: SignatureType
    public: bytes

    def __post_init__(self) -> None:
        check_key_name(self.name)

    @property
    def id(self) -> bytes:
        """Four bytes that name the key in a signature line; no secret and no strong hash."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.type]) + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_encode(bytes([self.type]) + self.public)}"


@dataclass(frozen=True)
class Signature:
    """One signature that verified."""

    key: VerifierKey
    time: int | None
    """Of a cosignature, POSIX seconds."""


@dataclass(frozen=True)
class Note:
    """A text, and which of the keys asked for have signed it."""

    text: str
    signatures: tuple[Signature, ...]


def check_key_name(name: str) -> None:
    """Raise TrustError for a name that no key can have."""
    if not name or "+" in name or any(character.isspace() or not character.isprintable() for character in name):
        raise TrustError(f"{printable(name)!r} is no name of a key: expected something without spaces and plus signs")


def parse_verifier_key(text: str) -> VerifierKey:
    """Read ``name+id+base64``; raises TrustError."""
    match = _VKEY.fullmatch(text.strip())
    data = _decode(match.group(3)) if match else None
    if match is None or data is None or len(data) != 33 or data[0] not in tuple(SignatureType):
        raise TrustError(f"{printable(text)!r} is no verifier key: expected NAME+ID+KEY of type 1 (Ed25519) or 4 (cosignature)")
    key = VerifierKey(match.group(1), SignatureType(data[0]), data[1:])
    if key.id.hex() != match.group(2):
        raise TrustError(f"{printable(text)!r}: the key's id is {key.id.hex()}, not {match.group(2)}: the line was altered")
    return key


def check_independent(log: VerifierKey, witnesses: Iterable[VerifierKey]) -> None:
    """Raise TrustError for a witness with the key of the log, or of another witness: under whatever name, it adds nobody."""
    owners = {log.public: f"the log {log.name}"}
    for witness in witnesses:
        owner = owners.get(witness.public)
        if owner is not None:
            raise TrustError(f"the witness {witness.name} has the key of {owner}: it is nobody else, so it vouches for nothing")
        owners[witness.public] = f"the witness {witness.name}"


def verifier_key(name: str, private: Ed25519PrivateKey, kind: SignatureType = SignatureType.ED25519) -> VerifierKey:
    """The key that others check a private key's signatures with."""
    return VerifierKey(name, kind, private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def sign_note(text: str, name: str, private: Ed25519PrivateKey) -> str:
    """A note with one signature over its text."""
    _check_text(text)
    key = verifier_key(name, private)
    return f"{text}\n{_line(key, private.sign(text.encode()))}"


def cosign_note(text: str, name: str, private: Ed25519PrivateKey, time: int) -> str:
    """The line of a cosignature; appended to the note, it is one of its signatures."""
    _check_text(text)
    key = verifier_key(name, private, SignatureType.COSIGNATURE)
    return _line(key, time.to_bytes(8, "big") + private.sign(_cosigned(text, time)))


def read_note(data: bytes, keys: Iterable[VerifierKey]) -> Note:
    """Read a note and check every signature of the given keys; raises TrustError unless one of them has signed it."""
    text, lines = split_note(data)
    known = {(key.name, key.id): key for key in keys}
    found: dict[VerifierKey, Signature] = {}
    for name, blob in lines:
        key = known.get((name, blob[:4]))
        if key is not None and key not in found:
            found[key] = Signature(key, _check_signature(text, key, blob[4:]))
    if not found:
        names = ", ".join(sorted({f"{printable(name)}+{blob[:4].hex()}" for name, blob in lines}))
        asked = ", ".join(sorted(f"{key.name}+{key.id.hex()}" for key in known.values())) or "nobody"
        raise TrustError(f"the note is signed by {names}, but not by {asked}")
    return Note(text, tuple(found.values()))


def split_note(data: bytes) -> tuple[str, list[tuple[str, bytes]]]:
    """A note's text and its signatures (name, key id and signature), none of them checked; raises TrustError."""
    if len(data) > MOST_BYTES:
        _malformed(f"it is longer than {MOST_BYTES} bytes")
    try:
        note = data.decode("utf-8")
    except UnicodeDecodeError:
        _malformed("it is not UTF-8")
    if any(character < " " and character != "\n" for character in note):
        _malformed("it holds a control character")
    text, separator, rest = note.rpartition("\n\n")
    if not separator or not text or not rest.endswith("\n"):
        _malformed("expected a text, an empty line and signatures")
    lines = rest[:-1].split("\n")
    if len(lines) > MOST_SIGNATURES:
        _malformed(f"it has more than {MOST_SIGNATURES} signatures")
    return text + "\n", [_split_line(line) for line in lines]


def _split_line(line: str) -> tuple[str, bytes]:
    name, separator, encoded = line.removeprefix(_DASH).partition(" ")
    blob = _decode(encoded)
    if not line.startswith(_DASH) or not separator or blob is None or len(blob) < 5:
        _malformed(f"{printable(line[:80])!r} is no line of a signature")
    check_key_name(name)
    return name, blob


def _check_signature(text: str, key: VerifierKey, signature: bytes) -> int | None:
    """The time of a cosignature; raises TrustError where the signature does not verify."""
    time = None
    signed = text.encode()
    if key.type is SignatureType.COSIGNATURE:
        time = int.from_bytes(signature[:8], "big")
        signature, signed = signature[8:], _cosigned(text, time)
        if time >= 2**63:
            raise TrustError(f"the cosignature of {key.name} is for a time beyond 2^63")
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, signed)
    except InvalidSignature as error:
        raise TrustError(
            f"the signature of {key.name}+{key.id.hex()} does not verify: the note was altered, or another key made it"
        ) from error
    return time


def _cosigned(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def _check_text(text: str) -> None:
    if not text.endswith("\n") or len(text) < 2 or any(character < " " and character != "\n" for character in text):
        _malformed("a note's text ends with a newline and holds no other control character")


def _line(key: VerifierKey, signature: bytes) -> str:
    return f"{_DASH}{key.name} {_encode(key.id + signature)}\n"


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes | None:
    """Strictly: the one encoding of the bytes, or None."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if _encode(data) == text else None


def _malformed(reason: str) -> NoReturn:
    raise TrustError(f"not a signed note: {reason}")
