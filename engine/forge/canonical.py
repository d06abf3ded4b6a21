"""Canonical JSON (RFC 8785) and the digests made of it. Every identity in Forge is one of these."""

import hashlib
from collections.abc import Iterable
from typing import Any, NewType

import rfc8785

Digest = NewType("Digest", str)
"""``sha256:`` followed by 64 lower-case hexadecimal digits."""

PREFIX = "sha256:"
MAX_INTEGER = 2**53 - 1
"""The largest whole number that JSON keeps exactly in every reader."""


def canonical_json(value: Any) -> bytes:
    """Serialise JSON-like data to its one canonical form; raises ``rfc8785.CanonicalizationError`` for NaN and the like."""
    return rfc8785.dumps(value)


def digest_of_bytes(data: bytes) -> Digest:
    """The sha256 of some bytes."""
    return Digest(PREFIX + hashlib.sha256(data).hexdigest())


def digest_of_chunks(chunks: Iterable[bytes]) -> Digest:
    """The sha256 of a stream, in constant memory."""
    sha256 = hashlib.sha256()
    for chunk in chunks:
        sha256.update(chunk)
    return Digest(PREFIX + sha256.hexdigest())


def digest_of_json(value: Any) -> Digest:
    """The sha256 of a value's canonical JSON."""
    return digest_of_bytes(canonical_json(value))


def is_digest(text: str) -> bool:
    """Whether the text is written as a digest."""
    hexadecimal = text.removeprefix(PREFIX)
    return text.startswith(PREFIX) and len(hexadecimal) == 64 and set(hexadecimal) <= set("0123456789abcdef")


def hex_of(digest: str) -> str:
    """The hexadecimal part of a digest; raises ``ValueError`` for anything else."""
    if not is_digest(digest):
        raise ValueError(f"not a digest (expected sha256:<64 hex digits>): {digest!r}")
    return digest.removeprefix(PREFIX)
