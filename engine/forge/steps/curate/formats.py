"""Files that are one document each -> their text: plain text, Markdown, HTML, PDF, Word documents and source code.

Invariant: a file gives its text or stops the step with one message that names it; nothing is fetched, and nothing outside of
the file is read. Text, Markdown and source code stay as they are; of HTML the main content is taken (trafilatura), of PDF
the text of its pages (pypdf; a scanned page has none), of DOCX the paragraphs, tables and text boxes (``docx_text``). The
bytes that a file may unfold to are bounded before anything is unfolded.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from forge.errors import StepError
from forge.spec.formats import LANGUAGES
from forge.steps.curate.docx_text import read_docx
from forge.steps.curate.html import read_html
from forge.steps.curate.malformed import MALFORMED, said

MAX_FILE_BYTES = 64 * 1024 * 1024


def text_of(path: Path, place: str) -> str:
    """The text of a file; raises StepError that names ``place``."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise StepError(f"{place}: larger than {MAX_FILE_BYTES} bytes; split the document")
    text = READERS[path.suffix](path, place)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise StepError(f"{place}: its text holds a lone surrogate (half a character) at character {error.start}") from error
    return text


def _plain(path: Path, place: str) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StepError(f"{place}: not UTF-8: {error.reason} at byte {error.start}; convert it") from error


def _pdf(path: Path, place: str) -> str:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        with PdfReader(path) as reader:
            if reader.is_encrypted:
                raise StepError(f"{place}: the PDF is encrypted; save it without a password, or take it out")
            pages, size = [], 0
            for page in reader.pages:
                pages.append(page.extract_text())
                size += len(pages[-1])
                if size > MAX_FILE_BYTES:
                    raise StepError(f"{place}: the PDF holds more than {MAX_FILE_BYTES} characters; split the document")
    except (*MALFORMED, PyPdfError) as error:
        raise StepError(f"{place}: a PDF that cannot be read: {said(error)}; repair it or take it out") from error
    return "\n\n".join(page.strip("\n") for page in pages)


READERS: dict[str, Callable[[Path, str], str]] = {
    ".txt": _plain,
    ".md": _plain,
    ".markdown": _plain,
    ".html": read_html,
    ".htm": read_html,
    ".pdf": _pdf,
    ".docx": read_docx,
    **{f".{ending}": _plain for ending in LANGUAGES},
}
"""Suffix -> how to read it."""
