"""Hostile and broken YAML: always a diagnostic with a place, never an exception, never a long wait."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge.spec.document import MAX_BYTES, read_documents
from forge.spec.load import load

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

HOSTILE = {
    "exploding aliases": (LAUGHS.encode(), 1, "more than 50,000 nodes"),
    "an alias to itself": (b"a: &a [*a]", 1, "levels deep"),
    "deep nesting": (b"[" * 5000, 1, "levels deep"),
    "a duplicate key": (b"a: 1\nb: 2\na: 3", 3, "stands twice; first at line 1"),
    "a merge key": (b"x: {a: 1}\n<<: {a: 1}\n", 2, "merge keys"),
    "a quoted merge key's unquoted twin": (b"a: &b {c: 1}\nd:\n  <<: *b\n", 3, "merge keys"),
    "a Python object": (b"a: !!python/object/apply:os.system [id]", 1, "tag"),
    "binary": (b"a: !!binary aGk=", 1, "tag"),
    "not UTF-8": (b"ok: 1\nbad: \xff\xfe", 2, "UTF-8"),
    "UTF-16": ("kind: Model".encode("utf-16"), 1, "UTF-8"),
    "a file too large": (b"#" * (MAX_BYTES + 1), 1, "bytes"),
    "not a number": (b"a: .nan", 1, "finite"),
    "infinity": (b"a: 1e999", 1, "finite"),
    "a number of a million digits": (b"a: " + b"9" * 100_000, 1, "at most"),
    "a key that is no text": (b"1: 2", 1, "quotes"),
    "a NUL": (b"a: \x00", 1, "special characters"),
    "an unclosed quote": (b"a: 'x", 1, "not valid YAML"),
    "a mapping as a key": (b"? {}\n: 1", 1, "plain word"),
    "a tab": (b"a:\n\t- 1", 2, "not valid YAML"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_gets_one_clear_error(name: str) -> None:
    data, line, message = HOSTILE[name]
    documents, diagnostics = read_documents("x.yaml", data)
    assert documents == []
    assert len(diagnostics) == 1
    assert message in diagnostics[0].message
    assert diagnostics[0].line == line


def test_places_are_those_an_editor_shows() -> None:
    (document,), _ = read_documents("x.yaml", b"# comment\na:\n  b: [1, two]\n")
    assert document.keys["a", "b"] == (3, 3)
    assert document.values["a", "b", 1] == (3, 10)
    assert document.value == {"a": {"b": [1, "two"]}}


def test_scalars_follow_yaml_1_2() -> None:
    (document,), _ = read_documents("x.yaml", b"[yes, no, on, 0o17, 0x1f, 1_000, 3.0e-3, 2026-01-01, ~, true, '1']")
    assert document.value == ["yes", "no", "on", 15, 31, 1000, 0.003, "2026-01-01", None, True, "1"]


def test_aliases_within_bounds_are_followed() -> None:
    (document,), _ = read_documents("x.yaml", b"a: &x {b: 1}\nc: *x\n")
    assert document.value == {"a": {"b": 1}, "c": {"b": 1}}


def test_empty_documents_are_no_documents() -> None:
    assert read_documents("x.yaml", b"---\n---\n# nothing\n") == ([], [])


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(string.printable, max_size=200).map(str.encode)))
def test_no_bytes_raise(data: bytes) -> None:
    loaded = load([("x.yaml", data)])
    for diagnostic in loaded.diagnostics:
        assert diagnostic.line >= 1
        assert diagnostic.column >= 1
