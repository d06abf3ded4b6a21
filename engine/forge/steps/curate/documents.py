"""Source files -> documents, strictly: what cannot be read stops the step and is named, nothing is skipped.

datatrove's JsonlReader logs a line that is not JSON and goes on; that would drop a customer's data silently, so documents
are read here and handed to datatrove's filters as its own Document values. Lines are read one at a time and have an upper
length, so that memory does not depend on the size of a file, and a compressed bomb ends as an error.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from datatrove.data import Document

from forge.errors import StepError

MAX_LINE_BYTES = 64 * 1024 * 1024
_NAME = re.compile(r"\d+\.jsonl(\.gz)?")


def read_sources(folders: list[Path], keys: list[tuple[str, str]]) -> Iterator[Document]:
    """All documents of all sources in order; each document's metadata names its source.

    ``keys``: for each folder, the names of the JSON fields that hold text and id. Raises StepError that names the file
    and line of what cannot be read.
    """
    for source, (folder, (text_key, id_key)) in enumerate(zip(folders, keys, strict=True)):
        for path in source_files(folder):
            place = f"sources[{source}], file {path.name}"
            for number, line in _lines(path, place):
                where = f"{place}, line {number}"
                row = _parsed(line, where)
                text, name = _field(row, text_key, "text_key", where), _field(row, id_key, "id_key", where)
                yield Document(text=text, id=name, metadata={"source": source})


def source_files(folder: Path) -> list[Path]:
    """The files of a source in order; raises StepError for a file that is no JSON lines file."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        if not _NAME.fullmatch(path.name):
            raise StepError(f"{path.name}: a source holds .jsonl or .jsonl.gz files; convert this one or narrow the glob")
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
            if line.strip():
                yield number, line


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise StepError(f"{where}: not UTF-8: {error.reason} at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise StepError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise StepError(f"{where}: expected a JSON object, found {type(row).__name__}")
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
