"""An index of the ledger for planning: derived, disposable, and never evidence.

It is a SQLite file beside the clone's other state. It answers for exactly one ledger head, the caller's: only when it holds,
under the head's sequence number, the digest that the head names (entries are chained by digest), and from rows up to that
number. When it is behind, it reads what is new (the paths that the newer tree adds), checks the chain, and commits it in
one transaction, so that a kill leaves it as it was. When it does not belong to the ledger, it is filled anew; when the file is
damaged, its successor is made under the next number, so that nobody writes to a file that another process has given up.
Where no file can be written, the index lies in memory.

Every row carries a checksum, for SQLite has none. What checksums cannot see is a damaged page that hides a row: the worst of
it is a step planned again, which the ledger itself refuses to record twice.
"""

import json
import re
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from forge.canonical import digest_of_bytes, hex_of
from forge.contract.record import Made, Pointer, Protection, Record, Release, Renamed, Renaming, Retirement, Subject, Withdrawal
from forge.errors import LedgerError, RepoError
from forge.faults import reached
from forge.ledger.entry import FOLDERS, Entry, index_paths, sequence_path
from forge.ledger.subjects import subjects_of
from forge.repo.repository import Repository

SCHEMA_VERSION = 2
BUSY_SECONDS = 60.0
REPAIR = "`git fsck` names what is damaged, and another clone or the remote may still have it"
Head = tuple[int, str | None]
_Answer = TypeVar("_Answer")
_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_KEYS_AT_ONCE = 500
_TRIES = 10
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")
_UNWRITABLE = ("SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_PERM", "SQLITE_READONLY")
_SCHEMA = f"""
CREATE TABLE entries(sequence INTEGER PRIMARY KEY, digest BLOB NOT NULL, object TEXT NOT NULL);
CREATE TABLE head(one INTEGER PRIMARY KEY CHECK (one = 1), sequence INTEGER NOT NULL, digest TEXT NOT NULL,
  commit_id TEXT NOT NULL);
CREATE TABLE records(sequence INTEGER PRIMARY KEY, key BLOB NOT NULL, step_id TEXT NOT NULL, subject TEXT NOT NULL,
  document BLOB NOT NULL, checksum INTEGER NOT NULL);
CREATE INDEX records_by_key ON records(key);
CREATE INDEX records_by_step ON records(step_id, sequence);
CREATE INDEX records_by_subject ON records(subject, step_id, sequence);
CREATE TABLE notes(sequence INTEGER PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, environment TEXT,
  value TEXT NOT NULL);
PRAGMA user_version = {SCHEMA_VERSION};
"""


