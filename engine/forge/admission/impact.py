"""What descends from a subject, withdrawn or not: steps, releases, and the requests that were answered by them.

Pure, over records, releases and lines of audit logs that somebody else read. Descent is the same as for admission
(``forge.admission.descent``), so whatever admission would refuse is listed here. Signatures are not checked: this is a search
for what may be concerned, and a record that does not hold is listed rather than left out.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from forge.admission.descent import Cause, Descent
from forge.contract.kinds import StepKind
from forge.contract.record import Record, Release, Retirement

GENERATES = ("/v1/chat/completions", "/v1/completions")
"""Routes under which a model answers."""
NEVER_BEGUN = ("engine_unavailable", "audit_unavailable")
"""Codes of errors before a stream's first word."""
UNKNOWN = "?"
"""The environment of requests whose release the ledger does not know."""


@dataclass(frozen=True)
class Made:
    """A recorded step that descends."""

    step_id: str
    subject: str
    commit: str
    finished: str
    products: Mapping[str, str]


@dataclass(frozen=True)
class Served:
    """A release that descends, and a time in which an environment's pointer named it."""

    environment: str
    deployment: str
    release: str
    commit: str
    since: str
    until: str | None
    """None: it is the pointer now."""


@dataclass(frozen=True)
class Line:
    """What one line of an audit log says, as far as impact asks."""

    time: str
    request_id: str
    role: str | None
    route: str
    decision: str
    status: int
    reason: str | None
    stream: bool
    weights: str
    release: str


@dataclass(frozen=True)
class Requests:
    """Requests of one role to one environment that were answered by what descends."""

    environment: str
    role: str
    answered: tuple[str, ...]
    """Ids of those that got their whole answer."""
    cut_off: tuple[str, ...]
    """Ids of those whose stream broke off: a part of the answer may have been delivered."""
    first: str
    last: str


@dataclass(frozen=True)
class Impact:
    """Everything that descends from a subject."""

    subject: str
    steps: tuple[Made, ...] = ()
    """All of them, oldest first."""
    served: tuple[Served, ...] = ()
    requests: tuple[Requests, ...] = ()
    causes: tuple[Cause, ...] = ()
    """Where the subject was met: the records that it names."""

    def of_kind(self, kind: StepKind) -> tuple[Made, ...]:
        """The steps of one kind."""
        return tuple(step for step in self.steps if step.step_id.startswith(f"{kind}/"))


def impact_of(
    subject: str, descent: Descent, moves: Sequence[Release | Retirement], own_moves: frozenset[str], lines: Iterable[Line]
) -> Impact:
    """What descends from a subject.

    Args:
        subject: what ``descent`` was asked about.
        descent: over all records of the ledger.
        moves: every move of every pointer, oldest first.
        own_moves: ``moved`` and environment, joined by a space, of further moves that descend: those that the subject (a key)
            signed, or that rest on a search which chose by it.
        lines: of the audit logs.
    """
    records = descent.descendants()
    releases = {digest for record in records for name, digest in record.products.items() if name == "release"}
    releases = {digest for digest in releases if descent.artifact(digest)}
    served = tuple(_served(moves, releases, own_moves))
    weights = {digest for record in records for digest in record.products.values() if _is_weights(record, digest)}
    weights = {digest for digest in weights if descent.artifact(digest)}
    causes = dict.fromkeys(cause for record in records for cause in descent.named(record))
    return Impact(
        subject,
        tuple(_made(record) for record in records),
        served,
        _requests(lines, releases | {each.release for each in served}, weights, moves),
        tuple(causes),
    )


def _was_answered(line: Line) -> bool:
    """Whether the caller may have got something that the model said."""
    if line.route not in GENERATES or line.decision != "allowed":
        return False
    return line.status == 200 or (line.stream and line.reason not in NEVER_BEGUN)


def _is_weights(record: Record, digest: str) -> bool:
    return record.step is StepKind.TRAIN and record.products.get("weights") == digest


def _made(record: Record) -> Made:
    return Made(record.step_id, record.subject, record.commit, record.finished, record.products)


def _served(moves: Sequence[Release | Retirement], releases: set[str], own_moves: frozenset[str]) -> Iterator[Served]:
    by_environment: dict[str, list[Release | Retirement]] = defaultdict(list)
    for move in moves:
        by_environment[move.environment or ""].append(move)
    for environment in sorted(by_environment):
        rows = by_environment[environment]
        for index, move in enumerate(rows):
            if isinstance(move, Release) and (move.release in releases or f"{move.moved} {environment}" in own_moves):
                until = rows[index + 1].moved if index + 1 < len(rows) else None
                yield Served(environment, move.deployment, move.release, move.commit, move.moved, until)


def _requests(
    lines: Iterable[Line], releases: set[str], weights: set[str], moves: Sequence[Release | Retirement]
) -> tuple[Requests, ...]:
    environments = {move.release: move.environment for move in moves if isinstance(move, Release)}
    found: dict[tuple[str, str], list[Line]] = defaultdict(list)
    seen: set[str] = set()  # a log may have been copied
    for line in lines:
        if (line.release in releases or line.weights in weights) and _was_answered(line) and line.request_id not in seen:
            seen.add(line.request_id)
            found[environments.get(line.release, UNKNOWN), line.role or UNKNOWN].append(line)
    return tuple(
        Requests(
            environment,
            role,
            tuple(line.request_id for line in rows if line.status == 200),
            tuple(line.request_id for line in rows if line.status != 200),
            min(line.time for line in rows),
            max(line.time for line in rows),
        )
        for (environment, role), rows in sorted(found.items())
    )
