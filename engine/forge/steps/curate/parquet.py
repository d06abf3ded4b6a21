"""Parquet files -> rows, some at a time.

Invariant: columns are those that the source names, and of the types that they have to be; nothing else of a file is read.
What is in memory is bounded by bytes: equal values are stored once, so a file of a kilobyte may unfold to gigabytes.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from forge.errors import StepError

_ROWS_AT_ONCE = 8
"""Unfolded together, however long they are."""
_BLOCK_ROWS = 256
_BLOCK_BYTES = 512 * 1024
_MAX_UNFOLDED_BYTES = 256 * 1024 * 1024
_MAX_FOLD = 100
"""Of a column in a group of rows: it is refused where it unfolds to more than both, as its pages may be as large."""


def read_rows(path: Path, place: str, columns: dict[str, str | None]) -> Iterator[tuple[int, Any]]:
    """Number of the first row, from 1, and a table of rows, again and again; ``columns``: setting -> column.

    Raises StepError for a file that is no parquet file, or has other columns, or unfolds to too much.
    """
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check(file.schema_arrow, place, columns)
            wanted = [name for name in columns.values() if name is not None and name in file.schema_arrow.names]
            _bound(file.metadata, place, wanted)
            first = 1
            for table in _joined(file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=wanted)):
                yield first, table
                first += table.num_rows
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the machine's fault, not the file's
        said = (str(error).splitlines() or [""])[0][:200]
        raise StepError(f"{place}: a parquet file that cannot be read: {said}; write it anew") from error


def _joined(batches: Iterable[Any]) -> Iterator[Any]:
    """Tables of some batches each."""
    import pyarrow

    waiting: list[Any] = []
    rows = size = 0
    for batch in batches:
        if waiting and (rows + batch.num_rows > _BLOCK_ROWS or size + batch.nbytes > _BLOCK_BYTES):
            yield pyarrow.Table.from_batches(waiting)
            waiting, rows, size = [], 0, 0
        waiting.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
    if waiting:
        yield pyarrow.Table.from_batches(waiting)


def _bound(metadata: Any, place: str, wanted: list[str]) -> None:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            folded, unfolded = column.total_compressed_size, column.total_uncompressed_size
            if column.path_in_schema in wanted and unfolded > max(_MAX_UNFOLDED_BYTES, _MAX_FOLD * folded):
                raise StepError(
                    f"{place}: {column.path_in_schema!r} of row group {number} unfolds from {folded} bytes to {unfolded}:"
                    f" take the file out, or write it anew with row groups of less than {_MAX_UNFOLDED_BYTES} bytes"
                )


def _check(schema: Any, place: str, columns: dict[str, str | None]) -> None:
    import pyarrow.types

    for setting, name in columns.items():
        if name is None:
            continue
        if schema.names.count(name) != 1:
            if setting in ("url_key", "license_key") and name not in schema.names:
                continue
            found = ", ".join(schema.names[:8]) or "none"
            raise StepError(
                f"{place}: no column {name!r} (columns found: {found}); name the right one in the source's {setting}"
            )
        kind = schema.field(name).type
        is_text = pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
        if not is_text and not (setting == "id_key" and pyarrow.types.is_integer(kind)):
            raise StepError(
                f"{place}: the column {name!r} holds {kind}, expected text; name the right one in the source's {setting}"
            )