class Index:
    """The index of one ledger; safe to share between threads, and between processes through its file."""

    def __init__(self, repository: Repository, name: str = "ledger") -> None:
        """``name`` tells the ledgers of one clone apart."""
        self._repository = repository
        self._stem = f"{name}-index.v{SCHEMA_VERSION}"
        self._guard = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._path: Path | None = None

    def close(self) -> None:
        """Let go of the file."""
        with self._guard:
            if self._db is not None:
                self._db.close()
            self._db = self._path = None

    @property
    def files(self) -> str:
        """The files of this index, as a shell pattern."""
        return f"{self._repository.state_folder / self._stem}.*"

    def made(self, commit: str, head: Head, keys: Iterable[str]) -> dict[str, Made]:
        """The authoritative records of the keys that have one."""
        blobs = [bytes.fromhex(key[7:]) for key in keys if _DIGEST.fullmatch(key)]

        def query(db: sqlite3.Connection) -> dict[str, Made]:
            found: dict[str, Made] = {}
            for start in range(0, len(blobs), _KEYS_AT_ONCE):
                some = blobs[start : start + _KEYS_AT_ONCE]
                marks = ",".join("?" * len(some))
                text = f"SELECT document, checksum FROM records WHERE key IN ({marks}) AND sequence <= ?"  # noqa: S608 (marks)
                for made in map(_made, db.execute(text, [*some, head[0]]).fetchall()):
                    known = found.get(made.key)
                    if known is None or known.sequence < made.sequence:  # a later record of a key replaces the earlier
                        found[made.key] = made
            return found

        return self._ask(commit, head, query)

    def latest_made(self, commit: str, head: Head, step_id: str) -> Made | None:
        """The newest record under a step id."""

        def query(db: sqlite3.Connection) -> Made | None:
            text = "SELECT document, checksum FROM records WHERE step_id = ? AND sequence <= ? ORDER BY sequence DESC LIMIT 1"
            row = db.execute(text, (step_id, head[0])).fetchone()
            return _made(row) if row else None

        return self._ask(commit, head, query)

    def latest_of(self, commit: str, head: Head, spans: Iterable[tuple[str, int, int]]) -> Made | None:
        """The newest record in several stretches: step id, the entry after which it begins, and the one where it ends."""
        text = (
            "SELECT document, checksum FROM records WHERE step_id = ? AND sequence > ? AND sequence <= ? "
            "ORDER BY sequence DESC LIMIT 1"
        )
        places = [(step_id, after, min(until, head[0])) for step_id, after, until in spans]

        def query(db: sqlite3.Connection) -> Made | None:
            rows = (db.execute(text, place).fetchone() for place in places)
            return max((_made(row) for row in rows if row), key=lambda made: made.sequence, default=None)

        return self._ask(commit, head, query)

    def renamings(self, commit: str, head: Head) -> list[Renamed]:
        """Every renaming, oldest first."""

        def query(db: sqlite3.Connection) -> list[Renamed]:
            text = "SELECT sequence, subject, value FROM notes WHERE kind = 'renaming' AND sequence <= ? ORDER BY sequence"
            return [Renamed(*row) for row in db.execute(text, (head[0],))]

        return self._ask(commit, head, query)

    def object_of(self, commit: str, head: Head, sequence: int) -> str | None:
        """The Git object that holds an entry: read by its name, git need not look for it in the ledger's large folders."""

        def query(db: sqlite3.Connection) -> str | None:
            row = db.execute("SELECT object FROM entries WHERE sequence = ? AND sequence <= ?", (sequence, head[0])).fetchone()
            return str(row[0]) if row else None

        return self._ask(commit, head, query)

    def moves(self, commit: str, head: Head, environment: str) -> list[tuple[int, str]]:
        """Sequence number and kind (release, retirement) of what moved an environment's pointer, oldest first."""

        def query(db: sqlite3.Connection) -> list[tuple[int, str]]:
            text = "SELECT sequence, kind FROM notes WHERE environment = ? AND sequence <= ? ORDER BY sequence"
            return db.execute(text, (environment, head[0])).fetchall()

        return self._ask(commit, head, query)

    def environments(self, commit: str, head: Head) -> tuple[str, ...]:
        """Every environment that was ever released to, sorted."""

        def query(db: sqlite3.Connection) -> tuple[str, ...]:
            text = "SELECT DISTINCT environment FROM notes WHERE kind = 'release' AND sequence <= ? ORDER BY environment"
            return tuple(row[0] for row in db.execute(text, (head[0],)))

        return self._ask(commit, head, query)

    def pointers(self, commit: str, head: Head) -> dict[str, Pointer]:
        """What every environment serves; one that is retired is left out."""

        def query(db: sqlite3.Connection) -> dict[str, Pointer]:
            text = (
                "SELECT environment, kind, subject, value, max(sequence) FROM notes "
                "WHERE environment IS NOT NULL AND sequence <= ? GROUP BY environment"
            )
            rows = db.execute(text, (head[0],))
            return {
                environment: Pointer(environment, subject.split("/", 1)[1], value)
                for environment, kind, subject, value, _ in rows
                if kind == "release"
            }

        return self._ask(commit, head, query)

    def withdrawals(self, commit: str, head: Head) -> list[int]:
        """Sequence number of the newest withdrawal of each subject, lifted ones among them, oldest first."""

        def query(db: sqlite3.Connection) -> list[int]:
            text = "SELECT max(sequence) FROM notes WHERE kind = 'withdrawal' AND sequence <= ? GROUP BY subject"
            return sorted(row[0] for row in db.execute(text, (head[0],)))

        return self._ask(commit, head, query)

    def subjects(self, commit: str, head: Head) -> dict[str, Subject]:
        """Every resource that the ledger knows, by address."""

        def query(db: sqlite3.Connection) -> dict[str, Subject]:
            text = "SELECT subject, max(sequence) FROM records WHERE sequence <= ? GROUP BY subject"
            newest: dict[str, int] = dict(db.execute(text, (head[0],)))
            text = "SELECT sequence, kind, subject, environment, value FROM notes WHERE sequence <= ? ORDER BY sequence"
            return subjects_of(newest, db.execute(text, (head[0],)))

        return self._ask(commit, head, query)

    def _ask(self, commit: str, head: Head, query: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
        """Bring the index to a head and ask it, both of one state of the file."""
        with self._guard:
            for _ in range(_TRIES):
                try:
                    return self._ask_open(self._open(), commit, head, query)
                except OSError:
                    break
                except (sqlite3.DatabaseError, _DamagedRowError) as error:
                    name = getattr(error, "sqlite_errorname", "")
                    if name.startswith(_BUSY):
                        time.sleep(0.05)
                    elif name.startswith(_UNWRITABLE):
                        break
                    else:
                        self._discard()
            self.close()
            self._db = _prepare(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False))
            return self._ask_open(self._db, commit, head, query)

    def _ask_open(
        self, db: sqlite3.Connection, commit: str, head: Head, query: Callable[[sqlite3.Connection], _Answer]
    ) -> _Answer:
        while True:
            with _transaction(db, "DEFERRED"):
                if _covers(db, head):
                    return query(db)
            self._bring_to(db, commit, head)

    def _bring_to(self, db: sqlite3.Connection, commit: str, head: Head) -> None:
        reached("index.write.before")
        with _transaction(db, "IMMEDIATE"):
            if _covers(db, head):  # somebody else was faster
                return
            row = db.execute("SELECT sequence, digest, commit_id FROM head").fetchone()
            known: Head = (row[0], row[1]) if row else (0, None)
            added = self._additions(row[2], commit) if row and known[0] < head[0] else None
            if added is None:
                for table in ("entries", "head", "records", "notes"):
                    db.execute(f"DELETE FROM {table}")  # noqa: S608 (our own names)
                known, added = (0, None), self._additions(None, commit) or {}
            for entry, data in read_chain(self._repository, added, known, head):
                _insert(db, entry, digest_of_bytes(data), added[sequence_path(entry.sequence)])
            db.execute("INSERT OR REPLACE INTO head VALUES (1, ?, ?, ?)", (*head, commit))
            reached("index.rows.after")
        reached("index.write.after")

    def _additions(self, older: str | None, newer: str) -> dict[str, str] | None:
        """The paths that a commit adds to an earlier one; None when it does anything else, or the earlier one is gone."""
        try:
            changes = self._repository.changes(older, newer, FOLDERS)
        except RepoError as error:
            if older is None:
                raise LedgerError(f"the ledger cannot be listed: {error}; {REPAIR}") from error
            return None
        return {change.path: change.name for change in changes} if all(change.status == "A" for change in changes) else None

    def _open(self) -> sqlite3.Connection:
        if self._db is not None and (self._path is None or self._path.exists()):
            return self._db
        self.close()
        path = self._newest()
        db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._db, self._path = db, path
        return _prepare(db)

    def _newest(self) -> Path:
        return self._repository.state_folder / f"{self._stem}.{max(self._numbers(), default=0)}.sqlite"

    def _numbers(self) -> Iterator[int]:
        for path in self._repository.state_folder.glob(f"{self._stem}.*.sqlite"):
            match = re.fullmatch(re.escape(self._stem) + r"\.([0-9]{1,9})\.sqlite", path.name)
            if match:
                yield int(match.group(1))

    def _discard(self) -> None:
        """Give a damaged file up: the next number is there before it goes, so that no number is ever used twice."""
        path = self._path
        self.close()
        if path is None:
            return
        number = int(path.name.split(".")[-2])
        reached("index.discard.before")
        path.with_name(f"{self._stem}.{number + 1}.sqlite").touch()
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        reached("index.discard.after")


