"""What the sections of a report are made of: tables, facts with their standing, links to the bundle's files."""

from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element

from forge.report.model import Evidence, Fact, Section
from forge.ui.html import Content, el, link

BUNDLE = "bundle"
"""The folder beside the page that links go to."""


def facts_of(section: Section) -> Content:
    """Facts under a heading."""
    return [el("h3", section.title), fact_table(section.facts)]


def fact_table(facts: Iterable[Fact]) -> Element:
    """Facts, each with its standing and what it rests on."""
    rows = [
        el(
            "tr",
            el("th", fact.label, scope="row"),
            el("td", tag(fact.standing.value, fact.standing.value), class_="standing"),
            el("td", _value(fact), el("span", evidence_links(fact.evidence), class_="from") if fact.evidence else None),
        )
        for fact in facts
    ]
    return table(("Field", "Standing", "Value"), rows, "facts")


def _value(fact: Fact) -> Element:
    if fact.value is None:
        return el("span", fact.remedy, class_="soft")
    return el("span", fact.value, class_="value")


def evidence_links(evidence: Iterable[Evidence]) -> Content:
    """Where something stands, as links to the bundle."""
    parts: list[Content] = []
    for item in evidence:
        parts += [", "] if parts else []
        parts.append(link(f"{BUNDLE}/{item.path}", item.text) if item.path else item.text)
    return parts


def tag(kind: str, text: str) -> Element:
    """A word in a frame; ``kind`` chooses its colour."""
    return el("span", text, class_=f"tag {kind}")


def table(headings: Sequence[str], rows: Sequence[Element], class_: str = "") -> Element:
    """A table; a heading that begins with # is of numbers."""
    heads = [
        el("th", heading.removeprefix("#"), scope="col", class_="number" if heading.startswith("#") else "words")
        for heading in headings
    ]
    return el("div", el("table", el("thead", el("tr", heads)), el("tbody", rows), class_=class_ or "rows"), class_="scroll")
