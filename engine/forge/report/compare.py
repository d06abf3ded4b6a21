"""Is a report that somebody hands over the one that Forge writes? File by file, against one that was made again.

A report is not signed: nobody needs a key to make one, so whoever doubts one makes it again. The archive is compared by what is
in it, because two compressors may write the same content differently.
"""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

_MOST_BYTES = 1 << 30


def differences(made: Path, found: Path) -> Iterator[str]:
    """What is wrong with ``found``, file by file; nothing where it is the same as ``made``."""
    expected = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    present = set()
    for path in sorted(found.rglob("*")):
        name = path.relative_to(found).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            yield f"{name}: neither a file nor a folder; a report holds nothing else"
            present.add(name)
        elif path.is_file():
            present.add(name)
            if name not in expected:
                yield f"{name}: Forge writes no such file"
            elif not _same(made / name, path):
                yield f"{name}: it is not what Forge writes"
    for name in sorted(expected - present):
        yield f"{name}: it is absent"


def _same(made: Path, found: Path) -> bool:
    one, other = made.read_bytes(), found.read_bytes()
    if one == other or made.suffix != ".gz":
        return one == other
    try:
        with gzip.open(found) as file:
            return file.read(_MOST_BYTES) == gzip.decompress(one)
    except (OSError, EOFError, zlib.error):
        return False
