"""The versions of one folder, each read where it differs from the version that was read before.

A ledger's folders only grow, and each of its commits has their whole listing again: reading a thousand commits by the row
would take a thousand times the longest listing.

Invariant: what is returned are the rows that reading the whole tree would give. A tree is read from its start, row after row,
so trees that begin with the same whole rows are read alike until there.
"""

import re
from bisect import bisect_right
from itertools import accumulate

_ROW = re.compile(rb"[0-7]{5,6} [^\0/]+\0.{20}", re.DOTALL)


class FolderVersions:
    """Reads versions of one folder, best in the order of its history, in either direction."""

    def __init__(self) -> None:
        self._data = b""
        self.listed: list[bytes] = []
        """The rows of the version that was read last, in git's order."""
        self._ends: list[int] = []
        """Where each row ends."""
        self._names: set[bytes] = set()
        self.rows: frozenset[bytes] = frozenset()
        """The same as a set."""

    def read(self, data: bytes) -> frozenset[bytes]:
        """The rows of a tree object, not taken apart; raises ValueError for bytes that are no tree, or list a name twice."""
        kept = self._num_alike(data)
        start = self._ends[kept - 1] if kept else 0
        tail: list[bytes] = _ROW.findall(data, start)
        ends = list(accumulate(map(len, tail), initial=start))
        if ends[-1] != len(data):
            raise ValueError("it is no tree")
        listed = self.listed[:kept] + tail
        rows = frozenset(listed)
        names = self._names - {_name(row) for row in self.rows - rows}
        names.update(map(_name, rows - self.rows))
        if len(names) != len(listed):
            raise ValueError("it lists a name twice")  # git and we could read different ones
        self._data, self.listed, self._ends, self._names, self.rows = data, listed, self._ends[:kept] + ends[1:], names, rows
        return rows

    def _num_alike(self, data: bytes) -> int:
        """How many whole rows at the start are those of the version before."""
        low, high = 0, bisect_right(self._ends, len(data))
        while low < high:
            middle = (low + high + 1) // 2
            if data.startswith(self._data[: self._ends[middle - 1]]):
                low = middle
            else:
                high = middle - 1
        return low


def _name(row: bytes) -> bytes:
    return row[row.index(b" ") : -20]
