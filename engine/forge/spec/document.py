"""YAML bytes -> plain values, with the place of every key and value, and with hostile input refused by name.

Only the part of YAML that a configuration needs is read: mappings with string keys, sequences, and YAML 1.2 scalars.
Tags, merge keys and duplicate keys are errors. Aliases are allowed, but a document may not grow beyond MAX_NODES by
them, so that a "billion laughs" file costs nothing.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from forge.canonical import MAX_INTEGER
from forge.errors import Diagnostic, SpecError
from forge.spec.composer import compose, compose_by_reference

MAX_BYTES = 1_000_000
MAX_NODES = 50_000
MAX_DEPTH = 64
_TAG = "tag:yaml.org,2002:"

Location = tuple[str | int, ...]


@dataclass
class Document:
    """One YAML document: its value, and where each part of it stands (line and column from 1)."""

    path: str
    value: Any = None
    keys: dict[Location, tuple[int, int]] = field(default_factory=dict)
    values: dict[Location, tuple[int, int]] = field(default_factory=dict)

    def diagnostic(self, location: Location, message: str, *, at_key: bool = False) -> Diagnostic:
        """A fault at a location; a part of the location that the document lacks falls back to what encloses it."""
        while location not in self.values and location:
            location = location[:-1]
        places = self.keys if at_key and location in self.keys else self.values
        line, column = places.get(location, (1, 1))
        return Diagnostic(self.path, line, column, message)


class _FaultError(Exception):
    def __init__(self, node: Any, message: str) -> None:
        self.place = (node.start_mark.line + 1, node.start_mark.column + 1)
        super().__init__(message)


def read_documents(path: str, data: bytes) -> tuple[list[Document], list[Diagnostic]]:
    """Read all documents of a file; a file that cannot be read gives one diagnostic, with the place where reading stopped."""
    try:
        text = _decode(path, data)
    except SpecError as error:
        return [], list(error.diagnostics)
    roots = compose(text)
    if roots is not None:
        try:
            return _read_all(path, roots), []
        except _FaultError:
            pass  # the reference parser finds it too, and its places are the ones that are promised
    return read_by_reference(path, text)


def read_by_reference(path: str, text: str) -> tuple[list[Document], list[Diagnostic]]:
    """The same by the reference parser alone: slower, and the one that says what is wrong."""
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return _read_all(path, compose_by_reference(text)), []
    except _FaultError as fault:
        diagnostic = Diagnostic(path, fault.place[0], fault.place[1], str(fault))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        diagnostic = Diagnostic(path, line, column, f"not valid YAML: {error.problem or error.context}")
    except YAMLError as error:
        line, column = _place_of_character(text, error)
        diagnostic = Diagnostic(path, line, column, f"not valid YAML: {str(error).splitlines()[0]}")
    except RecursionError:
        diagnostic = Diagnostic(path, 1, 1, f"nested more than {MAX_DEPTH} levels deep")
    return [], [diagnostic]


def _decode(path: str, data: bytes) -> str:
    if len(data) > MAX_BYTES:
        message = f"the file has {len(data):,} bytes; a spec file may have {MAX_BYTES:,}"
        raise SpecError([Diagnostic(path, 1, 1, message)])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise SpecError([Diagnostic(path, line, column, "not UTF-8: save the file in that encoding")]) from error


def _read_all(path: str, roots: Iterable[Any]) -> list[Document]:
    documents = []
    for root in roots:
        if not _is_empty(root):
            document = Document(path)
            document.value = _Reader(document).read(root, (), 0)
            documents.append(document)
    return documents


def _is_empty(node: Any) -> bool:
    return node is None or (node.id == "scalar" and node.tag == _TAG + "null" and node.value == "")


def _place_of_character(text: str, error: Exception) -> tuple[int, int]:
    position = getattr(error, "position", 0)
    return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)


class _Reader:
    """Turns nodes into values; counts them, so that aliases cannot multiply."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._nodes = 0

    def read(self, node: Any, location: Location, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _FaultError(node, f"the document has more than {MAX_NODES:,} nodes once its aliases are followed")
        if depth > MAX_DEPTH:
            raise _FaultError(node, f"nested more than {MAX_DEPTH} levels deep")
        self._document.values[location] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if node.id == "scalar":
            return _scalar(node)
        if node.id == "sequence" and node.tag == _TAG + "seq":
            return [self.read(item, (*location, index), depth + 1) for index, item in enumerate(node.value)]
        if node.id == "mapping" and node.tag == _TAG + "map":
            return self._mapping(node, location, depth)
        raise _FaultError(node, f"the tag {node.tag} is not supported: write plain YAML")

    def _mapping(self, node: Any, location: Location, depth: int) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key_node, item in node.value:
            if key_node.id != "scalar":
                raise _FaultError(key_node, "a key must be a plain word")
            key = key_node.value
            if key_node.tag == _TAG + "merge" or (key == "<<" and not key_node.style):
                raise _FaultError(key_node, "merge keys (<<) are not supported: write the fields out")
            if key_node.tag != _TAG + "str":
                raise _FaultError(
                    key_node, f"the key {key!r} is read as {str(key_node.tag).removeprefix(_TAG)}: put it in quotes"
                )
            if key in value:
                line, column = self._document.keys[(*location, key)]
                raise _FaultError(key_node, f"the key {key!r} stands twice; first at line {line}, column {column}")
            self._document.keys[(*location, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            value[key] = self.read(item, (*location, key), depth + 1)
        return value


def _scalar(node: Any) -> Any:
    kind, text = str(node.tag).removeprefix(_TAG), node.value
    match kind:
        case "str" | "timestamp":
            return text
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return _integer(node, text)
        case "float":
            return _float(node, text)
    raise _FaultError(node, f"the tag {node.tag} is not supported: write plain YAML")


def _integer(node: Any, text: str) -> int:
    try:
        number = int(text[:40].replace("_", ""), 0 if text.lstrip("+-")[:2] in ("0x", "0o", "0b") else 10)
    except ValueError as error:
        raise _FaultError(node, f"not a whole number: {text}") from error
    if abs(number) > MAX_INTEGER:
        raise _FaultError(node, f"a whole number may be {MAX_INTEGER:,} at most: JSON keeps no larger one exactly")
    return number


def _float(node: Any, text: str) -> float:
    try:
        number = float(text.replace("_", ""))
    except ValueError:
        number = math.nan  # .inf and .nan in YAML's own spelling
    if not math.isfinite(number):
        raise _FaultError(node, f"not a finite number: {text}")
    return number
