"""What was learnt from blobs, so that an unchanged file is neither read, parsed nor hashed again.

Disposable: it lies in Git's own folder of this clone, is never fetched or committed, and whatever is wrong with it (damage,
a row whose checksum does not hold, another engine's rows, a lock that somebody holds) makes it answer "not known". What is
kept is a function of a blob's bytes and of the engine's source, whose digest is part of the cache: an engine that was
changed by one letter starts anew.

Blobs are named by SHA-1. For planning that is enough: whoever can make two files with one name must have both of them
committed here, gains a plan that shows one instead of the other, and the chain of evidence does not go through this cache.
``apply`` hashes the bytes that it stores and refuses when they are not the ones that were planned; verification reads every
file of the commit again (``read_desired`` without a cache).
"""

import json
import sqlite3
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import forge
from forge.repo.listing import Listing, from_columns, to_columns
from forge.spec.compiled import Compiled, from_text, to_text

FILE = "specs.sqlite"
UNUSED_PLANS = 50
"""A row that this many plans did not read goes; only plans that found something new count."""
KEPT_TREES = 3
_APPLICATION = 0x466F7267  # "Forg"
_ROWS = 900
_WAIT_SECONDS = 1.0
_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE spec (blob TEXT PRIMARY KEY, used INTEGER, checksum INTEGER, compiled TEXT) WITHOUT ROWID;
CREATE TABLE source (blob TEXT PRIMARY KEY, checksum INTEGER, documents TEXT);
CREATE TABLE file (blob TEXT PRIMARY KEY, used INTEGER, checksum INTEGER, size INTEGER, sha256 TEXT, lfs INTEGER) WITHOUT ROWID;
CREATE TABLE tree (tree TEXT PRIMARY KEY, used INTEGER, checksum INTEGER, files TEXT, odd TEXT, folders TEXT, rest TEXT);
"""


@dataclass(frozen=True)
class SpecFile:
    """What a spec file holds."""

    compiled: tuple[Compiled, ...]
    documents: tuple[Any, ...]
    """Each resource as plain data, as it was written."""


class FileDigest(NamedTuple):
    """What a file's bytes are."""

    size: int
    sha256: str
    is_lfs: bool = False
    """The blob is a Git LFS pointer to these bytes."""


@dataclass(frozen=True)
class TreeState:
    """What was learnt from a whole tree that is valid."""

    listing: Listing
    matched: Mapping[str, list[str]]
    """Glob -> the paths that it matches."""
    specs: tuple[str, ...]
    """The paths of the spec files."""
    lfs: tuple[str, ...]
    """Digests of contents that have to be in the Git LFS store."""
    fingerprint: str


