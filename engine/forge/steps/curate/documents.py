"""Source files -> documents, strictly: what cannot be read stops the step and is named, nothing is skipped.

datatrove's JsonlReader logs a line that is not JSON and goes on; that would drop a customer's data silently, so documents
are read here. Reading has two halves: files are cut into blocks in reading order, by whoever drives the step, and a block
becomes documents, in any process. Where a block ends depends on the files alone. A file of JSON lines or parquet holds many
documents; any other is one (``formats``), whose id is the number of its source and its own. Lines are read one at a time
and have an upper length, so that memory does not depend on the size of a file, and a compressed bomb ends as an error.
"""

import codecs
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from forge.errors import StepError
from forge.steps.curate.formats import READERS, text_of
from forge.steps.curate.parquet import read_rows

MAX_LINE_BYTES = 64 * 1024 * 1024
BLOCK_BYTES = 512 * 1024
_NAME = re.compile(r"\d+(\.jsonl(\.gz)?|\.parquet|" + "|".join(map(re.escape, READERS)) + ")")


@dataclass(frozen=True, slots=True)
class SourceKeys:
    """The names of the JSON fields of a source's documents."""

    text: str = "text"
    id: str = "id"
    url: str | None = None
    license: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One document on its way."""

    id: str
    text: str
    url: str = ""
    license: str = ""
    """Empty where the source names none."""


@dataclass(frozen=True, slots=True)
class Block:
    """Some consecutive documents of one file of a source, unread: of ``lines``, ``rows`` and ``file`` one is there."""

    source: int
    place: str
    lines: list[tuple[int, bytes]] = field(default_factory=list)
    """JSON lines with their numbers; none of them blank."""
    rows: Any = None
    """Some rows of a parquet file, as a table."""
    first: int = 0
    """The number of the first row."""
    file: Path | None = None
    """A file that is one document."""
    name: str = ""
    """What that document is called within its source; empty: as the file is."""


def read_blocks(
    folders: list[Path], keys: list[SourceKeys], names: Sequence[Mapping[str, str]] | None = None
) -> Iterator[Block]:
    """All documents of all sources in order. Raises StepError that names the file and line of what cannot be read.

    ``names``: for each source what its files are called, where that is not their name in the folder.
    """
    for source, folder in enumerate(folders):
        called = names[source] if names is not None else {}
        for path in source_files(folder):
            place = f"sources[{source}], file {called.get(path.name, path.name)}"
            if path.suffix in READERS:
                yield Block(source, place, file=path, name=called.get(path.name, ""))
                continue
            if path.suffix == ".parquet":
                own = keys[source]
                columns = {"text_key": own.text, "id_key": own.id, "url_key": own.url, "license_key": own.license}
                yield from (Block(source, place, rows=rows, first=first) for first, rows in read_rows(path, place, columns))
                continue
            lines: list[tuple[int, bytes]] = []
            size = 0
            try:
                for number, line in _lines(path, place):
                    lines.append((number, line))
                    size += len(line)
                    if size >= BLOCK_BYTES:
                        yield Block(source, place, lines)
                        lines, size = [], 0
            except StepError:
                if lines:
                    yield Block(source, place, lines)  # whatever is wrong in them stands before this
                raise
            if lines:
                yield Block(source, place, lines)


def read_documents(block: Block, keys: SourceKeys) -> list[Document]:
    """The documents of a block; raises StepError that names the file and line of what is none."""
    if block.file is not None:
        return [Document(f"{block.source}/{block.name or block.file.name}", text_of(block.file, block.place))]
    documents = []
    for where, row in _rows(block):
        text, name = _field(row, keys.text, "text_key", where), _field(row, keys.id, "id_key", where)
        if len(text) > MAX_LINE_BYTES:
            raise StepError(f"{where}: {keys.text!r} is longer than {MAX_LINE_BYTES} characters; split the document")
        url, license_ = _optional(row, keys.url, "url_key", where), _optional(row, keys.license, "license_key", where)
        documents.append(Document(name, text, url, license_))
    return documents


def _rows(block: Block) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with its place."""
    for number, line in block.lines:
        where = f"{block.place}, line {number}"
        yield where, _parsed(line, where)
    if block.rows is not None:
        try:
            rows = block.rows.to_pylist()
        except UnicodeDecodeError as error:
            raise StepError(f"{block.place}, from row {block.first}: not UTF-8: {error.reason}") from error
        yield from ((f"{block.place}, row {number}", row) for number, row in enumerate(rows, start=block.first))


def source_files(folder: Path) -> list[Path]:
    """The files of a source in order; raises StepError for a file of a kind that is not read."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        if not _NAME.fullmatch(path.name):
            kinds = ", ".join([".jsonl", ".jsonl.gz", ".parquet", *READERS])
            raise StepError(f"{path.name}: a source holds {kinds} files; convert this one or narrow the glob")
    return paths


def _lines(path: Path, place: str) -> Iterator[tuple[int, bytes]]:
    number = 0
    with cast("BinaryIO", gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")) as file:
        while True:
            try:
                line = file.readline(MAX_LINE_BYTES + 1)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise StepError(f"{place}: corrupt gzip data after line {number}: {error}") from error
            if not line:
                return
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise StepError(f"{place}, line {number}: longer than {MAX_LINE_BYTES} bytes; split the document")
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield number, line


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    twice: list[str] = []

    def noted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        twice[:] = (
            [key for key, count in Counter(key for key, _ in pairs).items() if count > 1] if len(found) < len(pairs) else []
        )
        return found

    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=noted)
    except UnicodeDecodeError as error:
        raise StepError(f"{where}: not UTF-8: {error.reason} at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise StepError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise StepError(f"{where}: expected a JSON object, found {type(row).__name__}")
    if twice:  # those of the outermost object, which is told last
        raise StepError(f"{where}: the key {twice[0]!r} is written twice; keep one of them")
    return row


def _field(row: dict[str, Any], key: str, setting: str, where: str) -> str:
    if key not in row:
        found = ", ".join(sorted(row)[:8]) or "none"
        raise StepError(f"{where}: no key {key!r} (keys found: {found}); name the right one in the source's {setting}")
    value = row[key]
    if setting == "id_key" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise StepError(f"{where}: {key!r} holds {type(value).__name__}, expected a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise StepError(f"{where}: {key!r} holds a lone surrogate (half a character) at character {error.start}") from error
    return value


def _optional(row: dict[str, Any], key: str | None, setting: str, where: str) -> str:
    """A field that a document may be without, as an empty text."""
    return "" if key is None or row.get(key) is None else _field(row, key, setting, where).strip()
