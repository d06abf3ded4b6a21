"""No pointer moves to what may not serve: each release is verified, as the serving agent will, before it is appended."""

from collections.abc import Sequence

from forge.admission.verify import Candidate, verify
from forge.attest.trust import read_trust_root
from forge.contract.record import Release
from forge.ledger.batch import build
from forge.ledger.ledger import Draft, Snapshot
from forge.reconcile.place import Place


def refusal_of(place: Place, snapshot: Snapshot, drafts: Sequence[Draft]) -> str | None:
    """Why the release among some drafts may not be appended, naming each rule that is broken; None where it may."""
    release = next(draft.body for draft in drafts if isinstance(draft.body, Release))
    batch = build(snapshot, drafts)
    candidate = Candidate(tuple(batch.new), tuple(data for draft in drafts for data in draft.attestations))
    root = read_trust_root(place.config)
    subject = f"release/{release.environment}"
    verdict = verify(subject, place.repository, snapshot, place.store, root, place.now(), candidate)
    if verdict.holds:
        return None
    findings = "\n".join(f"  {finding}" for finding in verdict.findings)
    return f"{subject} is not moved, for its chain of evidence does not hold\n{findings}"
