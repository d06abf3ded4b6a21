"""The audit log: one JSON line per request, refused ones too, and never any text of a prompt or an answer.

Invariant: an answer ends well only after its line is on its way to the disk. A line is one unbuffered append; a line that
cannot be written is an AuditError, and the gateway ends the request with an error instead. A write that was cut short is
taken back, so that the file holds whole lines only. One file per UTC day; old ones may be moved away at any time.
"""

import datetime
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from forge.admission.impact import Line
from forge.errors import ServeError

SCHEMA_VERSION = 1
LEAST_FREE_BYTES = 16 * 2**20
"""Below this much room no request is begun, so that an answer that streams now can still be accounted for at its end."""


class AuditError(ServeError):
    """The audit log cannot be written."""


@dataclass(frozen=True)
class AuditRecord:
    """What happened to one request."""

    time: str
    """UTC, RFC 3339: when the request arrived."""
    request_id: str
    role: str | None
    key_id: str | None
    route: str
    """One of the gateway's routes, or ``other``: a path could hold text."""
    model: str
    weights_digest: str
    policy_digest: str
    release_digest: str
    decision: str
    """``allowed`` or ``denied``."""
    policies: tuple[str, ...]
    """``@id`` of the Cedar policies that decided, where one was asked."""
    reason: str | None
    """Code of the error that the caller got; None for a complete answer."""
    status: int
    """HTTP status; for an answer that broke off after its status was sent, the one that it would have had."""
    prompt_tokens: int | None
    completion_tokens: int | None
    stream: bool
    duration_seconds: float
    redactions: Mapping[str, int] = field(default_factory=dict)
    """Matches replaced, by the redaction's name."""

    def to_line(self) -> bytes:
        """The record as its line."""
        value: dict[str, Any] = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def read_audit(folders: Iterable[Path], faults: list[str]) -> Iterator[Line]:
    """The lines of every log below some folders, as far as a search for answered requests asks.

    A line that cannot be read (a process was killed while it wrote) is named in ``faults``; raises AuditError for a folder or a
    file that cannot be read at all.
    """
    for folder in folders:
        if not folder.is_dir():
            raise AuditError(f"{folder}: there is no such folder of audit logs")
        for path in sorted(folder.rglob("*.jsonl")):
            try:
                content = path.read_bytes()
            except OSError as error:
                raise AuditError(f"{path}: the audit log cannot be read: {error.strerror}") from error
            for number, text in enumerate(content.split(b"\n"), 1):
                if not text:
                    continue
                try:
                    yield _line(json.loads(text))
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    faults.append(f"{path}:{number}: not a line of an audit log that this engine reads: {error}")


def _line(value: dict[str, Any]) -> Line:
    if value["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema version {value['schema_version']!r}; this engine reads {SCHEMA_VERSION}")
    return Line(
        time=str(value["time"]),
        request_id=str(value["request_id"]),
        role=value["role"],
        route=value["route"],
        decision=value["decision"],
        status=int(value["status"]),
        reason=value["reason"],
        stream=bool(value["stream"]),
        weights=value["weights_digest"],
        release=value["release_digest"],
    )


class AuditLog:
    """Appends records to the day's file in a folder; one writer per folder."""

    def __init__(self, folder: Path, now: Callable[[], datetime.datetime]) -> None:
        self._folder = folder
        self._now = now
        self._day: datetime.date | None = None
        self._descriptor = -1

    def check(self) -> None:
        """Raise AuditError if a line could not be written now."""
        self._open()
        room = os.statvfs(self._folder)
        if room.f_bavail * room.f_frsize < LEAST_FREE_BYTES:
            raise AuditError(f"{self._folder}: less than {LEAST_FREE_BYTES} bytes free for the audit log: make room")

    def write(self, record: AuditRecord) -> None:
        """Append one line; raises AuditError."""
        line = record.to_line()
        self._open()
        try:
            start = os.lseek(self._descriptor, 0, os.SEEK_END)
            written = os.write(self._descriptor, line)
            if written != len(line):
                os.ftruncate(self._descriptor, start)
                raise AuditError(f"{self._path()}: the disk is full")
        except OSError as error:
            raise AuditError(f"{self._path()}: the audit log cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._day = -1, None

    def _path(self) -> Path:
        return self._folder / f"requests-{self._now().date().isoformat()}.jsonl"

    def _open(self) -> None:
        """Hold the day's file open; after an outage (a disk that was away) the next request tries again."""
        path = self._path()
        try:
            if self._day == self._now().date() and _same_file(self._descriptor, path):
                return
            self.close()
            self._folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._day = self._now().date()
            _end_last_line(self._descriptor)
        except OSError as error:
            raise AuditError(f"{path}: the audit log cannot be opened: {error.strerror}") from error


def _same_file(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one under that name: it may have been moved away."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _end_last_line(descriptor: int) -> None:
    """A process that was killed while it wrote leaves part of a line: end it, so that the next one stands by itself."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.write(descriptor, b"\n")
