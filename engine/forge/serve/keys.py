"""API keys: resolved from their references at start, compared by digest, never written anywhere.

Invariant: a key that cannot be resolved, is empty, is short or stands twice is an error at start. None of them may
become a door that is open.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from forge.errors import ServeError
from forge.spec.inference_policy import InferencePolicySpec, RoleSpec

SHORTEST_KEY = 16


@dataclass(frozen=True)
class Key:
    """One API key, as its digest."""

    digest: bytes
    role: RoleSpec

    @property
    def id(self) -> str:
        """What logs call it: the first 8 hexadecimal digits of its sha256."""
        return self.digest.hex()[:8]


def resolve_keys(policy: InferencePolicySpec, environment: Mapping[str, str]) -> tuple[Key, ...]:
    """Read every key of every role; raises ServeError that names the reference, and never the key."""
    keys: dict[bytes, tuple[str, Key]] = {}
    for role in policy.roles:
        for reference in role.keys:
            digest = hashlib.sha256(resolve_secret(reference, environment).encode()).digest()
            if digest in keys:
                raise ServeError(f"{reference} and {keys[digest][0]} hold the same API key: each needs one of its own")
            keys[digest] = (reference, Key(digest, role))
    return tuple(key for _, key in keys.values())


def find_key(keys: Sequence[Key], presented: str) -> Key | None:
    """The key that was presented; takes the same time wherever it stands in the list, and if it stands nowhere."""
    digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).digest()
    found = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def resolve_secret(reference: str, environment: Mapping[str, str]) -> str:
    """Read the secret that an ``env:`` or ``file:`` reference names; raises ServeError for one that is absent or weak."""
    scheme, _, place = reference.partition(":")
    if scheme == "env":
        value = environment.get(place)
        if value is None:
            raise ServeError(f"{reference}: the API key is not set: set the environment variable {place}")
    else:
        try:
            value = Path(place).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ServeError(f"{reference}: the API key cannot be read: {type(error).__name__}") from error
    if len(value) < SHORTEST_KEY or not value.isascii() or not value.isprintable() or " " in value:
        raise ServeError(
            f"{reference}: not usable as an API key: expected at least {SHORTEST_KEY} printable ASCII characters without "
            f"spaces, found {len(value)} characters: make one with `openssl rand -hex 24`"
        )
    return value
