"""A batch on its way into the ledger: entries for its drafts, and the commit that adds them.

What is there already is not added again: a record with the same products, or any other body that is the newest of its kind in
its place. So whoever does not know whether an append went through may simply append again. One exception: an evaluation that
was asked for again at another commit supersedes the one before it, because its thresholds have to stand in its own commit.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from forge.canonical import digest_of_bytes
from forge.contract.kinds import StepKind
from forge.contract.record import (
    Approval,
    Attempt,
    Delegation,
    Links,
    Protection,
    Record,
    Release,
    Renaming,
    Reproduction,
    Retirement,
    RootChange,
    Withdrawal,
)
from forge.errors import LedgerError
from forge.faults import reached
from forge.ledger.entry import Body, Entry, attestation_path, index_paths, sequence_path
from forge.ledger.refs import write_objects
from forge.ledger.snapshot import Snapshot
from forge.repo.repository import Repository

TEMPORARY_REFS = "refs/forge/tmp/"


@dataclass(frozen=True)
class Draft:
    """What is to be appended: a body, and the attestations that it names."""

    body: Body
    attestations: tuple[bytes, ...] = ()


@dataclass
class Batch:
    """Drafts on top of one snapshot."""

    entries: list[Entry] = field(default_factory=list)
    """One for each draft, in order; known ones among them."""
    new: list[Entry] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    """The paths that appending adds."""


def build(snapshot: Snapshot, drafts: Sequence[Draft]) -> Batch:
    """Entries for the drafts; raises LedgerError for a record that contradicts one which it does not supersede."""
    sequence, previous = snapshot.head
    batch = Batch()
    newest: dict[str, Entry | None] = {}
    """The newest entry in each place, those of this batch included."""
    for draft in drafts:
        place = _place(draft.body)
        known = newest[place] if place in newest else snapshot.newest(place)
        if known is not None and _says_the_same(known, draft.body):
            batch.entries.append(known)
            continue
        _check_version(known, draft.body)
        _check_succession(known, draft.body)
        sequence += 1
        entry = Entry(sequence=sequence, previous=previous, body=draft.body)
        data = entry.to_bytes()
        previous = digest_of_bytes(data)
        for path in (sequence_path(sequence), *index_paths(entry)):
            batch.blobs[path] = data
        for attestation in draft.attestations:
            batch.blobs[attestation_path(digest_of_bytes(attestation))] = attestation
        batch.entries.append(entry)
        batch.new.append(entry)
        newest[place] = entry
    return batch


def write_commit(repository: Repository, parent: str | None, batch: Batch, now: int) -> str:
    """Write a commit that adds a batch to ``parent``; it lies under a temporary ref of its own. Returns its id.

    The objects go into one pack, which fast-import guards (.keep) from a concurrent gc until the temporary ref is there.
    """
    reached("ledger.objects.before")
    temporary = TEMPORARY_REFS + uuid.uuid4().hex
    stream = _import_stream(temporary, parent, batch, now)
    arguments = [
        "-c",
        "fastimport.unpackLimit=0",
        "-c",
        "pack.compression=1",
        "fast-import",
        "--quiet",
        "--done",
        "--date-format=raw",
        "--force",
    ]
    # A failed attempt leaves its .keep behind under the pack's name, which is made of its objects: one more gives another name.
    commit = write_objects(repository, arguments, lambda attempt: (b"" if attempt == 1 else _any_blob()) + stream)
    reached("ledger.objects.after")
    return commit


def _place(body: Body) -> str:
    """The folder in which the newest entry is the one in force."""
    return index_paths(Entry(sequence=1, previous=None, body=body))[0].rpartition("/")[0]


def _says_the_same(known: Entry, body: Body) -> bool:
    if isinstance(body, Withdrawal) and isinstance(known.body, Withdrawal):
        # who names it as the one before has seen it, and replaces it because it does not hold
        return _in_force(known.body) == _in_force(body) and body.supersedes != known.digest
    if not isinstance(body, Record) or not isinstance(known.body, Record):
        return known.body == body
    if known.body.products == body.products:
        return body.supersedes != known.digest or not _adds(known.body, body)
    if body.supersedes != known.digest:
        raise LedgerError(
            f"{body.step_id}: step key {body.key} is recorded with other products (entry {known.sequence}); "
            "a record that replaces it must say so (supersedes)"
        )
    return False


def _adds(before: Record, body: Record) -> bool:
    """Whether a record of the same products says more.

    A figure was taken anew for another commit: it is the same, the thresholds that it was taken for may not be. Or something
    was left beside the products that was not left before, such as a checkpoint that a branch asks for.
    """
    measured_again = body.step is StepKind.EVALUATE and body.commit != before.commit
    return measured_again or not before.byproducts.keys() >= body.byproducts.keys()


def _check_version(known: Entry | None, body: Body) -> None:
    """Two owners of the root who sign at once: the second one has not seen what the first signed."""
    if isinstance(body, Delegation | RootChange):
        last = known.body.version if known is not None and isinstance(known.body, Delegation | RootChange) else 0
        if body.version != last + 1:
            raise LedgerError(
                f"this {body.kind} is version {body.version}, but the ledger's last is {last}: look again, and sign anew"
            )


def _in_force(withdrawal: Withdrawal) -> tuple[str, str, bool]:
    """What a withdrawal asks for; which runner noted it first, and when, makes no difference."""
    return withdrawal.reason, withdrawal.serving, withdrawal.lifted


def _check_succession(known: Entry | None, body: Body) -> None:
    """A withdrawal is an answer to the one before it; two runners of different commits must not answer past each other."""
    if isinstance(body, Withdrawal) and body.supersedes != (known.digest if known else None):
        place = f"entry {known.sequence}" if known else "none"
        raise LedgerError(
            f"the withdrawal of {body.subject} was changed meanwhile ({place} is the newest now): look again with `forge plan`"
        )


def _import_stream(ref: str, parent: str | None, batch: Batch, now: int) -> bytes:
    """A git fast-import stream: one commit on ``parent`` that adds the blobs, and a question for its id."""
    first, last = batch.new[0], batch.new[-1]
    names = f"entry {first.sequence}" if first is last else f"entries {first.sequence}-{last.sequence}"
    subjects = "\n".join(f"- {entry.body.kind} {_subject(entry)}" for entry in batch.new)
    message = f"forge: {names}\n\n{subjects}\n\nForge-Head: {last.sequence} {last.digest}\n".encode()
    parts = [f"commit {ref}\nmark :1\ncommitter Forge <forge@localhost> {now} +0000\n".encode(), _data(message)]
    if parent:
        parts.append(f"from {parent}\n".encode())
    marks: dict[bytes, bytes] = {}
    blobs: list[bytes] = []
    for data in batch.blobs.values():
        if data not in marks:
            marks[data] = b":%d" % (len(marks) + 2)
            blobs += [b"blob\nmark %s\n" % marks[data], _data(data)]
    files = [b"M 100644 %s %s\n" % (marks[data], json.dumps(path).encode()) for path, data in sorted(batch.blobs.items())]
    return b"".join([*blobs, *parts, *files, b"\nget-mark :1\ndone\n"])


def _subject(entry: Entry) -> str:  # noqa: PLR0911 (one per kind of body)
    match entry.body:
        case Record() | Reproduction() | Attempt() as done:
            return done.step_id
        case Links() as links:
            return f"of {links.deployment}"
        case Release() as release:
            return f"{release.environment} {release.release}"
        case Protection() | Renaming() | Retirement() as note:
            return note.subject
        case Delegation() | RootChange() as trust:
            return f"version {trust.version}"
        case Approval() as approval:
            return f"of {approval.subject} by {approval.person}"
        case Withdrawal() as withdrawal:
            return f"{withdrawal.subject}{' lifted' if withdrawal.lifted else ''}"


def _any_blob() -> bytes:
    return b"blob\n" + _data(uuid.uuid4().hex.encode())


def _data(data: bytes) -> bytes:
    return b"data %d\n%s\n" % (len(data), data)
