"""Documents on disk while duplicates are looked for: their final lines, one after the other, and what is counted of them.

Invariant: documents come back in the order in which they were added; memory holds a bounded number of them.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from forge.steps.curate.redact import PII_TYPES
from forge.steps.curate.worker import Finished

_ROW = np.dtype(
    [
        ("line_bytes", "<u8"),
        ("text_bytes", "<u8"),
        ("source", "<u4"),
        ("is_held_out", "<u4"),
        ("control_tokens", "<u8"),
        ("personal", "<u4", (len(PII_TYPES),)),
    ]
)
_AT_ONCE = 1 << 14


class Spool:
    """Written once, then read once."""

    def __init__(self, folder: Path) -> None:
        self._lines, self._rows = (folder / "lines").open("w+b"), (folder / "rows").open("w+b")

    def add(self, source: int, documents: list[Finished]) -> None:
        """Append documents of one source."""
        rows = np.zeros(len(documents), _ROW)
        for row, document in zip(rows, documents, strict=True):
            row["line_bytes"], row["text_bytes"], row["source"] = len(document.line), document.text_bytes, source
            row["is_held_out"], row["control_tokens"] = document.is_held_out, document.control_tokens
            row["personal"] = document.personal
        self._rows.write(rows.tobytes())
        self._lines.write(b"".join([document.line for document in documents]))

    def read(self) -> Iterator[tuple[bytes, npt.NDArray[np.void]]]:
        """Each document's line, and its row."""
        for file in (self._lines, self._rows):
            file.flush()
            file.seek(0)
        while data := self._rows.read(_AT_ONCE * _ROW.itemsize):
            for row in np.frombuffer(data, _ROW):
                yield self._lines.read(int(row["line_bytes"])), row

    def close(self) -> None:
        """Let go of the files."""
        self._lines.close()
        self._rows.close()
