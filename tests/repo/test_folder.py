"""Versions of a folder are read as each would be alone, whatever was read before."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge.repo.folder import FolderVersions

names = st.binary(min_size=1, max_size=3).filter(lambda name: b"\0" not in name and b"/" not in name)
rows_of_a_tree = st.tuples(st.sampled_from([b"100644", b"40000"]), st.binary(min_size=20, max_size=20))
trees = st.dictionaries(names, rows_of_a_tree, max_size=12)


def tree(rows: dict[bytes, tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b %b\0%b" % (mode, name, digest) for name, (mode, digest) in sorted(rows.items()))


def read_alone(data: bytes) -> list[bytes]:
    return re.findall(rb"[0-7]{5,6} [^\0/]+\0.{20}", data, re.DOTALL)


@given(st.lists(st.tuples(trees, st.lists(names, max_size=3)), min_size=1, max_size=6))
def test_each_version_is_read_as_it_would_be_alone(changes: list[tuple[dict[bytes, tuple[bytes, bytes]], list[bytes]]]) -> None:
    versions, rows = FolderVersions(), dict[bytes, tuple[bytes, bytes]]()
    for added, removed in changes:
        rows = {name: row for name, row in (rows | added).items() if name not in removed}
        data = tree(rows)
        assert versions.read(data) == frozenset(read_alone(data))
        assert versions.listed == read_alone(data)


@given(trees.filter(bool), st.data())
def test_a_name_that_is_listed_twice_is_found_whatever_was_read_before(
    rows: dict[bytes, tuple[bytes, bytes]], data: st.DataObject
) -> None:
    versions = FolderVersions()
    versions.read(tree(data.draw(trees)))
    name = data.draw(st.sampled_from(sorted(rows)))
    twice = tree(rows) + b"100755 %b\0%b" % (name, bytes(20))
    for _ in range(2):  # what was refused is not taken for what was read
        with pytest.raises(ValueError, match="it lists a name twice"):
            versions.read(twice)
    assert versions.read(tree(rows)) == frozenset(read_alone(tree(rows)))


@given(trees, st.binary(min_size=1, max_size=30))
def test_bytes_after_the_last_row_are_no_tree(rows: dict[bytes, tuple[bytes, bytes]], rest: bytes) -> None:
    versions = FolderVersions()
    versions.read(tree(rows))
    data = tree(rows) + rest
    if b"".join(read_alone(data)) != data:
        with pytest.raises(ValueError, match="it is no tree"):
            versions.read(data)
