"""What an environment served before, as far as its releaser signed it.

Whoever can write the ledger's ref can append a release that nobody signed. It is no release: were it taken for one, it would
say which commits are old, and an author could approve their own change by naming it as released already.
"""

from collections.abc import Callable, Sequence

from forge.admission.history import History
from forge.attest.envelope import unseal
from forge.attest.statements import release_statement
from forge.contract.kinds import StepKind
from forge.contract.record import Release
from forge.errors import LedgerError, TrustError
from forge.ledger.entry import Entry

Read = Callable[[str], bytes]
"""An attestation by its digest; raises LedgerError where the ledger does not have it."""


def release_before(entries: Sequence[Entry], environment: str, sequence: int, read: Read, history: History) -> Release | None:
    """The newest signed release of an environment before a place of the ledger; ``entries`` are in its order."""
    for entry in reversed(entries):
        body = entry.body
        if not isinstance(body, Release) or body.environment != environment or entry.sequence >= sequence:
            continue
        if _is_signed(entry, body, read, history):
            return body
    return None


def served_before(entries: Sequence[Entry], sequence: int, read: Read, history: History) -> list[str]:
    """The commits of what each environment served before a place of the ledger, as far as that was signed."""
    environments = {entry.body.environment for entry in entries if isinstance(entry.body, Release)}
    found = (release_before(entries, environment, sequence, read, history) for environment in environments)
    return sorted({release.commit for release in found if release is not None})


def signed_releases(entries: Sequence[Entry], read: Read, history: History) -> tuple[Release, ...]:
    """The releases among some entries that their releaser signed, in their order."""
    return tuple(e.body for e in entries if isinstance(e.body, Release) and _is_signed(e, e.body, read, history))


def _is_signed(entry: Entry, body: Release, read: Read, history: History) -> bool:
    authority = history.authority(entry.sequence)
    try:
        signers = authority.signers(authority.role_of(StepKind.RELEASE), history.moment(entry.sequence, body.moved))
        return unseal(read(body.attestations.get("release", "")), signers, "release") == release_statement(body)
    except (TrustError, LedgerError, ValueError):  # ValueError: what it lists is no digest
        return False
