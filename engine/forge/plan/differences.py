"""Where two JSON values differ, said as small as it can be: a path, what was there, and what is there now.

Rules:
1. Mappings are compared name by name.
2. Items of a list that say who they are (``_IDENTITIES``) are compared by that, wherever they stand; others by their place,
   once what both lists begin and end with alike is left aside. An item that was added or removed is told whole where that is
   short, else by its leaves.
3. Two texts of a difference are never the same: long ones are cut around the place where they part.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Any

_LONGEST = 80
_BEFORE = 30
"""Characters of a long text that are shown before the place of the difference."""
_MOST = 24
"""So many differences of one list are told one by one."""
_IDENTITIES = (("name",), ("suite",), ("task", "metric"), ("roles",), ("path",), ("url",))
"""Fields by which the items of a list tell each other apart, where each of them has them and no two are alike."""


class Absent(Enum):
    """What stands in the place of a value that is not there."""

    DEFAULT = "default"
    """A field that was not written, or that stands at its default."""
    NOTHING = "nothing"
    """An item of a list."""


@dataclass(frozen=True)
class Item:
    """A part of a path: an item of a list that says who it is."""

    label: str


Part = str | int | Item


@dataclass(frozen=True)
class Difference:
    """One place in which two values differ."""

    path: tuple[Part, ...]
    old: Any
    """A JSON value, or ``Absent``."""
    new: Any


def differences(old: Any, new: Any, path: tuple[Part, ...] = ()) -> Iterator[Difference]:
    """Every place in which two JSON values differ, in an order that depends on the values alone."""
    if isinstance(old, Absent) or isinstance(new, Absent):
        yield from _one_sided(old, new, path)
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            yield from differences(old.get(name, Absent.DEFAULT), new.get(name, Absent.DEFAULT), (*path, name))
    elif isinstance(old, list) and isinstance(new, list):
        yield from _of_lists(old, new, path)
    elif old != new or isinstance(old, bool) != isinstance(new, bool):
        yield Difference(path, old, new)


def written(path: tuple[Part, ...]) -> str:
    """A path as people read it: ``gates[EvalSuite/a].thresholds[0].max``."""
    parts = (f".{part}" if isinstance(part, str) else f"[{part.label if isinstance(part, Item) else part}]" for part in path)
    return "".join(parts).removeprefix(".")


def shown(difference: Difference) -> tuple[str | None, str | None]:
    """Both values as text, None for nothing; however long they are, it can be seen what differs."""
    old, new = _text(difference.old), _text(difference.new)
    if old == new:
        old, new = (
            text if isinstance(value, Absent) else repr(value) for text, value in ((old, difference.old), (new, difference.new))
        )
    at = 0
    if not isinstance(difference.old, Absent) and not isinstance(difference.new, Absent):
        pairs = zip(old or "", new or "", strict=False)
        at = next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(old or ""), len(new or "")))
    return _around(old, at), _around(new, at)


def _one_sided(old: Any, new: Any, path: tuple[Part, ...]) -> Iterator[Difference]:
    """A value that one side has: whole where it is short, else by its leaves. A mapping at its default is its fields."""
    value = new if isinstance(old, Absent) else old
    by_field = isinstance(value, Mapping) and Absent.DEFAULT in (old, new)
    if not isinstance(value, Mapping | list) or not value or (len(str(value)) <= _LONGEST and not by_field):
        if old is not new:
            yield Difference(path, old, new)
        return
    if isinstance(value, list) and len(value) > _MOST:
        told = f"{len(value)} items"
        yield Difference(path, *((old, told) if isinstance(old, Absent) else (told, new)))
        return
    if isinstance(value, Mapping):
        parts: list[tuple[Part, Any]] = [(name, value[name]) for name in sorted(value)]
    else:
        parts = list(zip(_labels(value, _identity(value)), value, strict=True))
    for part, inner in parts:
        before, after = (old, inner) if isinstance(old, Absent) else (inner, new)
        yield from _one_sided(before, after, (*path, part))


def _of_lists(old: list[Any], new: list[Any], path: tuple[Part, ...]) -> Iterator[Difference]:
    names = _identity(old, new)
    pairs = list(_by_identity(old, new, names) if names else _by_place(old, new))
    found = [each for part, before, after in pairs for each in differences(before, after, (*path, part))]
    if len(found) > _MOST:
        added, removed = (sum(pair[side] is Absent.NOTHING for pair in pairs) for side in (1, 2))
        changed = sum(not _alike(before, after) for _, before, after in pairs) - added - removed
        counts = ((added, "added"), (removed, "removed"), (changed, "changed"))
        told = ", ".join(f"{count} {word}" for count, word in counts if count)
        found = [Difference(path, f"{len(old)} items", f"{len(new)} items: {told}")]
    yield from found
    if names:
        labels = [[_label(item, names) for item in items] for items in (old, new)]
        both = set(labels[0]).intersection(labels[1])
        before, after = ([label for label in each if label in both] for each in labels)
        if before != after:
            yield Difference(path, f"in the order {', '.join(before)}", f"in the order {', '.join(after)}")


def _by_identity(old: list[Any], new: list[Any], names: tuple[str, ...]) -> Iterator[tuple[Part, Any, Any]]:
    """Items by who they are. One whose identifying field alone is another, in the same place, is the same item renamed."""
    had, has = ({_label(item, names): item for item in items} for items in (old, new))
    renamed: dict[str, str] = {}
    for before, after in zip(old, new, strict=False):
        labels = _label(before, names), _label(after, names)
        if labels[0] not in has and labels[1] not in had and _without(before, names) == _without(after, names):
            renamed[labels[1]] = labels[0]
    for label, item in has.items():
        before = renamed.get(label, label)
        yield Item(before), had.get(before, Absent.NOTHING), item
    for label, item in had.items():
        if label not in has and label not in renamed.values():
            yield Item(label), item, Absent.NOTHING


def _by_place(old: list[Any], new: list[Any]) -> Iterator[tuple[Part, Any, Any]]:
    shorter = min(len(old), len(new))
    head = next((place for place in range(shorter) if not _alike(old[place], new[place])), shorter)
    tail = next((place for place in range(shorter - head) if not _alike(old[-1 - place], new[-1 - place])), shorter - head)
    if len(old) == len(new):
        tail = 0
    for place in range(head, max(len(old), len(new)) - tail):
        before = old[place] if place < len(old) - tail else Absent.NOTHING
        after = new[place] if place < len(new) - tail else Absent.NOTHING
        yield place, before, after


def _alike(old: Any, new: Any) -> bool:
    return next(differences(old, new), None) is None


def _identity(*lists: Sequence[Any]) -> tuple[str, ...]:
    """The fields by which the items of each list tell each other apart; empty where no fields do."""
    for names in _IDENTITIES:
        if all(_tells_apart(items, names) for items in lists) and any(lists):
            return names
    return ()


def _tells_apart(items: Sequence[Any], names: tuple[str, ...]) -> bool:
    if not all(isinstance(item, Mapping) and all(_is_name(item.get(name)) for name in names) for item in items):
        return False
    labels = sorted(_label(item, names) for item in items)
    return all(len(label) <= _LONGEST for label in labels) and all(one != other for one, other in pairwise(labels))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value))


def _labels(items: Sequence[Any], names: tuple[str, ...]) -> list[Part]:
    return [Item(_label(item, names)) for item in items] if names else list(range(len(items)))


def _label(item: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return " ".join(value if isinstance(value := item[name], str) else "+".join(value) for name in names)


def _without(item: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in names}


def _text(value: Any) -> str | None:
    if isinstance(value, Absent):
        return None if value is Absent.NOTHING else value.value
    return str(value)


def _around(text: str | None, at: int) -> str | None:
    if text is None or len(text) <= _LONGEST:
        return text
    begin = max(0, at - _BEFORE)
    end = begin + _LONGEST - 6
    return ("..." if begin else "") + text[begin:end] + ("..." if end < len(text) else "")
