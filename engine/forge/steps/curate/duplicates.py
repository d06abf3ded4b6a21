"""Which documents repeat an earlier one: datatrove's exact and MinHash deduplication, driven in one process.

Invariant: of equal or near-equal documents the first in reading order stays. datatrove's own cluster step keeps the root
of a union by size, which may be a later document, so the clusters are formed here from the pairs that it found. One rank
reads everything: ranks, and with them results, never depend on the machine.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig, ExactDedupFilter, ExactDedupSignature, ExactFindDedups
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupFilter,
    MinhashDedupSignature,
)

from forge.spec.data_recipe import MinHash
from forge.steps.curate.words import RegexWordTokenizer

Reader = Callable[[], Iterator[Document]]
"""Reads the same documents in the same order each time it is called."""

_BUFFERED_RECORDS = 4096
_SHINGLES_AT_ONCE = 4096


def without_exact(read: Reader, scratch: Path, removed: object) -> Iterator[Document]:
    """Documents whose text did not occur before; ``removed`` is told of the others (datatrove's exclusion writer)."""
    config = ExactDedupConfig(content_getter=_text)
    signatures, found = str(scratch / "exact-signatures"), str(scratch / "exact-found")
    ExactDedupSignature(signatures, config).run(read())
    ExactFindDedups(signatures, found, config, lines_to_buffer=_BUFFERED_RECORDS).run()
    yield from ExactDedupFilter(found, config, exclusion_writer=removed).run(read())


def without_near(read: Reader, rules: MinHash, scratch: Path, removed: object) -> Iterator[Document]:
    """Documents that resemble no earlier one; ``removed`` is told of the others."""
    config = MinhashConfig(n_grams=rules.ngram, num_buckets=rules.buckets, hashes_per_bucket=rules.hashes_per_bucket)
    signatures, pairs, found = scratch / "minhash-signatures", scratch / "minhash-pairs", scratch / "minhash-found"
    _Signature(str(signatures), config, language=RegexWordTokenizer()).run(read())
    buckets = MinhashDedupBuckets(str(signatures), str(pairs), config=config, lines_to_buffer=_BUFFERED_RECORDS)
    for bucket in range(rules.buckets):
        buckets.run(None, bucket, rules.buckets)
    found.mkdir()
    later = _later_of_each_cluster(pairs)
    (found / "000000.remove").write_bytes(b"".join(struct.pack("<I", document) for document in later))
    yield from MinhashDedupFilter(str(found), exclusion_writer=removed, lines_to_buffer=_BUFFERED_RECORDS).run(read())


def _text(document: Document) -> str:  # datatrove reads the return annotation
    return document.text  # type: ignore[no-any-return]


def _later_of_each_cluster(folder: Path) -> list[int]:
    """All documents that are linked to an earlier one, in order."""
    first: dict[int, int] = {}

    def root(document: int) -> int:
        while first.get(document, document) != document:
            first[document] = first.get(first[document], first[document])
            document = first[document]
        return document

    for path in sorted(folder.glob("*.dups")):
        for _, one, _, other in struct.iter_unpack("<4I", path.read_bytes()):
            low, high = sorted((root(one), root(other)))
            first[high] = low
    return sorted(document for document in first if root(document) != document)


class _Signature(MinhashDedupSignature):  # type: ignore[misc]  # datatrove ships no types
    """The same signature in bounded memory: the minimum over all shingles is the minimum of the minima of its parts."""

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        parts = [
            np.array(super(_Signature, self).get_signature(shingles[start : start + _SHINGLES_AT_ONCE]), dtype=np.uint64)
            for start in range(0, len(shingles), _SHINGLES_AT_ONCE)
        ]
        signature: list[list[int]] = np.minimum.reduce(parts).tolist()
        return signature
