"""The time stamp of one signature: when an authority saw it, or why that does not hold.

1. A token that is there has to hold wherever an authority is pinned: it is the pinned authority's, about this very signature.
2. One that is absent is refused where the supply chain in force at that place of the ledger asks for time stamps, and so is
   everything where it asks and nobody is pinned: what cannot be checked does not count.
3. Nothing else is asked: what was signed before anybody asked stays as it is.
"""

from collections.abc import Callable, Mapping

from forge.admission.history import History
from forge.attest.timestamps import PREFIX, TSA_FILE, stamped_time
from forge.errors import TrustError


def moment_of(
    name: str,
    names: Mapping[str, str],
    sealed: bytes,
    signature_of: Callable[[bytes], bytes],
    attestations: Mapping[str, bytes],
    history: History,
    sequence: int,
) -> str | None:
    """When the authority saw the signature of an attestation; None where no token is there, or nobody is pinned to judge it.

    Args:
        name: the attestation's, as its body lists it.
        names: all that the body lists, by name; digests.
        sealed: the attestation.
        signature_of: what the token has to be about, out of the attestation.
        attestations: by digest; a token that is absent could not be read, which is a finding of its own.
        history: who was trusted when, and whose time stamps are believed.
        sequence: the place of the body in the ledger.

    Raises TrustError where the token does not hold, or is absent and asked for.
    """
    asked = is_asked_for(history, sequence)
    digest = names.get(f"{PREFIX}{name}")
    if digest is None:
        if asked:
            raise TrustError(
                "it carries no time stamp, and the supply chain requires one: name an authority in forge.toml "
                "(`[timestamps]`), and have it signed anew"
            )
        return None
    if history.timestamps is None:
        if asked:
            raise TrustError(
                f"the supply chain requires time stamps, and no authority is pinned here ({TSA_FILE}) by which this one "
                "could be checked: `forge keys pin-timestamps FILE --fingerprint sha256:..`"
            )
        return None
    token = attestations.get(digest)
    return stamped_time(token, signature_of(sealed), history.timestamps) if token is not None else None


def is_asked_for(history: History, sequence: int) -> bool:
    """Whether the supply chain in force at an entry requires time stamps."""
    charter = history.authority(sequence).charter
    return charter is not None and charter.supply_chain.timestamps == "required"
