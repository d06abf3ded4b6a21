"""A Word document -> what a reader of it sees: python-docx opens it, and its XML is walked here.

Invariant: every paragraph and table of the document's body is read once, in its order, wherever it stands: in content controls,
tracked insertions, moved text, cells, nested tables and text boxes. Deleted text is left out, as are field codes, comments,
headers, footers, notes and formulas. python-docx's own walk sees the direct children of the body and of paragraphs alone,
and gives a merged cell once for each column.

    paragraphs  separated by an empty line
    tables      a row a line, cells separated by " | "; in a cell, and in a nested table, a line each
    text boxes  after the paragraph that holds them
"""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from forge.errors import StepError
from forge.steps.curate.malformed import MALFORMED, said

MAX_UNFOLDED_BYTES = 256 * 1024 * 1024
"""Of all parts together."""
MAX_MARKS = 2_000_000
"""Tags and attributes of all parts together, of which some 200 bytes of memory are made each: `<w:p/>` packs a thousandfold."""
_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_ALTERNATIVES = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"


def _words(*names: str) -> frozenset[str]:
    return frozenset(_WORD + name for name in names)


_WRAPPERS = _words("hyperlink", "ins", "moveTo", "sdt", "sdtContent", "smartTag", "customXml", "fldSimple", "bdo", "dir")
"""Elements that hold what would stand in their place without them."""
_LEFT_OUT = _words("del", "moveFrom")
_SIGNS: dict[str, Callable[[Any], str]] = {
    _WORD + "t": lambda element: element.text or "",
    _WORD + "tab": lambda _: "\t",
    _WORD + "ptab": lambda _: "\t",
    _WORD + "cr": lambda _: "\n",
    _WORD + "noBreakHyphen": lambda _: "-",
    _WORD + "br": lambda element: "\n" if element.get(_WORD + "type", "textWrapping") == "textWrapping" else "",
}
"""What stands in a run, and its text: a break of pages or columns has none."""


def read_docx(path: Path, place: str) -> str:
    """The text of a document; raises StepError that names ``place``."""
    import docx
    from docx.opc.exceptions import OpcError
    from lxml.etree import LxmlError

    try:
        with zipfile.ZipFile(path) as parts:
            _bound(parts, place)
        body = docx.Document(str(path)).element.body
        if next(body.iter(_WORD + "altChunk"), None) is not None:
            raise StepError(f"{place}: a DOCX that holds another file in its text (altChunk): open it in Word and save it anew")
        return "\n\n".join(text for text in _blocks(body) if text.strip())
    except (*MALFORMED, OpcError, LxmlError) as error:
        raise StepError(
            f"{place}: a DOCX that cannot be read: {said(error)}; save it anew without a password, or take it out"
        ) from error


def _bound(parts: zipfile.ZipFile, place: str) -> None:
    """Raises StepError for a document too large to be held, before any tree is made of it."""
    unfolded = sum(part.file_size for part in parts.infolist())
    if unfolded > MAX_UNFOLDED_BYTES:
        raise StepError(f"{place}: a DOCX that unfolds to {unfolded} bytes, more than {MAX_UNFOLDED_BYTES}: take it out")
    marks = 0
    for part in parts.infolist():
        if part.filename.endswith((".xml", ".rels")):
            with parts.open(part) as file:
                while chunk := file.read(1 << 20):
                    marks += chunk.count(b"<") + chunk.count(b"=")
                    if marks > MAX_MARKS:
                        raise StepError(f"{place}: a DOCX with more than {MAX_MARKS} tags and attributes: split the document")


def _blocks(container: Any) -> Iterator[str]:
    """The text of each paragraph, table and text box, in the order of the document."""
    for element in _seen(container):
        if element.tag == _WORD + "p":
            yield "".join(_inline(element))
            for box in _boxes(element):
                yield from _blocks(box)
        elif element.tag == _WORD + "tbl":
            yield "\n".join(_rows(element))


def _rows(table: Any) -> Iterator[str]:
    for row in _seen(table):
        if row.tag == _WORD + "tr" and row.find(f"{_WORD}trPr/{_WORD}del") is None:
            cells = (cell for cell in _seen(row) if cell.tag == _WORD + "tc")
            yield " | ".join("\n".join(_blocks(cell)).strip() for cell in cells)


def _inline(element: Any) -> Iterator[str]:
    for child in _seen(element):
        if child.tag == _WORD + "r":
            yield from _inline(child)
        elif child.tag == _WORD + "ruby":
            yield from (text for base in child.iterchildren(_WORD + "rubyBase") for text in _inline(base))
        elif child.tag in _SIGNS:
            yield _SIGNS[child.tag](child)


def _boxes(element: Any) -> Iterator[Any]:
    """The contents of text boxes that are anchored in an element."""
    for child in _seen(element):
        if child.tag == _WORD + "txbxContent":
            yield child
        else:
            yield from _boxes(child)


def _seen(container: Any) -> Iterator[Any]:
    """The children that a reader sees, with those of wrappers in the place of these."""
    for child in container.iterchildren("*"):
        if child.tag in _WRAPPERS:
            yield from _seen(child)
        elif child.tag == _ALTERNATIVES + "AlternateContent":
            yield from _seen(_chosen(child))
        elif child.tag not in _LEFT_OUT:
            yield child


def _chosen(alternatives: Any) -> Any:
    """The first of several ways to say the same."""
    return next(alternatives.iterchildren(_ALTERNATIVES + "Choice", _ALTERNATIVES + "Fallback"), alternatives)
