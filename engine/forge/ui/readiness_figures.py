"""The drawings of an assessment, as inline SVG: bars beside their names. Everything that they show stands in a table too."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from forge.report.readiness import Need, Readiness
from forge.ui.html import el
from forge.ui.readiness import length_text, share_text

_WIDTH, _LEFT, _RIGHT, _ROW = 800, 300, 670, 26
_LABEL_CHARACTERS = 38


@dataclass(frozen=True)
class Bar:
    """A row: its parts from left to right, each a share of the whole width and the name of a colour."""

    label: str
    parts: tuple[tuple[float, str], ...]
    text: str


def bars(title: str, rows: Sequence[Bar]) -> Element:
    """Horizontal bars."""
    shapes: list[Element] = []
    for number, row in enumerate(rows):
        y = 6 + number * _ROW
        label = row.label if len(row.label) <= _LABEL_CHARACTERS else f"{row.label[: _LABEL_CHARACTERS - 2]}.."
        shapes.append(el("text", label, x=_LEFT - 10, y=y + 13, font_size=12, text_anchor="end"))
        x = float(_LEFT)
        for share, colour in row.parts:
            width = max(0.0, min(1.0, share)) * (_RIGHT - _LEFT)
            if width > 0:
                drawn = max(1.5, width)
                shapes.append(el("rect", x=round(x, 1), y=y, width=round(drawn, 1), height=18, class_=f"bar {colour}"))
            x += width
        shapes.append(el("text", row.text, x=round(x + 8, 1), y=y + 13, font_size=12, class_="quiet"))
    shapes.append(el("line", x1=_LEFT, x2=_LEFT, y1=2, y2=8 + len(rows) * _ROW, class_="axis"))
    height = 12 + len(rows) * _ROW
    size = {"width": _WIDTH, "height": height}
    return el("svg", el("title", title), shapes, viewBox=f"0 0 {_WIDTH} {height}", role="img", **size)


def volume_figure(need: Need) -> Element:
    """What there is, what it is worth, what is planned and what is compute-optimal, on a logarithmic scale."""
    rows = [("training tokens", need.tokens.train, "there")]
    rows += [] if need.planned_tokens is None else [("planned, repeats counted", need.planned_tokens, "planned")]
    rows += [] if need.worth_tokens is None else [("what those are worth, in new ones", need.worth_tokens, "there")]
    rows += [] if need.optimal_tokens is None else [("compute-optimal", need.optimal_tokens, "wanted")]
    most = max(math.log10(max(10, number)) for _, number, _ in rows)
    least = min(math.log10(max(10, number)) for _, number, _ in rows)
    floor = math.floor(least - 0.5)
    drawn = [
        Bar(name, (((math.log10(max(10, number)) - floor) / max(1e-9, most - floor), colour),), f"{number:,}")
        for name, number, colour in rows
    ]
    return bars(f"{need.model}: tokens, on a logarithmic scale that begins at {10**floor:,}", drawn)


def sources_figure(readiness: Readiness) -> Element:
    """Of each source what is kept and what was removed."""
    rows = [
        Bar(
            f"[{index}] {source.path.rsplit('/', 1)[-1]}",
            (
                (source.kept.documents / (source.read.documents or 1), "there"),
                (1 - source.kept.documents / (source.read.documents or 1) if source.read.documents else 0, "gone"),
            ),
            f"{share_text(source.kept.documents, source.read.documents)} kept",
        )
        for index, source in enumerate(readiness.sources)
    ]
    return bars("Kept and removed documents of each source", rows)


def removed_figure(readiness: Readiness) -> Element:
    """Documents that each rule removed."""
    most = max((count for _, count in readiness.removed), default=1) or 1
    rows = [Bar(rule, ((count / most, "gone"),), f"{count:,}") for rule, count in readiness.removed]
    return bars("Documents that each rule removed", rows)


def lengths_figure(readiness: Readiness) -> Element | None:
    """How long the kept documents are; None where nobody looked."""
    counts: dict[int, int] = {}
    for source in readiness.sources:
        for bits, count in source.lengths:
            counts[bits] = counts.get(bits, 0) + count
    if not counts:
        return None
    most = max(counts.values()) or 1
    found = range(min(counts), max(counts) + 1)
    rows = [Bar(length_text(bits), ((counts.get(bits, 0) / most, "there"),), f"{counts.get(bits, 0):,}") for bits in found]
    return bars("Lengths of the kept documents", rows)


def languages_figure(readiness: Readiness) -> Element | None:
    """Languages by bytes; None where nobody looked."""
    if not readiness.languages:
        return None
    total = sum(share.bytes for share in readiness.languages.values()) or 1
    rows = [
        Bar(name, ((share.bytes / total, "there"),), share_text(share.bytes, total))
        for name, share in readiness.languages.items()
    ]
    return bars("Languages of what was looked at, by bytes", rows[:20])
