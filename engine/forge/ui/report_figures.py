"""The two drawings of a report, as inline SVG: the chain from data to release, and a metric with its interval and threshold.

Both have a title and a description, and everything that they show stands in a table beside them.
"""

import graphlib
from collections.abc import Sequence
from dataclasses import replace
from xml.etree.ElementTree import Element

from forge.contract.verdict import Bound
from forge.report.facts import shown
from forge.report.model import ChainStep, Measurement
from forge.ui.html import el

_WIDTH, _BOX, _HEIGHT, _GAP, _ROW = 760, 330, 92, 26, 140
_MOST_IN_A_ROW = 2
_PLOT, _LEFT, _RIGHT = 46, 10, 430


def chain_figure(steps: Sequence[ChainStep]) -> Element:
    """Boxes from top to bottom, each below everything that it reads; the trials of a search are one."""
    steps = _with_trials_together(steps)
    rows = _rows(steps)
    height = len(rows) * _ROW - (_ROW - _HEIGHT) + 16
    place = {}
    for number, row in enumerate(rows):
        width = len(row) * _BOX + (len(row) - 1) * _GAP
        for index, step in enumerate(row):
            place[step.id] = ((_WIDTH - width) / 2 + index * (_BOX + _GAP), 8 + number * _ROW, number)
    edges = [_edge(place[source], place[step.id]) for step in steps for source in step.reads if source in place]
    tip = el("path", d="M0,0 L8,4 L0,8 z", class_="arrow")
    names = "; ".join(f"{step.id} reads {', '.join(step.reads)}" for step in steps if step.reads)
    return el(
        "svg",
        el("title", "The chain from data to release"),
        el("desc", names or "one step"),
        el("defs", el("marker", tip, id="tip", markerWidth=8, markerHeight=8, refX=8, refY=4, orient="auto")),
        edges,
        [_box(step, *place[step.id][:2]) for step in steps],
        viewBox=f"0 0 {_WIDTH} {height}",
        width=_WIDTH,
        height=height,
        role="img",
    )


def measurement_figure(item: Measurement) -> Element | None:
    """Value as a dot, its 95% interval as a line, the threshold dashed, what it allows shaded; None without a value."""
    if item.value is None:
        return None
    low, high = item.interval or (item.value, item.value)
    points = [low, high, item.value, *([item.threshold] if item.threshold is not None else [])]
    room = (max(points) - min(points)) * 0.15 or abs(item.value) * 0.1 or 1.0
    start, end = min(points) - room, max(points) + room

    def at(value: float) -> float:
        return round(_LEFT + (value - start) / (end - start) * (_RIGHT - _LEFT), 1)

    middle = 17
    shapes: list[Element] = []
    if item.threshold is not None:
        bound = at(item.threshold)
        left, right = (bound, _RIGHT) if item.bound is Bound.MIN else (_LEFT, bound)
        shapes.append(el("rect", x=left, y=4, width=round(right - left, 1), height=26, class_="allowed"))
    shapes.append(el("line", x1=_LEFT, x2=_RIGHT, y1=middle, y2=middle, class_="axis"))
    shapes.append(el("line", x1=at(low), x2=at(high), y1=middle, y2=middle, class_="interval"))
    ends = (low, high) if low < high else ()
    shapes += [el("line", x1=at(x), x2=at(x), y1=middle - 6, y2=middle + 6, class_="interval") for x in ends]
    shapes.append(el("circle", cx=at(item.value), cy=middle, r=5, class_="value"))
    if item.threshold is not None:
        shapes.append(el("line", x1=bound, x2=bound, y1=2, y2=32, class_="bound"))
    shapes.append(_label(at(item.value), shown(item.value)))
    if item.threshold is not None and abs(at(item.threshold) - at(item.value)) > 60:
        shapes.append(_label(bound, f"{item.bound} {shown(item.threshold)}"))
    words = f"{item.task} {item.metric}: {shown(item.value)}"
    return el(
        "svg",
        el("title", words),
        shapes,
        viewBox=f"0 0 {_RIGHT + 10} {_PLOT}",
        width=_RIGHT + 10,
        height=_PLOT,
        role="img",
    )


