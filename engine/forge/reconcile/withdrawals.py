"""The withdrawals that the ledger notes, judged as a verifier would: which of them hold."""

from collections.abc import Sequence

from forge.admission.history import delegated
from forge.admission.lifting import unfounded
from forge.admission.signed import is_signed
from forge.attest.trust import read_trust_root
from forge.contract.record import Withdrawal
from forge.errors import TrustError
from forge.ledger.entry import Entry, withdrawal_folder
from forge.ledger.ledger import Snapshot
from forge.reconcile.place import Place


def unheld(place: Place, snapshot: Snapshot) -> frozenset[str]:
    """The subjects whose newest entry does not hold; none where no root is pinned, by which that could be told."""
    found = set()
    for subject in snapshot.withdrawals():
        entries = snapshot.entries_in(withdrawal_folder(subject))
        try:
            if why_unheld(place, snapshot, entries) is not None:
                found.add(subject)
        except TrustError:
            return frozenset()
    return frozenset(found)


def why_unheld(place: Place, snapshot: Snapshot, entries: Sequence[Entry], new: Withdrawal | None = None) -> str | None:
    """Why the last of a subject's entries does not hold; None where it does.

    ``new``: its body, where it is to be appended and signed here. Raises TrustError where no root is pinned, or what it signed
    does not hold.
    """
    history = delegated(snapshot, read_trust_root(place.config))
    signed = {
        entry.sequence
        for entry in entries
        if isinstance(entry.body, Withdrawal)
        and (
            entry.body is new
            or is_signed(entry.body, history.authority(entry.sequence), entry.body.moved, snapshot.attestation)
        )
    }
    last = entries[-1].sequence
    if last not in signed:
        return "nobody who may has signed it"
    return unfounded(place.repository, entries, lambda entry: entry.sequence in signed, history).get(last)
