"""HTML of the manuals -> documents, one per section: a title, paragraphs, list items and code blocks as plain text.

Invariant: equal packages give equal documents, in the order of their names. Navigation, tables of contents, index
marks, permalinks and footnote numbers are dropped; what stands in ``<pre>`` keeps its lines and its indentation. A
section holds its own text only: a nested section is a document of its own. A section shorter than MIN_CHARACTERS is
joined to its neighbour in the same file, because a heading and half a sentence teach nothing and would not pass the
quality filter.

Names of package archives, mirrors and registries become ARCHIVE_HOST: they change, differ between organisations, and a
model that has read them would tell a reader to download from there.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lxml.html

MIN_CHARACTERS = 400
ARCHIVE_HOST = "mirror.example.org"

_BLOCKS = {
    "address", "article", "blockquote", "body", "dd", "div", "dl", "dt", "h1", "h2", "h3", "h4", "h5", "h6", "li", "ol",
    "p", "section", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
_JOINTS = {"td": " ", "th": " ", "tr": " | ", "table": "\n"}
"""What stands between the parts of a table; everything else becomes paragraphs."""
_DROPPED_TAGS = {"script", "style", "img", "head", "form", "input", "colgroup", "sup"}
_DROPPED_CLASSES = {
    "docnav",
    "toc",
    "toctree-wrapper",
    "indexterm",
    "headerlink",
    "footnote-reference",
    "label",
    "section-number",
    "mediaobject",
    "longdesc-link",
}
_SECTIONS = (
    "section", "sect1", "sect2", "sect3", "sect4", "sect5", "simplesect", "chapter", "preface", "appendix", "refentry",
    "refsect1",
)  # fmt: skip
"""DocBook's sections, by the class of the ``<div>`` that its stylesheets write."""
_NUMBER = re.compile(r"^(?:(?:Chapter|Appendix)\s+)?(?:\d+|[A-Z])(?:\.\d+)*\.\s+")
_ARCHIVES = re.compile(
    r"(?<![A-Za-z0-9-])(?:[\w-]+\.)*(?:"
    r"(?:deb|debug|ftp\d?|ftp-master|https?|http\d|httpredir|get|incoming|archive|snapshot|security|security-master|backports|volatile"
    r"|ports|cdimage|cdn-\w+|cloudfront|mirrors?|mirror-\w+|upload)(?:\.[a-z]{2})?\.debian\.(?:org|net)"
    r"|(?:archive|ports|security|ppa)\.(?:ubuntu|launchpad)\.(?:com|net)"
    r"|(?:deb|apt|mirrors?|ftp)(?:\.[\w-]+)*\.(?:centos|debian|ubuntu|freexian|kali|postgresql|winehq)\.(?:org|com)"
    r"|(?:pypi|pythonhosted|npmjs|rubygems|crates|cpan|docker|quay|ghcr|anaconda|yarnpkg)(?:\.python)?\.(?:org|com|io)"
    r")(?![A-Za-z0-9-]|\.\w)",
    re.IGNORECASE,
)
"""Debian's archives in all their spellings (a country, a protocol or a cache in the name) and languages' registries."""


@dataclass(frozen=True)
class Manual:
    """Where one package keeps its text."""

    source: str
    """The Debian package, which is also the first part of each document's id."""
    pages: str
    """Glob of the English HTML pages, relative to the folder with the unpacked packages."""
    license: str
    """SPDX expression, from the package's copyright file."""
    omitted: frozenset[str]
    """Files, and anchors of sections, that hold no text of the manual itself: contents, search, licence, credits, pictures."""


MANUALS = (
    Manual(
        "debian-handbook",
        "usr/share/doc/debian-handbook/html/en-US/*.html",
        "GPL-2.0-or-later OR CC-BY-SA-3.0",
        frozenset({"index.html"}),
    ),
    Manual(
        "debian-policy",
        "usr/share/doc/debian-policy/policy.html/*.html",
        "GPL-2.0-or-later",
        frozenset({"index.html", "search.html", "genindex.html", "ap-license.html", "ap-flowcharts.html"}),
    ),
    Manual("debian-reference-en", "usr/share/debian-reference/*.en.html", "GPL-2.0-or-later", frozenset({"index.en.html"})),
    Manual(
        "developers-reference",
        "usr/share/developers-reference/*.html",
        "GPL-2.0-or-later",
        frozenset({"index.html", "search.html", "genindex.html", "developers-reference.html"}),
    ),
    Manual(
        "installation-guide-amd64",
        "usr/share/doc/installation-guide-amd64/en/*.html",
        "GPL-2.0-only",
        frozenset({"index.html", "ape.html", "apes01.html", "apes02.html", "apes03.html", "apes04.html", "apf.html"}),
    ),
    Manual(
        "harden-doc",
        "usr/share/doc/harden-doc/html/en-US/*.html",
        "GPL-2.0-or-later",
        frozenset({"index.html", "changelog_history.html", "ch01s05.html", "credits.html"}),
    ),
    Manual(
        "aptitude-doc-en",
        "usr/share/doc/aptitude/html/en/*.html",
        "GPL-2.0-or-later",
        frozenset({"index.html", "ch04.html"}),
    ),
    Manual("maint-guide", "usr/share/doc/maint-guide/html/*.en.html", "GPL-2.0-or-later", frozenset({"index.en.html"})),
    Manual(
        "debian-edu-doc-en",
        "usr/share/doc/debian-edu-doc-en/debian-edu-bookworm-manual.html",
        "GPL-2.0-or-later",
        frozenset({"CopyRight", "Translations", "idm2597"}),
    ),
    Manual(
        "debian-kernel-handbook",
        "usr/share/doc/debian-kernel-handbook/kernel-handbook.html/*.html",
        "GPL-2.0-or-later",
        frozenset({"index.html"}),
    ),
    Manual("debian-history", "usr/share/doc/debian-history/docs/*.en.html", "GPL-2.0-or-later", frozenset({"index.en.html"})),
    Manual("debmake-doc", "usr/share/doc/debmake-doc/html/*.en.html", "MIT", frozenset({"index.en.html"})),
)