def _label(x: float, text: str) -> Element:
    anchor = "start" if x < 50 else "end" if x > _RIGHT - 50 else "middle"
    return el("text", text, x=x, y=44, font_size=11, text_anchor=anchor, class_="quiet")


def _with_trials_together(steps: Sequence[ChainStep]) -> list[ChainStep]:
    """The same steps, those of each search's trials as one: what was tried, and below it what was picked of that.

    A chain in which nothing picks, or that leads back to itself, is at fault, and is drawn step by step.
    """
    names = {step.id: f"trials of {step.trial_of}" for step in steps if step.trial_of is not None}
    if not names:
        return list(steps)
    reads: dict[str, set[str]] = {names.get(step.id, step.id): set() for step in steps}
    for step in steps:
        known = [source for source in step.reads if source in reads or source in names]
        reads[names.get(step.id, step.id)] |= {names.get(source, source) for source in known}
    for name in set(names.values()):
        reads[name].discard(name)
        pick = next((step_id for step_id in reads if step_id.startswith("sweep/") and name in reads[step_id]), None)
        if pick is None:
            return list(steps)
        for step_id in [each for each in reads if name in reads[each] and each != pick]:  # the training that was picked
            reads[step_id] = (reads[step_id] - {name}) | {pick}
            reads[name].discard(step_id)
    levels: dict[str, int] = {}
    try:
        order = list(graphlib.TopologicalSorter(reads).static_order())
    except graphlib.CycleError:
        return list(steps)
    for step_id in order:
        levels[step_id] = 1 + max((levels[source] for source in reads[step_id]), default=-1)
    found = {}
    for step in steps:
        name = names.get(step.id, step.id)
        drawn = replace(step, id=name, level=levels[name], reads=tuple(sorted(reads[name])))
        if step.id in names:
            members = [each for each in steps if names.get(each.id) == name]
            holds = all(each.holds for each in members)
            drawn = replace(drawn, signer=f"those of {len(members)} records below", products=(), holds=holds)
        found[name] = drawn
    return list(found.values())


def _rows(steps: Sequence[ChainStep]) -> list[list[ChainStep]]:
    """Steps by level; a level that is too wide takes several rows."""
    rows: list[list[ChainStep]] = []
    for level in sorted({step.level for step in steps}):
        found = [step for step in steps if step.level == level]
        rows += [found[start : start + _MOST_IN_A_ROW] for start in range(0, len(found), _MOST_IN_A_ROW)]
    return rows


def _edge(source: tuple[float, float, int], target: tuple[float, float, int]) -> Element:
    """Straight down to the next row; around the boxes where rows lie between, out of a box's lower half and into the upper."""
    (x1, y1, one), (x2, y2, other) = source, target
    if other - one == 1:
        d = f"M{x1 + _BOX / 2:g},{y1 + _HEIGHT:g} L{x2 + _BOX / 2:g},{y2 - 2:g}"
    else:
        side, start, end = max(x1, x2) + _BOX + 26 + 14 * min(other - one, 5), y1 + _HEIGHT * 0.7, y2 + _HEIGHT * 0.3
        d = f"M{x1 + _BOX:g},{start:g} C{side:g},{start:g} {side:g},{end:g} {x2 + _BOX + 2:g},{end:g}"
    return el("path", d=d, class_="edge", marker_end="url(#tip)")


def _box(step: ChainStep, x: float, y: float) -> Element:
    name, digest = step.products[0] if step.products else ("", "")
    more = f" +{len(step.products) - 1}" if len(step.products) > 1 else ""
    lines = (
        (step.id, 15, "", "600"),
        (f"{'signed by' if step.holds else 'NOT PROVED: claims'} {step.signer}", 13, "", "400"),
        (f"commit {step.commit[:12]}", 12, "quiet mono", "400"),
        (f"{name} {digest[:23]}..{more}" if name else "", 12, "quiet mono", "400"),
    )
    texts = []
    for number, (text, size, style, weight) in enumerate(lines):
        fitted = text if len(text) <= 44 else f"{text[:42]}.."
        texts.append(el("text", fitted, x=x + 14, y=y + 22 + number * 20, font_size=size, class_=style, font_weight=weight))
    return el("g", el("rect", x=x, y=y, width=_BOX, height=_HEIGHT, rx=8, class_="box" if step.holds else "box fails"), texts)