def read_chain(repository: Repository, added: Mapping[str, str], known: Head, head: Head) -> Iterator[tuple[Entry, bytes]]:
    """The entries after ``known`` up to ``head``, each checked: its bytes, its place in the chain, and that it is listed.

    ``added`` maps paths to object ids. Raises LedgerError for the first entry that is at fault.
    """
    paths = [sequence_path(sequence) for sequence in range(known[0] + 1, head[0] + 1)]
    absent = next((path for path in paths if path not in added), None)
    if absent is not None:
        raise LedgerError(f"the ledger has no {absent}, although its head names entry {head[0]} as its last")
    previous, sequence = known[1], known[0]
    try:
        for path, found in zip(paths, repository.read_objects([added[path] for path in paths]), strict=True):
            sequence += 1
            entry = parse_entry(path, found.data)
            if entry.sequence != sequence or entry.previous != previous:
                raise LedgerError(f"ledger entry {path} does not follow entry {sequence - 1}: `forge verify` lists every fault")
            for listing in index_paths(entry):
                if added.get(listing) != found.name:
                    raise LedgerError(f"ledger entry {path} is not listed as {listing}: `forge verify` lists every fault")
            previous = digest_of_bytes(found.data)
            yield entry, found.data
    except RepoError as error:
        raise LedgerError(f"ledger: {error}; {REPAIR}") from error
    if (sequence, previous) != head:
        raise LedgerError(f"the ledger's head names {head[1]} as entry {head[0]}, but that entry is {previous}")


