"""A checkpoint (c2sp.org/tlog-checkpoint): a log's origin, size and root, signed by the log and perhaps by witnesses.

Invariant: a Checkpoint that ``read_checkpoint`` returns was signed by the key that the caller trusts for that log, and its
origin is that key's name; so a log cannot pass for another one.
"""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from forge.errors import TrustError, printable
from forge.tlog.merkle import HASH_SIZE, Hash
from forge.tlog.note import Signature, VerifierKey, read_note, sign_note

MOST_LEAVES = 2**63 - 1


@dataclass(frozen=True)
class Checkpoint:
    """The state of a log at one size."""

    origin: str
    size: int
    root: Hash

    def to_text(self) -> str:
        """The note's text."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    def __str__(self) -> str:
        return f"{self.origin} at {self.size} leaves, root {self.root.hex()}"


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint with the bytes that it was read from, and who was found to have signed them."""

    checkpoint: Checkpoint
    data: bytes
    cosignatures: tuple[Signature, ...] = ()
    """Of the witnesses that were asked for."""


def sign_checkpoint(checkpoint: Checkpoint, private: Ed25519PrivateKey) -> SignedCheckpoint:
    """Sign as the log: the key's name is the origin."""
    return SignedCheckpoint(checkpoint, sign_note(checkpoint.to_text(), checkpoint.origin, private).encode())


def read_checkpoint(data: bytes, key: VerifierKey, witnesses: Iterable[VerifierKey] = ()) -> SignedCheckpoint:
    """Read a checkpoint of the log that a key belongs to; raises TrustError. Who has cosigned is said, not asked for."""
    note = read_note(data, (key, *witnesses))
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != key.name:
        raise TrustError(f"the checkpoint is of the log {printable(checkpoint.origin)!r}, expected {key.name!r}")
    if key not in {signature.key for signature in note.signatures}:
        raise TrustError(f"the checkpoint {checkpoint} is not signed by its log's key {key.name}+{key.id.hex()}")
    return SignedCheckpoint(checkpoint, data, tuple(signature for signature in note.signatures if signature.key != key))


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a note's text; lines after the third are signed with it and otherwise passed over. Raises TrustError."""
    lines = text.removesuffix("\n").split("\n")
    if len(lines) < 3 or not all(lines):
        raise TrustError("not a checkpoint: expected at least three lines, none of them empty: origin, size and root")
    origin, size, root = lines[:3]
    try:
        decoded = base64.b64decode(root, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if len(decoded) != HASH_SIZE or base64.b64encode(decoded).decode() != root:
        raise TrustError(f"not a checkpoint: the root {printable(root[:80])!r} is not the base64 of a sha256")
    is_number = size.isascii() and size.isdigit() and len(size) <= 19 and (size == "0" or size[0] != "0")
    if not is_number or int(size) > MOST_LEAVES:
        raise TrustError(f"not a checkpoint: the size {printable(size[:80])!r} is no whole number below 2^63")
    return Checkpoint(origin, int(size), Hash(decoded))
