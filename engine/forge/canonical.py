"""Canonical JSON (RFC 8785) and the digests made of it. Every identity in Forge is one of these."""

import hashlib
import re
from collections.abc import Iterable
from json.encoder import encode_basestring
from typing import Any, NewType

import rfc8785

Digest = NewType("Digest", str)
"""``sha256:`` followed by 64 lower-case hexadecimal digits."""

PREFIX = "sha256:"
MAX_INTEGER = 2**53 - 1
"""The largest whole number that JSON keeps exactly in every reader."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class _NotPlainError(Exception):
    """The value is left to the library, to serialise or to refuse."""


def canonical_json(value: Any) -> bytes:
    """Serialise JSON-like data to its one canonical form; raises ``rfc8785.CanonicalizationError`` for NaN and the like.

    The library decides. What has no names beyond ASCII is written here, plain fractions too, as the same bytes in a third of
    the time, because verifying a long ledger is mostly this.
    """
    try:
        return _plain(value).encode()
    except (_NotPlainError, TypeError, UnicodeEncodeError, RecursionError):
        return rfc8785.dumps(value)


def _plain(value: Any) -> str:
    kind = type(value)
    if kind is str:
        text = encode_basestring(value)
    elif kind is dict:
        if not "".join(value).isascii():  # a TypeError where a name is no string
            raise _NotPlainError  # names are ordered as UTF-16
        items = [
            f"{encode_basestring(name)}:{encode_basestring(item) if type(item) is str else _plain(item)}"
            for name, item in sorted(value.items())
        ]
        text = "{" + ",".join(items) + "}"
    elif kind is list or kind is tuple:
        text = "[" + ",".join([_plain(item) for item in value]) + "]"
    elif kind is int and -MAX_INTEGER <= value <= MAX_INTEGER:
        text = str(value)
    elif value is None:
        text = "null"
    elif kind is bool:
        text = "true" if value else "false"
    elif kind is float:  # as in JavaScript, which writes a power of ten below 1e-6 and from 1e21 on: Python does earlier
        text = repr(value) if 1e-4 <= value < 1e16 and value % 1 else rfc8785.dumps(value).decode()
    else:
        raise _NotPlainError
    return text


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
    return _DIGEST.fullmatch(text) is not None


def hex_of(digest: str) -> str:
    """The hexadecimal part of a digest; raises ``ValueError`` for anything else."""
    if not is_digest(digest):
        raise ValueError(f"not a digest (expected sha256:<64 hex digits>): {digest!r}")
    return digest.removeprefix(PREFIX)
