"""Canonical JSON: to the byte what the reference implementation writes, and refused where it refuses."""

import enum
import math

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from forge.canonical import MAX_INTEGER, canonical_json, hex_of, is_digest

NAMES = st.one_of(
    st.text(max_size=4), st.sampled_from(["", "a", "A", "_", "é", "\ue000", "\U00010000", "\U0001f600", '"', "\\", "\n"])
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-MAX_INTEGER, MAX_INTEGER),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=20,
)


class Word(enum.StrEnum):
    WORD = "word"


@given(VALUES)
@example({"\ue000": 1, "\U00010000": 2})
@example({"x": 1.0, "y": 1e21, "z": -0.0, "\x7f": "\x1f\u2028\x00"})
def test_the_bytes_are_those_of_the_reference(value: object) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [(1, "a"), {"a": (1, [None, True])}, Word.WORD, {"a": Word.WORD}, [Word.WORD]])
def test_tuples_and_enumerations_are_written_as_the_reference_does(value: object) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        [math.inf],
        {"a": -math.inf},
        {"a": MAX_INTEGER + 1},
        [-MAX_INTEGER - 1],
        {1: "a"},
        {"a": {None: 1}},
        "\ud800",
        {"\ud800": 1},
        {"a": {1, 2}},
        b"bytes",
        pytest.param([object()], id="an object"),
    ],
    ids=repr,
)
def test_what_the_reference_refuses_is_refused_alike(value: object) -> None:
    with pytest.raises(Exception) as expected:
        rfc8785.dumps(value)
    with pytest.raises(type(expected.value)):
        canonical_json(value)


@pytest.mark.parametrize(
    "text",
    [
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "a" * 64,
        "sha256:" + "a" * 64 + "\n",
        "sha256:" + "٣" * 64,
    ],
)
def test_what_only_looks_like_a_digest_is_none(text: str) -> None:
    assert not is_digest(text)
    with pytest.raises(ValueError, match="not a digest"):
        hex_of(text)
