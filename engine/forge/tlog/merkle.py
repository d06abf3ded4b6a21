"""The Merkle tree of RFC 6962: hashes, proofs made of complete subtrees, and their verification.

Invariant: pure functions over hashes. A tree is seen through one function, ``node(level, index)``: the hash over the leaves
``[index << level, (index + 1) << level)``, which exists once all of them do and never changes afterwards. So a tree of ten
million leaves needs only the nodes that a proof names, and a proof to an older size is made from the tiles of today.

A verification function returns nothing and raises TrustError: a caller cannot forget to look at its answer.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from typing import NewType

from forge.errors import TrustError

Hash = NewType("Hash", bytes)
"""32 bytes of sha256."""
Node = Callable[[int, int], Hash]
"""``node(level, index)``, for complete subtrees only."""

HASH_SIZE = 32
MOST_HASHES = 63
"""No proof in a tree of less than 2**63 leaves has more."""
EMPTY_ROOT = Hash(hashlib.sha256(b"").digest())


def leaf_hash(entry: bytes) -> Hash:
    """RFC 6962, section 2.1: the prefix keeps a leaf from being taken for a node."""
    return Hash(hashlib.sha256(b"\x00" + entry).digest())


def node_hash(left: bytes, right: bytes) -> Hash:
    """The same for an inner node."""
    return Hash(hashlib.sha256(b"\x01" + left + right).digest())


def subtree_root(hashes: Sequence[bytes]) -> Hash:
    """The hash over a whole number of subtrees of one height, a power of two of them."""
    level = list(hashes)
    while len(level) > 1:
        level = [node_hash(level[place], level[place + 1]) for place in range(0, len(level), 2)]
    return Hash(bytes(level[0]))


def tree_root(size: int, node: Node) -> Hash:
    """The Merkle Tree Hash of the first ``size`` leaves."""
    return _range_hash(0, size, node) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, node: Node) -> list[Hash]:
    """RFC 6962, section 2.1.1: the hashes that lead from a leaf to the root, nearest first."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    path: list[Hash] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_range_hash(middle, end, node))
            end = middle
        else:
            path.append(_range_hash(start, middle, node))
            start = middle
    return path[::-1]


def consistency_proof(old: int, new: int, node: Node) -> list[Hash]:
    """RFC 6962, section 2.1.2: the hashes that show that a tree of ``old`` leaves is a prefix of one of ``new``."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {old} is no prefix of one of {new}")
    if old in (0, new):
        return []
    path: list[Hash] = []
    start, end, is_left_edge = 0, new, True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(_range_hash(middle, end, node))
            end = middle
        else:
            path.append(_range_hash(start, middle, node))
            start, is_left_edge = middle, False
    if not is_left_edge:
        path.append(_range_hash(start, end, node))
    return path[::-1]


def check_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """RFC 9162, section 2.1.3.2; raises TrustError unless the leaf's hash stands at that place of the tree with that root."""
    if not 0 <= index < size:
        raise TrustError(f"the inclusion proof is for leaf {index}, which a tree of {size} leaves does not have")
    _check_hashes("inclusion", [leaf, *proof, root])
    place, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise TrustError(f"the inclusion proof has {len(proof)} hashes, too many for leaf {index} of {size}")
        if place & 1 or place == last:
            computed = node_hash(sibling, computed)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        place, last = place >> 1, last >> 1
    if last:
        raise TrustError(f"the inclusion proof has {len(proof)} hashes, too few for leaf {index} of {size}")
    if not hmac.compare_digest(computed, root):
        raise TrustError(f"the inclusion proof of leaf {index} leads to the root {computed.hex()}, not to {root.hex()}")


def check_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """RFC 9162, section 2.1.4.2; raises TrustError unless the older tree is a prefix of the newer one."""
    if not 0 <= old <= new:
        raise TrustError(f"a tree of {new} leaves cannot continue one of {old}: leaves were taken away")
    _check_hashes("consistency", [old_root, new_root, *proof])
    if old in (0, new):
        expected = EMPTY_ROOT if old == 0 else new_root
        if proof:
            raise TrustError(f"the consistency proof from {old} to {new} has {len(proof)} hashes, expected none")
        if old_root != expected:
            raise TrustError(f"the tree of {old} leaves has the root {old_root.hex()}, expected {expected.hex()}")
        return
    hashes = list(proof) if old & (old - 1) else [old_root, *proof]  # a power of two is a node of the newer tree itself
    from_old, from_new = _roots_of_consistency(old, new, hashes)
    if not (hmac.compare_digest(from_old, old_root) and hmac.compare_digest(from_new, new_root)):
        raise TrustError(
            f"the tree of {new} leaves with the root {new_root.hex()} does not continue the tree of {old} leaves with the root "
            f"{old_root.hex()}: the proof leads to {from_new.hex()} and {from_old.hex()}"
        )


def _roots_of_consistency(old: int, new: int, hashes: Sequence[bytes]) -> tuple[bytes, bytes]:
    """What a consistency proof says that the two roots are; raises TrustError where it has another length than it must."""
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    from_old = from_new = hashes[0] if hashes else b""
    for sibling in hashes[1:]:
        if last == 0:
            raise TrustError(f"the consistency proof from {old} to {new} has too many hashes")
        if place & 1 or place == last:
            from_old, from_new = node_hash(sibling, from_old), node_hash(sibling, from_new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            from_new = node_hash(from_new, sibling)
        place, last = place >> 1, last >> 1
    if last:
        raise TrustError(f"the consistency proof from {old} to {new} has too few hashes")
    return from_old, from_new


def _check_hashes(what: str, hashes: Iterable[bytes]) -> None:
    found = list(hashes)
    if any(len(item) != HASH_SIZE for item in found):
        raise TrustError(f"the {what} proof holds something that is not {HASH_SIZE} bytes long: not a sha256")
    if len(found) > MOST_HASHES + 2:
        raise TrustError(f"the {what} proof has {len(found)} hashes: no tree is so high")


def _split(count: int) -> int:
    """The largest power of two that is smaller."""
    return 1 << (count - 1).bit_length() - 1


def _range_hash(start: int, end: int, node: Node) -> Hash:
    """The hash over leaves of which all but the last subtree are complete; ``start`` is where such a range may begin."""
    count = end - start
    if count & (count - 1) == 0:
        return node(count.bit_length() - 1, start // count)
    middle = start + _split(count)
    return node_hash(_range_hash(start, middle, node), _range_hash(middle, end, node))