@dataclass(frozen=True)
class Document:
    """One section."""

    id: str
    text: str
    license: str
    source: str


def documents_of(manual: Manual, unpacked: Path) -> list[Document]:
    """All sections of a manual, sorted by file and then in the order of the text."""
    pages = sorted(path for path in unpacked.glob(manual.pages) if path.name not in manual.omitted)
    if not pages:
        raise SystemExit(f"{unpacked / manual.pages}: no such page: unpack the Debian package {manual.source} there (dpkg -x)")
    documents = []
    for page in pages:
        sections = [(name, without_archives("\n\n".join(blocks))) for name, blocks in _sections(page, manual.omitted) if blocks]
        documents += [
            Document(f"{manual.source}/{name}", text, manual.license, manual.source) for name, text in _join_short(sections)
        ]
    return documents


def without_archives(text: str) -> str:
    """The text with ARCHIVE_HOST in place of the host names of package archives and registries."""
    return _ARCHIVES.sub(ARCHIVE_HOST, text)


def _sections(page: Path, omitted: frozenset[str]) -> Iterator[tuple[str, list[str]]]:
    """Each section of a page with its blocks of text, outer before inner."""
    tree = lxml.html.fromstring(page.read_bytes(), parser=lxml.html.HTMLParser(encoding="utf-8"))
    if mains := tree.xpath("//*[@role='main']"):  # Sphinx
        tops = mains[0].xpath("./section")
        for section in tops[0].iter("section"):
            name = page.stem if section is tops[0] else f"{page.stem}/{section.get('id')}"
            yield name, _blocks_of(section)
        return
    left_out: set[lxml.html.HtmlElement] = set()
    for section in tree.xpath("//div[" + " or ".join(f"@class='{name}'" for name in _SECTIONS) + "]"):  # DocBook
        anchors = section.xpath("./div[@class='titlepage']//a/@*[name()='id' or name()='name']") or section.xpath("./a/@id")
        name = anchors[0] if anchors else page.stem
        if name in omitted or not left_out.isdisjoint(section.iterancestors()):
            left_out.add(section)
        else:
            yield name, _blocks_of(section)


def _blocks_of(section: lxml.html.HtmlElement) -> list[str]:
    blocks = [block for block in _walk(section, section) if block.strip()]
    if blocks:
        blocks[0] = _NUMBER.sub("", blocks[0])
    return [] if len(blocks) < 2 else blocks  # a heading alone says nothing


def _walk(node: lxml.html.HtmlElement, section: lxml.html.HtmlElement) -> Iterator[str]:
    """Blocks of text below a node, not entering nested sections."""
    inline: list[str] = [node.text or ""]
    for child in node:
        if not isinstance(child.tag, str):  # a comment
            inline.append(child.tail or "")
            continue
        classes = set((child.get("class") or "").split())
        if child.tag == "section" or (child.tag == "div" and not classes.isdisjoint(_SECTIONS)) or classes & _DROPPED_CLASSES:
            pass
        elif child.tag in _DROPPED_TAGS:
            inline.append(" " if child.tag == "img" else "")
        elif child.tag == "pre":
            yield _normalised(inline)
            inline = []
            yield "\n".join(line.rstrip() for line in child.text_content().strip("\n").split("\n"))
        elif child.tag in _BLOCKS:
            yield _normalised(inline)
            inline = []
            blocks = [block for block in _walk(child, section) if block.strip()]
            if child.tag == "li" and blocks:
                blocks[0] = "- " + blocks[0]
            joint = _JOINTS.get(child.tag)
            yield from blocks if joint is None else [joint.join(blocks)]
        elif child.tag == "br":
            inline.append(" ")
        else:
            *whole, last = _walk(child, section)
            for block in whole:
                inline.append(block)
                yield _normalised(inline)
                inline = []
            inline.append(last)
        inline.append(child.tail or "")
    if node.tag in _BLOCKS:
        yield _normalised(inline)
    else:
        yield "".join(inline)  # the space around an inline element belongs to the paragraph


def _normalised(pieces: list[str]) -> str:
    return " ".join("".join(pieces).split())


def _join_short(sections: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Join each short section to the one before it (the first one to the one after it)."""
    joined: list[tuple[str, str]] = []
    for name, text in sections:
        if joined and (len(text) < MIN_CHARACTERS or len(joined[-1][1]) < MIN_CHARACTERS):
            joined[-1] = (joined[-1][0], f"{joined[-1][1]}\n\n{text}")
        else:
            joined.append((name, text))
    return joined
