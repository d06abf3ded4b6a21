"""No pointer moves to what may not serve: each release is verified, as the serving agent will, before it is appended."""

from collections.abc import Sequence

from forge.admission.verdict import Verdict, told
from forge.admission.verify import Candidate, verify
from forge.attest.timestamps import read_timestamp_authority
from forge.attest.trust import read_trust_root
from forge.contract.record import Release
from forge.errors import TrustError
from forge.ledger.batch import build
from forge.ledger.ledger import Draft, Snapshot
from forge.reconcile.place import Place


def verified(place: Place, snapshot: Snapshot, key: str) -> Verdict:
    """Whether a step's record, and all that it was made of, hold from the bytes up."""
    root, timestamps = read_trust_root(place.config), read_timestamp_authority(place.config)
    return verify(key, place.repository, snapshot, place.store, root, place.now(), timestamps=timestamps)


def verify_move(place: Place, snapshot: Snapshot, drafts: Sequence[Draft]) -> None:
    """Raise TrustError, naming each rule that is broken, unless the release among some drafts may be appended with them."""
    release = next(draft.body for draft in drafts if isinstance(draft.body, Release))
    batch = build(snapshot, drafts)
    candidate = Candidate(tuple(batch.new), tuple(data for draft in drafts for data in draft.attestations))
    root = read_trust_root(place.config)
    subject = f"release/{release.environment}"
    timestamps = read_timestamp_authority(place.config)
    verdict = verify(subject, place.repository, snapshot, place.store, root, place.now(), candidate, timestamps)
    if not verdict.holds:
        raise TrustError(f"{subject} is not moved, for its chain of evidence does not hold\n{told(verdict.findings)}")
