"""Files of people's words: one JSON object a line, read strictly, each with the place where it stands.

Invariant: what cannot be read as it is meant is refused with its file and line, and nothing of it is left out: a field that
the reader does not know would be left out of the training without a word.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from forge.errors import StepError


def read_objects(folder: Path, sources: Mapping[str, str], fields: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and object of each line, in the order of files and lines; raises ``StepError`` at the first that is none.

    Args:
        folder: the input.
        sources: the files' paths in the commit, by their names in the folder; a place is called by them.
        fields: what an object has, beside at most an ``id``.
    """
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    place = f"{sources.get(path.name, path.name)}:{number}"
                    yield place, _object(line, place, fields)


def refuse(place: str, reason: str) -> NoReturn:
    """Say what is wrong, and where."""
    raise StepError(f"{place}: {reason}")


def _object(line: bytes, place: str, fields: Sequence[str]) -> dict[str, Any]:
    named = ", ".join(f"`{name}`" for name in fields)
    try:
        found = json.loads(line.decode(), object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:
        raise StepError(f"{place}: is not a JSON object in UTF-8: {error}") from error
    if not isinstance(found, dict):
        refuse(place, f"expected a JSON object with {named}, found {type(found).__name__}")
    unknown = sorted(found.keys() - {*fields, "id"})
    if unknown:
        refuse(place, f"has the field {unknown[0]!r}; expected {named} and at most `id`: what else it says would not be learnt")
    missing = [name for name in fields if name not in found]
    if missing:
        refuse(place, f"lacks the field `{missing[0]}`; expected {named}")
    return found


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is written twice")
    return found