class SpecCache:
    """The cache of one clone. Safe for concurrent processes; use it as a context or close it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._generation = 0
        self._database = self._open()

    def __enter__(self) -> "SpecCache":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; from then on nothing is known."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def compiled(self, blobs: Iterable[str]) -> dict[str, tuple[Compiled, ...]]:
        """What the spec files with these names hold, as far as it is known."""
        found = {}
        old = self._generation - UNUSED_PLANS // 2  # half-way to being forgotten
        for blob, used, checksum, text in self._rows("blob, used, checksum, compiled", "spec", blobs):
            if checksum == _checksum(blob, text):
                found[blob] = from_text(text)
                if used < old:
                    self._reused["spec"].append(blob)
        return found

    def documents(self, blob: str) -> list[Any] | None:
        """The plain data of a spec file's resources."""
        for name, checksum, text in self._rows("blob, checksum, documents", "source", (blob,)):
            if checksum == _checksum(name, text):
                found: list[Any] = json.loads(text)
                return found
        return None

    def digests(self, blobs: Iterable[str]) -> dict[str, FileDigest]:
        """What the bytes of these files are, as far as it is known."""
        found = {}
        old = self._generation - UNUSED_PLANS // 2
        for blob, used, checksum, size, digest, lfs in self._rows("blob, used, checksum, size, sha256, lfs", "file", blobs):
            if checksum == _checksum(blob, str(size), digest, str(lfs)):
                found[blob] = FileDigest(size, digest, bool(lfs))
                if used < old:
                    self._reused["file"].append(blob)
        return found

    def state(self, tree: str | None = None) -> TreeState | None:
        """What is known of a tree; without a name, of the one that was seen last."""
        columns = "tree, checksum, files, odd, folders, rest"
        if tree is None:
            rows = self._ask(f"SELECT {columns} FROM tree ORDER BY used DESC LIMIT 1", ())  # noqa: S608 (constants)
        else:
            rows = self._ask(f"SELECT {columns} FROM tree WHERE tree = ?", (tree,))  # noqa: S608 (constants)
        for name, checksum, *texts in rows:
            if checksum == _checksum(name, *texts):
                rest = json.loads(texts[3])
                listing = from_columns(name, (texts[0], texts[1], texts[2]))
                return TreeState(listing, rest["matched"], tuple(rest["specs"]), tuple(rest["lfs"]), rest["fingerprint"])
        return None

    def keep(self, specs: Mapping[str, SpecFile], files: Mapping[str, FileDigest], state: TreeState | None) -> None:
        """Remember what was found, and forget what nobody has read for long; a cache that cannot be written stays as it is."""
        if self._database is None or not (specs or files or state):
            return
        try:
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                self._write(specs, files, state)
        except sqlite3.DatabaseError as error:
            if _is_damage(error):
                self._discard()  # otherwise it is locked, or the disk is full: what was there before still holds

    def _write(self, specs: Mapping[str, SpecFile], files: Mapping[str, FileDigest], state: TreeState | None) -> None:
        database = self._database
        if database is None:
            return
        now = self._generation + 1
        database.execute("INSERT OR REPLACE INTO meta VALUES ('generation', ?)", (str(now),))
        texts = {blob: to_text(spec.compiled) for blob, spec in specs.items()}
        database.executemany(
            "INSERT OR REPLACE INTO spec VALUES (?, ?, ?, ?)",
            [(blob, now, _checksum(blob, text), text) for blob, text in texts.items()],
        )
        texts = {blob: json.dumps(spec.documents, separators=(",", ":")) for blob, spec in specs.items()}
        database.executemany(
            "INSERT OR REPLACE INTO source VALUES (?, ?, ?)",
            [(blob, _checksum(blob, text), text) for blob, text in texts.items()],
        )
        database.executemany(
            "INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?)",
            [
                (blob, now, _checksum(blob, str(d.size), d.sha256, str(int(d.is_lfs))), d.size, d.sha256, int(d.is_lfs))
                for blob, d in files.items()
            ],
        )
        if state is not None:
            rest = {"matched": state.matched, "specs": state.specs, "lfs": state.lfs, "fingerprint": state.fingerprint}
            columns = (*to_columns(state.listing), json.dumps(rest, separators=(",", ":")))
            name = state.listing.tree
            row = (name, now, _checksum(name, *columns), *columns)
            database.execute("INSERT OR REPLACE INTO tree VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            last = "SELECT tree FROM tree ORDER BY used DESC LIMIT ?"
            database.execute(f"DELETE FROM tree WHERE tree NOT IN ({last})", (KEPT_TREES,))  # noqa: S608 (constants)
        for table, blobs in self._reused.items():
            database.executemany(
                f"UPDATE {table} SET used = ? WHERE blob = ?",  # noqa: S608 (constants)
                [(now, blob) for blob in blobs],
            )
            blobs.clear()
            database.execute(f"DELETE FROM {table} WHERE used < ?", (now - UNUSED_PLANS,))  # noqa: S608 (constants)
        if now % UNUSED_PLANS == 0:
            database.execute("DELETE FROM source WHERE blob NOT IN (SELECT blob FROM spec)")
        self._generation = now

    def _rows(self, columns: str, table: str, blobs: Iterable[str]) -> Iterator[Sequence[Any]]:
        wanted = sorted(set(blobs))  # neighbours lie on one page
        for begin in range(0, len(wanted), _ROWS):
            part = wanted[begin : begin + _ROWS]
            marks = ",".join("?" * len(part))
            yield from self._ask(f"SELECT {columns} FROM {table} WHERE blob IN ({marks})", part)  # noqa: S608 (constants)

    def _ask(self, query: str, values: Sequence[Any]) -> list[Any]:
        if self._database is None:
            return []
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            if _is_damage(error):
                self._discard()
            return []

    def _open(self) -> sqlite3.Connection | None:
        self._reused: dict[str, list[str]] = {"spec": [], "file": []}
        for _ in range(2):
            try:
                return self._connect()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    return None  # no place to write, or another process holds it for too long
                self._path.unlink(missing_ok=True)
        return None

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=_WAIT_SECONDS, isolation_level=None)
        try:
            database.execute("PRAGMA synchronous = OFF")  # every row has a checksum: after a power cut it is read or made again
            if not self._is_ours(database):
                with database:
                    database.execute("BEGIN IMMEDIATE")
                    if not self._is_ours(database):
                        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                            database.execute(f'DROP TABLE "{table}"')
                        for statement in _TABLES.strip().splitlines():
                            database.execute(statement)
                        database.execute("INSERT INTO meta VALUES ('engine', ?), ('generation', '0')", (engine_digest(),))
                        database.execute(f"PRAGMA application_id = {_APPLICATION}")
            (row,) = database.execute("SELECT value FROM meta WHERE name = 'generation'")
            self._generation = int(row[0])
        except (sqlite3.Error, ValueError) as error:
            database.close()
            if isinstance(error, ValueError):
                raise sqlite3.DatabaseError("no generation") from error
            raise
        return database

    @staticmethod
    def _is_ours(database: sqlite3.Connection) -> bool:
        (application,) = database.execute("PRAGMA application_id").fetchone()
        if application != _APPLICATION:
            return False
        rows = database.execute("SELECT value FROM meta WHERE name = 'engine'").fetchall()
        return bool(rows == [(engine_digest(),)])

    def _discard(self) -> None:
        """The file is damaged: away with it; the next process makes a new one."""
        self.close()
        self._path.unlink(missing_ok=True)


@cache
def engine_digest() -> str:
    """The sha256 of everything that decides what is made of a spec: this engine's source, and who reads it."""
    digest = sha256(f"{forge.__version__} python {sys.version_info[:2]}\n".encode())
    top = Path(forge.__file__).parent
    for path in sorted([*top.glob("spec/*.py"), *top.glob("plan/*.py"), *top.glob("repo/*.py"), top / "canonical.py"]):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(top)} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is to blame: it is no database, not a whole one, or one with other tables."""
    if not isinstance(error, sqlite3.OperationalError):
        return True
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return bool(code & 0xFF == sqlite3.SQLITE_ERROR)  # "no such table" rather than "locked", "full" or "read-only"


def _checksum(*texts: str) -> int:
    """Of a row. It begins with the engine: another one's rows never hold, even when it takes over while this one reads."""
    return zlib.crc32("\0".join(texts).encode("utf-8", "surrogatepass"), _seed())


@cache
def _seed() -> int:
    return zlib.crc32(engine_digest().encode())