def parse_entry(path: str, data: bytes) -> Entry:
    """An entry from its bytes; raises LedgerError for one that this engine does not read."""
    try:
        return Entry.model_validate_json(data)
    except ValidationError as error:
        raise LedgerError(f"ledger entry {path} is not one this engine reads: {error}") from error


class _DamagedRowError(Exception):
    """A row's checksum does not fit it."""


@contextmanager
def _transaction(db: sqlite3.Connection, kind: str) -> Iterator[None]:
    """A transaction that is taken back unless its block ends well."""
    db.execute(f"BEGIN {kind}")
    try:
        yield
    except BaseException:
        with suppress(sqlite3.Error):  # what was raised first says more
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _prepare(db: sqlite3.Connection) -> sqlite3.Connection:
    if db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA cache_size = -65536")  # 64 MiB
    db.execute("PRAGMA mmap_size = 0")  # a file that shrinks under a map would be a SIGBUS, not an error
    if db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
        return db
    with _transaction(db, "IMMEDIATE"):
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
        elif version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"schema version {version}")
    return db


def _covers(db: sqlite3.Connection, head: Head) -> bool:
    row = db.execute("SELECT digest FROM entries WHERE sequence = ?", (head[0],)).fetchone()
    return row is not None and head[1] is not None and bytes(row[0]).hex() == hex_of(head[1])


def _insert(db: sqlite3.Connection, entry: Entry, digest: str, name: str) -> None:
    db.execute("INSERT INTO entries VALUES (?, ?, ?)", (entry.sequence, bytes.fromhex(hex_of(digest)), name))
    body = entry.body
    if isinstance(body, Record):
        db.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", _row(entry.sequence, body))
        return
    note: tuple[str, str, str | None, str]
    if isinstance(body, Release):
        note = (body.kind, f"Deployment/{body.deployment}", body.environment, body.release)
    elif isinstance(body, Protection):
        note = (body.kind, body.subject, None, "yes" if body.protected else "no")
    elif isinstance(body, Renaming):
        note = (body.kind, body.subject, None, body.previous)
    elif isinstance(body, Retirement):
        note = (body.kind, body.subject, body.environment, body.commit)
    elif isinstance(body, Withdrawal):
        note = (body.kind, body.subject, None, "no" if body.lifted else "yes")
    else:
        return
    db.execute("INSERT INTO notes VALUES (?, ?, ?, ?, ?)", (entry.sequence, *note))


def _row(sequence: int, record: Record) -> tuple[int, bytes, str, str, bytes, int]:
    verdict = record.metrics.get("verdict")
    document = json.dumps(
        [  # the fields of Made, in order
            record.key,
            record.step_id,
            record.subject,
            record.commit,
            record.step_version,
            sequence,
            record.inputs,
            record.products,
            getattr(record, "byproducts", {}),
            None if verdict is None else str(verdict),
            str(record.metrics.get("failed", "")),
            record.actual.seconds,
            record.actual.cost,
        ],
        separators=(",", ":"),
    ).encode()
    return sequence, bytes.fromhex(hex_of(record.key)), record.step_id, record.subject, document, zlib.crc32(document)


def _made(row: tuple[bytes, int]) -> Made:
    """A row's value; raises _DamagedRowError for one that is not as it was written."""
    document, checksum = row
    try:
        if zlib.crc32(document) == checksum:
            return Made._make(from_json(document, cache_strings="none"))  # few of a plan's digests are seen twice
    except (TypeError, ValueError) as error:  # another type than was written
        raise _DamagedRowError from error
    raise _DamagedRowError
