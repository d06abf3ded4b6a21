"""Whose keys an attestation names, as its envelope says: a claim, to be believed only of an envelope that was verified.

An envelope's signature is checked with the key whose id stands beside it, so a signature under another key's id never holds.
"""

import json


def named_signers(attestation: bytes) -> frozenset[str]:
    """The key ids of a DSSE envelope; none for what is no envelope (a signature over weights names no key id)."""
    try:
        signatures = json.loads(attestation)["signatures"]
        return frozenset(str(signature["keyid"]) for signature in signatures)
    except (ValueError, KeyError, TypeError, RecursionError):
        return frozenset()
