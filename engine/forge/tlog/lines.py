r"""What the log of an audit log holds, and how its leaves and the files' lines are compared. Reads files, writes nothing.

A leaf is one line of a file, byte for byte, without the newline that ends it. No line holds a newline, so a leaf that begins
with one is the log's own:

- a mark, before the lines of a file and wherever they go on after those of another:
  ``\n{"file":NAME,"first":DIGEST,"offset":BYTES}``; ``first`` is the sha256 of the file's first line and names the file even
  when it is moved or renamed;
- a stand-in for a line that is too long to be an entry: ``\n{"digest":DIGEST,"size":BYTES}``.

Only whole lines count: what stands after the last newline of a file is still being written.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forge.canonical import Digest, canonical_json, digest_of_bytes
from forge.errors import TransparencyError
from forge.tlog.log import View
from forge.tlog.tiles import MOST_ENTRY_BYTES

_OWN = b"\n"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Mark:
    """Which file the leaves after it come from, and from which byte on."""

    file: str
    first: str
    offset: int

    def to_leaf(self) -> bytes:
        """The mark as an entry."""
        return _OWN + canonical_json({"file": self.file, "first": self.first, "offset": self.offset})

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.file} from byte {self.offset} on"


def leaf_of_line(line: bytes) -> bytes:
    """The entry for a line without its newline."""
    if len(line) <= MOST_ENTRY_BYTES:
        return line
    return _OWN + canonical_json({"digest": digest_of_bytes(line), "size": len(line)})


def mark_of_leaf(leaf: bytes) -> Mark | None:
    """The mark that an entry is; None for a line. Raises TransparencyError for an entry of the log's own that is neither."""
    if not leaf.startswith(_OWN):
        return None
    try:
        value: Any = json.loads(leaf[1:])
    except (ValueError, RecursionError):
        value = None
    match value:
        case {"file": str(file), "first": str(first), "offset": int(offset)} if len(value) == 3:
            return Mark(file, first, offset)
        case {"digest": str(), "size": int(size)} if len(value) == 2 and size > MOST_ENTRY_BYTES:
            return None
    raise TransparencyError(f"{leaf[:80]!r} is no entry of an audit log's log: neither a line nor a mark")


class LineFile:
    """A file of lines, held open: it can be read to its end after it was moved away."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise TransparencyError(f"{path} cannot be read: {error.strerror}") from error
        found = os.fstat(self._descriptor)
        self.identity = (found.st_dev, found.st_ino)
        self._first: Digest | None = None

    @property
    def first(self) -> Digest | None:
        """The digest of the first line; None while there is no whole one."""
        if self._first is None:
            line = next(self.lines(0), None)
            self._first = None if line is None else digest_of_bytes(line)
        return self._first

    @property
    def size(self) -> int:
        """Bytes now, half a line included."""
        return os.fstat(self._descriptor).st_size

    def lines(self, offset: int) -> Iterator[bytes]:
        """Every whole line from a byte on, without its newline."""
        rest = b""
        while chunk := os.pread(self._descriptor, _CHUNK, offset):
            offset += len(chunk)
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole

    def last_record(self) -> bytes | None:
        """The last line that was written to its end; of a write that was cut off by a kill, only a part is a line."""
        end, tail = self.size, b""
        while end > 0:
            begin = max(0, end - _CHUNK)
            tail = os.pread(self._descriptor, end - begin, begin) + tail
            lines = tail.split(b"\n")[1 if begin else 0 : -1]
            for line in reversed(lines):
                if is_record(line):
                    return line
            end = begin
        return None

    def sync(self) -> None:
        """Put what was read on the disk: a log must never know more than the file after a power cut."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)


def is_record(line: bytes) -> bool:
    """Whether a line is a whole record: a part of one does not end as JSON objects do. Records are unlike each other."""
    return line.endswith(b"}")


def find_request(view: View, request_id: str) -> int:
    """The index of the leaf that is a request's line; raises TransparencyError where there is none."""
    quoted = json.dumps(request_id).encode()
    for index, leaf in enumerate(view.entries()):
        if quoted in leaf and _request_id(leaf) == request_id:
            return index
    raise TransparencyError(
        f"no leaf of the log {view.checkpoint.origin} ({view.size} leaves) is the line of request {request_id!r}: a line is "
        "logged about a second after the request"
    )


def _request_id(leaf: bytes) -> Any:
    try:
        value = json.loads(leaf)
    except (ValueError, RecursionError):
        return None
    return value.get("request_id") if isinstance(value, dict) else None


def line_files(folder: Path) -> list[Path]:
    """The files of lines in a folder, in the order of their names, which are days."""
    return sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
