"""An HTML file -> its main content (trafilatura).

Invariant: a page is read as a whole, or refused by a message that names it. What the reader would lose without a word is looked
for before it reads: an encoding that nothing fits, text beyond the length that libxml2 compares, and nesting at which it gives
up. A page without content has no text.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forge.errors import StepError
from forge.steps.curate.encoding import decoded
from forge.steps.curate.malformed import MALFORMED, said

MAX_TAGS = 200_000
"""Reading takes more than linear time in them."""
MAX_TEXT_BYTES = 9_900_000
"""Of the text between the tags: libxml2 cuts strings at 10,000,000 (XPath), and trafilatura goes on with what is left."""
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
"""How gzip and zstd begin: trafilatura would unfold them, to whatever size."""


def read_html(path: Path, place: str) -> str:
    """The main content of a page; raises StepError that names ``place``."""
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    data = path.read_bytes()
    if not data.strip():
        return ""
    if data.startswith(_COMPRESSED):
        raise StepError(f"{place}: HTML that is compressed; unpack it")
    page = decoded(data)
    if page is None:
        raise StepError(f"{place}: HTML in no encoding that can be told; convert it to UTF-8, or take it out")
    if page.count("<") > MAX_TAGS:
        raise StepError(f"{place}: HTML with more than {MAX_TAGS} tags; split the document or take it out")
    _refuse_what_is_lost(page, place)
    try:
        found = trafilatura.extract(page, include_comments=False, favor_precision=True, deduplicate=False)
    except MALFORMED as error:
        raise StepError(f"{place}: HTML that cannot be read: {said(error)}; take the file out or convert it") from error
    return found or ""


def _refuse_what_is_lost(page: str, place: str) -> None:
    """Raises StepError for a page of which libxml2 would give a part, or nothing."""
    _, faults = _parsed(page, huge=False)
    if any("depth" in fault for fault in faults):
        raise StepError(f"{place}: HTML whose tags are nested deeper than 256, which hides its text; take it out or convert it")
    if len(page) > MAX_TEXT_BYTES // 4:  # else it cannot be more
        tree, _ = _parsed(page, huge=True)
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in _texts(tree))
        if size > MAX_TEXT_BYTES:
            raise StepError(f"{place}: HTML with {size} bytes of text, more than {MAX_TEXT_BYTES}; split the document")


def _parsed(page: str, *, huge: bool) -> tuple[Any, list[str]]:
    """The tree, None where there is none, and which of its limits libxml2 met."""
    from lxml import etree

    parser = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=huge)
    try:
        tree = etree.fromstring(page.encode("utf-8", "surrogatepass"), parser)
    except (etree.LxmlError, ValueError):
        tree = None  # the reader says what this is
    return tree, [entry.message for entry in parser.error_log if entry.type_name == "ERR_RESOURCE_LIMIT"]


def _texts(tree: Any) -> Iterator[str]:
    for element in () if tree is None else tree.iter():
        if element.text and element.tag not in ("script", "style"):
            yield element.text
        if element.tail:
            yield element.tail
