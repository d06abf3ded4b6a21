"""The tree is RFC 6962's: against its published roots, against a tree that others wrote, and against its own definition."""

import hashlib
from functools import cache
from itertools import pairwise

import pymerkle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge.errors import TrustError
from forge.tlog.merkle import (
    EMPTY_ROOT,
    Hash,
    check_consistency,
    check_inclusion,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    tree_root,
)

MOST = 300
LEAVES = [b"", b"\x00", b"\x10", b"\x20\x21", b"01", b"@ABC", b"PQRSTUVW", bytes(range(0x60, 0x70))]
"""The entries that Certificate Transparency's implementations are compared with."""
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def by_definition(entries: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, written down a second time."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\0" + entries[0]).digest()
    half = 1
    while 2 * half < len(entries):
        half *= 2
    return hashlib.sha256(b"\1" + by_definition(entries[:half]) + by_definition(entries[half:])).digest()


def numbered(size: int) -> list[bytes]:
    return [b"entry %d" % number for number in range(size)]


@cache
def node(level: int, index: int) -> Hash:
    """The nodes of the numbered entries."""
    if level == 0:
        return leaf_hash(b"entry %d" % index)
    return node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))


@cache
def root(size: int) -> Hash:
    return tree_root(size, node)


@pytest.fixture(scope="module")
def other() -> pymerkle.InmemoryTree:
    """pymerkle's tree: prefixes 00 and 01, and the same shape for every size."""
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for item in numbered(MOST):
        tree.append_entry(item)
    return tree


@pytest.mark.parametrize("size", range(9))
def test_the_published_roots(size: int) -> None:
    def of_leaves(level: int, index: int) -> Hash:
        return Hash(by_definition(LEAVES[index << level : (index + 1) << level]))

    assert tree_root(size, of_leaves).hex() == ROOTS[size] == by_definition(LEAVES[:size]).hex()


def test_roots_of_every_size_are_pymerkles(other: pymerkle.InmemoryTree) -> None:
    assert root(0) == EMPTY_ROOT == other.hash_empty()
    assert all(root(size) == other.get_root(size) == by_definition(numbered(size)) for size in range(1, MOST + 1))


def test_inclusion_proofs_of_every_leaf_are_pymerkles(other: pymerkle.InmemoryTree) -> None:
    """pymerkle counts leaves from one, and its path begins with the leaf itself."""
    for size in (*range(1, 40), 63, 64, 65, 127, 128, 129, 255, 256, 257, MOST):
        for index in range(size):
            proof = inclusion_proof(index, size, node)
            assert [node(0, index), *proof] == other.prove_inclusion(index + 1, size).path
            check_inclusion(node(0, index), index, size, proof, root(size))


def proof_by_definition(old: int, entries: list[bytes], is_whole: bool = True) -> list[bytes]:
    """RFC 6962, section 2.1.2, SUBPROOF, written down a second time."""
    if old == len(entries):
        return [] if is_whole else [by_definition(entries)]
    half = 1
    while 2 * half < len(entries):
        half *= 2
    if old <= half:
        return [*proof_by_definition(old, entries[:half], is_whole), by_definition(entries[half:])]
    return [*proof_by_definition(old - half, entries[half:], False), by_definition(entries[:half])]


def test_consistency_proofs_are_the_definitions_and_hold() -> None:
    for new in (*range(1, 36), 63, 64, 65, 127, 129, 257):
        for old in range(1, new + 1):
            proof = consistency_proof(old, new, node)
            check_consistency(old, root(old), new, root(new), proof)
            if new < 70 or old % 16 < 2:
                assert proof == proof_by_definition(old, numbered(new))
    for new in range(1, MOST + 1):
        check_consistency(0, EMPTY_ROOT, new, root(new), [])
        check_consistency(new, root(new), new, root(new), [])


def test_pymerkle_finds_our_roots_consistent(other: pymerkle.InmemoryTree) -> None:
    """Its proofs list more hashes than RFC 6962's, so the verdicts are compared: between our roots, and between wrong ones."""
    for new in (*range(2, 36), 255, 256, 257, MOST):
        for old in range(1, new, 1 if new < 40 else 7):
            proof = other.prove_consistency(old, new)
            pymerkle.verify_consistency(root(old), root(new), proof)
            with pytest.raises(pymerkle.InvalidProof):
                pymerkle.verify_consistency(root(old), root(new + 1 if new < MOST else 1), proof)


