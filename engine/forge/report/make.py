"""Make a report: examine a release once, write its bundle, and say what both come to as one value."""

from dataclasses import dataclass
from pathlib import Path

from forge import __version__
from forge.admission.verify import examine
from forge.attest.timestamps import TimestampAuthority
from forge.attest.trust import TrustRoot
from forge.errors import TrustError, UsageError
from forge.ledger.ledger import Snapshot
from forge.repo.repository import Repository
from forge.report.act import act_sections, unknown_annotations
from forge.report.bundle import write_bundle
from forge.report.facts import read_facts_of
from forge.report.figures import approvals, chain, changes, measured_before, measurements
from forge.report.model import Report
from forge.report.sheets import data_sheets, training
from forge.store.store import Store


@dataclass(frozen=True)
class Place:
    """Where a report reads from."""

    repository: Repository
    snapshot: Snapshot
    store: Store
    root: TrustRoot
    timestamps: TimestampAuthority | None = None


def make_report(subject: str, place: Place, folder: Path) -> Report:
    """Report on ``release/ENVIRONMENT``, and write its bundle to a new or empty folder, whether or not the chain holds.

    Raises UsageError for another subject, what ``verify`` raises, and TrustError where the ledger itself is at fault.
    """
    if not subject.startswith("release/"):
        raise UsageError(
            f"a report is about release/ENVIRONMENT, not {subject!r}: what a model may do is said where it is released"
        )
    examined = examine(subject, place.repository, place.snapshot, place.store, place.root, timestamps=place.timestamps)
    release = examined.release
    if release is None:
        raise TrustError(f"{subject}: there is no release to report on: {'; '.join(map(str, examined.verdict.findings))}")
    index = write_bundle(examined, place.repository, place.snapshot, place.store, place.root, folder)
    facts = read_facts_of(examined, release, place.repository, place.store, index)
    record = examined.evidence.records[release.key]
    sheets, measured = data_sheets(facts), measurements(facts)
    needed, given = approvals(facts)
    entries, head = place.snapshot.head
    return Report(
        verdict=examined.verdict,
        environment=release.environment,
        deployment=release.deployment,
        model=str(record.parameters.get("model", "")),
        release=release.release,
        weights=record.inputs.get("weights", ""),
        commit=release.commit,
        signed_by=facts.signed_by,
        moved=release.moved,
        development=place.root.development,
        trust_root=place.root.digest,
        entries=entries,
        head=head or "",
        ledger_commit=place.snapshot.commit or "",
        engine=__version__,
        chain=chain(facts),
        data=sheets,
        training=training(facts),
        measurements=measured,
        measured_before=measured_before(facts),
        approvals_needed=needed,
        approvals=given,
        changes=changes(facts),
        act=act_sections(facts, sheets, measured),
        notes=(*facts.notes, *unknown_annotations(facts)),
    )
