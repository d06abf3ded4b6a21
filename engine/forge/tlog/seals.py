"""What somebody has put his name to: the last checkpoint of each log that he signed or cosigned, by the log's origin.

Invariant: what is remembered here is on the disk before the signature leaves, and only ever moves to a checkpoint that
continues it; the caller proves that. A log's writer keeps one outside the log's folder, a witness keeps one as its state.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from forge.canonical import canonical_json
from forge.errors import RefusedError, TransparencyError, TrustError
from forge.tlog.checkpoint import Checkpoint, parse_checkpoint
from forge.tlog.files import write_file
from forge.tlog.note import split_note

SCHEMA_VERSION = 1
_WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class Seal:
    """One remembered checkpoint with the bytes that were signed; our own word, so no signature is checked again."""

    checkpoint: Checkpoint
    data: bytes


class Seals:
    """A file of seals; it need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path.with_name(f"{path.name}.lock"))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else reads or writes the file meanwhile; may be nested. Raises RefusedError."""
        try:
            self._lock.acquire(timeout=_WAIT_SECONDS)
        except Timeout as error:
            raise RefusedError(f"another process has held {self._lock.lock_file} for {_WAIT_SECONDS:g} s: try again") from error
        try:
            yield
        finally:
            self._lock.release()

    def last(self, origin: str) -> Seal | None:
        """The checkpoint of a log that was sealed last; raises TransparencyError where the file is not one of seals."""
        text = self._read().get(origin)
        if text is None:
            return None
        try:
            seal = Seal(parse_checkpoint(split_note(text.encode())[0]), text.encode())
        except TrustError as error:
            raise self._unreadable(f"{origin}: {error}") from error
        if seal.checkpoint.origin != origin:
            raise self._unreadable(f"under {origin} it has a checkpoint of {seal.checkpoint.origin}")
        return seal

    def remember(self, checkpoint: Checkpoint, data: bytes) -> None:
        """Replace a log's seal; raises TransparencyError where it cannot be written."""
        with self.held():
            logs = {**self._read(), checkpoint.origin: data.decode()}
            write_file(self._path, canonical_json({"schema_version": SCHEMA_VERSION, "logs": logs}) + b"\n")

    def _read(self) -> dict[str, str]:
        try:
            value: Any = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError, OSError) as error:
            raise self._unreadable(str(error)) from error
        logs = value.get("logs") if isinstance(value, dict) else None
        if not isinstance(logs, dict) or not all(isinstance(text, str) for text in logs.values()):
            raise self._unreadable("it has no table of logs")
        if value.get("schema_version") != SCHEMA_VERSION:
            raise self._unreadable(f"its schema version is {value.get('schema_version')!r}; this engine reads {SCHEMA_VERSION}")
        return logs

    def _unreadable(self, reason: str) -> TransparencyError:
        return TransparencyError(
            f"{self._path}: what was signed last cannot be read: {reason}. Restore the file; without it a log that was set "
            "back would be signed on"
        )