sizes = st.integers(1, MOST)


@given(sizes, st.data())
@settings(max_examples=150, deadline=None)
def test_an_inclusion_proof_with_any_bit_changed_is_refused(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    leaf, proof = node(0, index), inclusion_proof(index, size, node)
    check_inclusion(leaf, index, size, proof, root(size))
    for place in range(-2, len(proof)):
        changed = [root(size), leaf, *proof]
        bit = data.draw(st.integers(0, 255))
        changed[place + 2] = Hash((int.from_bytes(changed[place + 2], "big") ^ 1 << bit).to_bytes(32, "big"))
        with pytest.raises(TrustError):
            check_inclusion(changed[1], index, size, changed[2:], changed[0])
    another = data.draw(st.integers(0, MOST + 1).filter(lambda found: found != index))
    with pytest.raises(TrustError):
        check_inclusion(leaf, another, size, proof, root(size))
    for wrong in ([*proof, leaf], proof[:-1], proof[1:], [leaf, *proof]):
        if wrong != proof:
            with pytest.raises(TrustError):
                check_inclusion(leaf, index, size, wrong, root(size))


@given(sizes, st.data())
@settings(max_examples=150, deadline=None)
def test_a_consistency_proof_with_any_bit_changed_is_refused(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new))
    proof = consistency_proof(old, new, node)
    for place in range(-2, len(proof)):
        changed = [root(new), root(old), *proof]
        bit = data.draw(st.integers(0, 255))
        changed[place + 2] = Hash((int.from_bytes(changed[place + 2], "big") ^ 1 << bit).to_bytes(32, "big"))
        with pytest.raises(TrustError):
            check_consistency(old, changed[1], new, changed[0], changed[2:])
    for wrong in ([*proof, root(new)], proof[:-1], proof[1:]):
        if wrong != proof:
            with pytest.raises(TrustError):
                check_consistency(old, root(old), new, root(new), wrong)


@given(st.lists(st.binary(max_size=3), max_size=40), st.integers(0, 39), st.binary(max_size=3))
@settings(max_examples=100, deadline=None)
def test_another_history_is_never_consistent(entries: list[bytes], place: int, other: bytes) -> None:
    """Whatever is changed in what was logged, no proof leads from the old root to the new tree."""
    if place >= len(entries) or entries[place] == other:
        return
    forged = [*entries[:place], other, *entries[place + 1 :], b"later"]

    def forged_node(level: int, index: int) -> Hash:
        return Hash(by_definition(forged[index << level : (index + 1) << level]))

    proof = consistency_proof(len(entries), len(forged), forged_node)
    with pytest.raises(TrustError, match=r"does not continue|expected"):
        check_consistency(len(entries), by_definition(entries), len(forged), by_definition(forged), proof)


def test_a_smaller_tree_is_refused_and_what_is_no_hash() -> None:
    with pytest.raises(TrustError, match="leaves were taken away"):
        check_consistency(5, root(5), 4, root(4), [])
    with pytest.raises(TrustError, match="32 bytes"):
        check_inclusion(node(0, 0), 0, 2, [b"short"], root(2))
    for proof, fault in (
        (inclusion_proof(1, 7, node)[:-1], "too few"),
        ([*inclusion_proof(1, 7, node), node(0, 0)], "too many"),
    ):
        with pytest.raises(TrustError, match=fault):
            check_inclusion(node(0, 1), 1, 7, proof, root(7))
    with pytest.raises(TrustError, match="no tree is so high"):
        check_inclusion(node(0, 0), 0, 2, [node(0, 0)] * 64, root(2))
    with pytest.raises(TrustError, match="expected e3b0c442"):
        check_consistency(0, root(1), 4, root(4), [])


def test_a_node_is_no_leaf() -> None:
    """The prefixes keep two hashes side by side from passing for an entry."""
    pair = node(0, 0) + node(0, 1)
    assert leaf_hash(pair) != node(1, 0)
    assert len({root(size) for size in range(MOST)}) == MOST
    assert all(first != second for first, second in pairwise(root(size) for size in range(MOST)))
