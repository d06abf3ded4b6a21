"""HTML as a tree of elements: text goes in as text and comes out escaped, because there is no other way in.

What people wrote (names, descriptions, commit messages) may be hostile. So no function here takes markup, characters that
change how a line reads (controls, bidirectional overrides) are shown as their codes, and links go to the site's own files only.
"""

import re
from collections.abc import Iterable
from xml.etree.ElementTree import Element, tostring

from forge.errors import printable

Content = Element | str | None | Iterable["Content"]
_OWN_FILE = re.compile(r"^(#[a-z0-9-]+|[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*)$")


def el(tag: str, *content: Content, **attributes: str | int | float) -> Element:
    """An element; ``class_`` and names with underscores stand for ``class`` and names with hyphens."""
    made = Element(tag, {name.rstrip("_").replace("_", "-"): clean(str(value)) for name, value in attributes.items()})
    _fill(made, content)
    return made


def link(path: str, *content: Content, **attributes: str) -> Element:
    """A link to a place of this page or to a file of this site; raises ValueError for anything else."""
    if not _OWN_FILE.match(path):
        raise ValueError(f"not a file of this site: {path!r}")
    return el("a", *content, href=path, **attributes)


def clean(text: str) -> str:
    """A text with everything that is not printable shown as its code; lines stay lines."""
    return "\n".join(printable(line) for line in text.replace("\r\n", "\n").split("\n"))


def to_html(document: Element) -> bytes:
    """The bytes of a page."""
    body: bytes = tostring(document, encoding="utf-8", method="html")
    return b"<!DOCTYPE html>\n" + body + b"\n"


def _fill(made: Element, content: Content) -> None:
    match content:
        case None:
            return
        case str():
            text = clean(content)
            if len(made):
                made[-1].tail = (made[-1].tail or "") + text
            else:
                made.text = (made.text or "") + text
        case Element():
            made.append(content)
        case _:
            for item in content:
                _fill(made, item)
