"""Which of the documents with a fingerprint in common stay."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge.spec.data_recipe import Dedup, MinHash
from forge.steps.curate import duplicates
from forge.steps.curate.signatures import NO_FINGERPRINT

RULES = Dedup(exact=True, minhash=MinHash(buckets=2, hashes_per_bucket=1))


def print_of(number: int) -> bytes:
    return NO_FINGERPRINT if number == 0 else number.to_bytes(16)


def expected(rows: Sequence[tuple[int, int, int]]) -> list[int]:
    """By the definition: equal documents first, then connected components of what is left."""
    removed = [0] * len(rows)
    for later, row in enumerate(rows):
        if row[0] and any(row[0] == other[0] for other in rows[:later]):
            removed[later] = 1
    left = [number for number, place in enumerate(removed) if place == 0]
    component = {number: number for number in left}
    changed = True
    while changed:
        changed = False
        for one in left:
            for other in left:
                alike = any(rows[one][bucket] and rows[one][bucket] == rows[other][bucket] for bucket in (1, 2))
                low = min(component[one], component[other])
                if alike and component[one] != component[other]:
                    component[one] = component[other] = low
                    changed = True
    for number in left:
        if component[number] != number:
            removed[number] = 2
    return removed


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6), st.integers(0, 6)), max_size=24), st.sampled_from([3, 1 << 20])
)
def test_the_first_stays_of_equal_documents_and_of_each_chain(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int]], at_once: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_AT_ONCE", at_once)  # the parts that are compared at once change nothing
        found = duplicates.Duplicates(tmp_path_factory.mktemp("d"), RULES)
        for start in range(0, len(rows), 5):
            found.add([[print_of(number) for number in row] for row in rows[start : start + 5]])
        removed, rules = found.removals()
    assert rules == ("exact_duplicate", "near_duplicate")
    assert list(removed) == expected(rows)


def test_a_recipe_without_duplicate_removal_keeps_all(tmp_path: Path) -> None:
    found = duplicates.Duplicates(tmp_path, Dedup())
    found.add([[], [], []])
    assert found.removals() == (bytearray(3), ())
