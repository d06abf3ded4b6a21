"""The withdrawals that the ledger notes, judged as a verifier would: which of them hold."""

import os
from collections.abc import Sequence

from forge.admission.history import delegated
from forge.admission.lifting import unfounded
from forge.admission.signed import is_signed
from forge.attest.trust import read_trust_root
from forge.canonical import digest_of_json
from forge.contract.record import Withdrawal
from forge.errors import TrustError
from forge.ledger.entry import DELEGATIONS, ROOTS, Entry, withdrawal_folder
from forge.ledger.ledger import Snapshot
from forge.reconcile.place import Place

_HELD_FILE = "withdrawals-held"
"""In the clone's state: digests of what was judged (root, delegation, entry) and found to hold."""


def unheld(place: Place, snapshot: Snapshot) -> frozenset[str]:
    """The subjects whose newest entry does not hold; none where no root is pinned, by which that could be told.

    Judging reads the commit of a lift, and asks who signed what it brings. What was found to hold is remembered in this clone,
    for as long as the root signs nothing else; nothing but planning relies on it.
    """
    file = place.repository.state_folder / _HELD_FILE
    known = frozenset(file.read_text("utf-8", "replace").split() if file.exists() else ())
    held, found = set[str](), set[str]()
    try:
        trusted = [read_trust_root(place.config).digest]
        trusted += [entry.digest for entry in map(snapshot.newest, (DELEGATIONS, ROOTS)) if entry is not None]
        for subject in snapshot.withdrawals():
            entries = snapshot.entries_in(withdrawal_folder(subject))
            name = str(digest_of_json([*trusted, entries[-1].digest]))
            if name in known or why_unheld(place, snapshot, entries) is None:
                held.add(name)
            else:
                found.add(subject)
    except TrustError:
        return frozenset()
    if held != known:
        temporary = file.with_name(f"{_HELD_FILE}.{os.getpid()}.tmp")
        temporary.write_text("\n".join(sorted(held)), encoding="utf-8")
        temporary.replace(file)
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
