"""What must not be deleted: everything that a release, a kept record, a protected resource or open work can reach.

Pure: the caller collects, this decides. Invariant: whatever is not named here as reachable is reached by nothing that the
ledger, the commit and the leases know of. A record's inputs are reachable with it, and so are the records that made them, down
to the files of the commit.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from forge.contract.record import Record, Release


@dataclass(frozen=True)
class Retention:
    """How long records keep their artifacts, beside what releases and protection keep."""

    since: str
    """Records that finished at or after this time are kept: UTC, RFC 3339 with milliseconds, as records write it."""
    releases: int | None
    """The newest so many releases of each environment are kept; None: all."""


@dataclass(frozen=True)
class History:
    """What the ledger and the world say, as far as deleting asks."""

    records: Sequence[Record]
    """All of them, oldest first."""
    releases: Mapping[str, Sequence[Release]] = field(default_factory=dict)
    """By environment, oldest first."""
    protected: frozenset[str] = frozenset()
    """Addresses of protected resources."""
    wanted: frozenset[str] = frozenset()
    """Artifacts that the commit's own plan reads or holds."""
    at_work: frozenset[str] = frozenset()
    """Artifacts that open leases and unfinished runs read."""


def reachable(history: History, retention: Retention) -> dict[str, str]:
    """Artifact digest -> why it is kept. The reasons are for people; the first one found stands."""
    makers: dict[str, list[Record]] = defaultdict(list)
    by_key: dict[str, Record] = {}
    newest: dict[str, Record] = {}
    for record in history.records:
        by_key[record.key] = record
        newest[record.step_id] = record
        for digest in (*record.products.values(), *record.byproducts.values()):
            makers[digest].append(record)
    kept: dict[str, str] = {}
    pending: list[tuple[str, str]] = []

    def keep(record: Record, why: str) -> None:
        pending.extend((digest, why) for digest in (*record.products.values(), *record.byproducts.values()))
        pending.extend((digest, why) for digest in record.inputs.values())

    for environment, moves in history.releases.items():
        for move in moves if retention.releases is None else moves[max(0, len(moves) - retention.releases) :]:
            pending.append((move.release, f"released to {environment}"))
            if move.key in by_key:
                keep(by_key[move.key], f"released to {environment}")
    for record in history.records:
        if record.subject in history.protected:
            keep(record, f"{record.subject} is protected")
        elif record.finished >= retention.since:
            keep(record, f"made since {retention.since}")
    for record in newest.values():
        keep(record, f"the newest of {record.step_id}")
    pending.extend((digest, "the commit asks for it") for digest in history.wanted)
    pending.extend((digest, "a step at work reads it") for digest in history.at_work)
    while pending:
        digest, why = pending.pop()
        if digest in kept:
            continue
        kept[digest] = why
        for record in makers.get(digest, ()):
            pending.extend((each, why) for each in (*record.inputs.values(), *record.products.values()))
    return kept


def removable(stored: Iterable[str], kept: Mapping[str, str]) -> list[str]:
    """The artifacts that nothing reaches, in order."""
    return sorted(digest for digest in stored if digest not in kept)
