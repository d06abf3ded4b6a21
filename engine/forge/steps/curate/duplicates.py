"""Which documents repeat an earlier one: by URL, by text, or nearly (a MinHash band in common).

Invariant: of documents that repeat each other the first in reading order stays. Fingerprints lie on disk, one file for each
kind, a record of 16 bytes for each document; they are compared in parts of a bounded size. What is kept in memory for each
document is one byte and, for near duplicates, eight bytes.
"""

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from forge.spec.data_recipe import Dedup
from forge.steps.curate.signatures import FINGERPRINT_BYTES

Fingerprints = npt.NDArray[np.void]
KEPT = 0

_HALVES = np.dtype([("high", "<u8"), ("low", "<u8")])
_RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("document", "<u8")])
_AT_ONCE = 1 << 20
"""Records that are read, or sorted, at once."""


def kinds(rules: Dedup) -> tuple[str, ...]:
    """The kinds of duplicates that a recipe looks for, in the order in which they are removed; near ones once a bucket."""
    near = () if rules.minhash is None else tuple(f"near_duplicate-{bucket:03d}" for bucket in range(rules.minhash.buckets))
    return (*(("url_duplicate",) if rules.url else ()), *(("exact_duplicate",) if rules.exact else ()), *near)


class Duplicates:
    """Fingerprints of documents in the order of reading, and what follows from them."""

    def __init__(self, folder: Path, rules: Dedup) -> None:
        self._folder = folder
        self._kinds = kinds(rules)
        self._files: list[BinaryIO] = [(folder / kind).open("wb") for kind in self._kinds]
        self._documents = 0

    def add(self, fingerprints: Sequence[Sequence[bytes]]) -> None:
        """Append documents, each with a fingerprint of every kind."""
        self._documents += len(fingerprints)
        for file, column in zip(self._files, zip(*fingerprints, strict=True) if fingerprints else (), strict=False):
            file.write(b"".join(column))

    def removals(self) -> tuple[bytearray, tuple[str, ...]]:
        """For each document ``KEPT`` or one more than the place of the rule in the list of rules that removes it."""
        self.close()
        rules = tuple(dict.fromkeys(kind.split("-")[0] for kind in self._kinds))
        removed = bytearray(self._documents)
        for place, rule in enumerate(rules, start=1):
            own = [kind for kind in self._kinds if kind.split("-")[0] == rule]
            links = (pair for kind in own for pair in self._links(kind, removed))
            for later in _later_of_each_cluster(links, self._documents) if len(own) > 1 else (later for _, later in links):
                removed[later] = place
        return removed, rules

    def close(self) -> None:
        """Nothing is added any more."""
        for file in self._files:
            file.close()

    def _links(self, kind: str, removed: bytearray) -> Iterator[tuple[int, int]]:
        """Pairs of documents, the earlier first, that have a fingerprint in common; each later one once."""
        for part in self._parts(self._folder / kind, removed):
            order = np.lexsort((part["low"], part["high"]))  # stable: equal ones stay in reading order
            high, low = part["high"][order], part["low"][order]
            equal = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
            documents = part["document"][order]
            yield from zip(documents[:-1][equal].tolist(), documents[1:][equal].tolist(), strict=True)

    def _parts(self, path: Path, removed: bytearray) -> Iterator[Fingerprints]:
        """The records of documents that are still there, so that equal ones lie in one part."""
        number = max(1, -(-self._documents // _AT_ONCE))
        if number == 1:
            yield from self._records(path, removed)
            return
        files = [path.with_name(f"{path.name}.{part}") for part in range(number)]
        opened = [file.open("wb") for file in files]
        try:
            for records in self._records(path, removed):
                parts = records["high"] % np.uint64(number)
                for part, file in enumerate(opened):
                    file.write(records[parts == part].tobytes())
        finally:
            for file in opened:
                file.close()
        for written in files:
            yield np.fromfile(written, _RECORD)
            written.unlink()

    def _records(self, path: Path, removed: bytearray) -> Iterator[Fingerprints]:
        with path.open("rb") as file:
            for start in range(0, self._documents, _AT_ONCE):
                halves = np.frombuffer(file.read(_AT_ONCE * FINGERPRINT_BYTES), _HALVES)
                gone = np.frombuffer(removed, np.uint8, count=len(halves), offset=start) != KEPT
                chosen = np.flatnonzero(~gone & ((halves["high"] != 0) | (halves["low"] != 0)))
                records = np.empty(len(chosen), _RECORD)
                records["high"], records["low"] = halves["high"][chosen], halves["low"][chosen]
                records["document"] = chosen + start
                yield records


def _later_of_each_cluster(links: Iterator[tuple[int, int]], documents: int) -> Iterator[int]:
    """All documents that are linked to an earlier one, over however many links."""
    first = array("q", range(documents))

    def root(document: int) -> int:
        while first[document] != document:
            first[document] = first[first[document]]
            document = first[document]
        return document

    for one, other in links:
        low, high = sorted((root(one), root(other)))
        first[high] = low
    yield from (document for document in range(documents) if first[document] != document)
