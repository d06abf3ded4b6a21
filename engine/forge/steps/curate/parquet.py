"""Parquet files -> rows, some at a time.

Invariant: columns are those that the source names, and of the types that they have to be; nothing else of a file is read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forge.errors import StepError

_ROWS_AT_ONCE = 256


def read_rows(path: Path, place: str, columns: dict[str, str | None]) -> Iterator[tuple[int, Any]]:
    """Number of the first row, from 1, and a batch of rows, again and again; ``columns``: setting -> column.

    Raises StepError for a file that is no parquet file, or has other columns.
    """
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check(file.schema_arrow, place, columns)
            first = 1
            wanted = [name for name in columns.values() if name is not None]
            for batch in file.iter_batches(
                batch_size=_ROWS_AT_ONCE, columns=[n for n in wanted if n in file.schema_arrow.names]
            ):
                yield first, batch
                first += batch.num_rows
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the machine's fault, not the file's
        said = (str(error).splitlines() or [""])[0][:200]
        raise StepError(f"{place}: a parquet file that cannot be read: {said}; write it anew") from error


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
