"""The files of a log (c2sp.org/tlog-tiles): where tiles and entry bundles lie, what is in them, and how they are read.

Invariant: a reader asks only for what a checkpoint's size says exists, and takes a file only at exactly the length that it has
to have. Tiles are read, not believed: whoever makes a proof of them checks it against the checkpoint's root.
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from forge.errors import TransparencyError
from forge.tlog.merkle import HASH_SIZE, Hash, subtree_root

WIDTH = 256
"""Hashes in a full tile, entries in a full bundle."""
HEIGHT = 8
MOST_ENTRY_BYTES = 65535
CHECKPOINT = "checkpoint"
_CACHED_TILES = 256


def tile_path(level: int, index: int, width: int = WIDTH) -> str:
    """``tile/0/x001/x234/067``, or with ``.p/112`` for a partial tile."""
    return f"tile/{level}/{_numbered(index, width)}"


def bundle_path(index: int, width: int = WIDTH) -> str:
    """``tile/entries/x001/x234/067``, likewise."""
    return f"tile/entries/{_numbered(index, width)}"


def tile_widths(size: int) -> list[tuple[int, int]]:
    """Per level of tiles, bottom up: how many are full, and how wide the partial one after them is (0: there is none)."""
    widths = []
    while size:
        widths.append(divmod(size, WIDTH))
        size //= WIDTH
    return widths


def pack_bundle(entries: list[bytes]) -> bytes:
    """Entries with their lengths before them; raises TransparencyError for one that is too long."""
    for entry in entries:
        if len(entry) > MOST_ENTRY_BYTES:
            raise TransparencyError(f"an entry of {len(entry)} bytes cannot be logged: at most {MOST_ENTRY_BYTES} fit")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def unpack_bundle(data: bytes, count: int, name: str) -> list[bytes]:
    """The entries of a bundle; raises TransparencyError unless there are exactly ``count``."""
    entries: list[bytes] = []
    place = 0
    while place < len(data):
        end = place + 2 + int.from_bytes(data[place : place + 2], "big")
        if end > len(data) or place + 2 > len(data):
            raise TransparencyError(f"{name}: entry {len(entries)} of the bundle is cut off at byte {len(data)}")
        entries.append(data[place + 2 : end])
        place = end
    if len(entries) != count:
        raise TransparencyError(f"{name}: the bundle has {len(entries)} entries, expected {count}")
    return entries


@dataclass(frozen=True)
class Files:
    """The files of a log of one size."""

    folder: Path
    size: int

    def width(self, level: int, index: int) -> int:
        """How many hashes a tile has at this size; 0 for one that is not there."""
        return max(0, min(WIDTH, (self.size >> HEIGHT * level) - index * WIDTH))

    def tile(self, level: int, index: int) -> bytes:
        """A tile's hashes, one after the other; raises TransparencyError where it is absent or of another length."""
        width = self.width(level, index)
        name, data = self._read(tile_path(level, index, width), tile_path(level, index), width)
        expected = (WIDTH if name == tile_path(level, index) else width) * HASH_SIZE
        if len(data) != expected:
            raise TransparencyError(f"{self.folder / name}: the tile has {len(data)} bytes, expected {expected}")
        return data[: width * HASH_SIZE]

    def bundle(self, index: int) -> list[bytes]:
        """The entries of a bundle; raises TransparencyError likewise."""
        width = self.width(0, index)
        name, data = self._read(bundle_path(index, width), bundle_path(index), width)
        is_whole = name == bundle_path(index)
        return unpack_bundle(data, WIDTH if is_whole else width, str(self.folder / name))[:width]

    def entry(self, index: int) -> bytes:
        """One entry; raises TransparencyError where the log of this size has none such."""
        if not 0 <= index < self.size:
            raise TransparencyError(f"{self.folder}: there is no leaf {index}: the log has {self.size}")
        return self.bundle(index // WIDTH)[index % WIDTH]

    def _read(self, path: str, whole: str, width: int) -> tuple[str, bytes]:
        """A file's bytes and name; the full one where the partial one has been removed because the log grew meanwhile."""
        if width == 0:
            raise TransparencyError(f"{whole} is beyond the {self.size} leaves of the log in {self.folder}")
        for name in (path, whole):
            try:
                return name, (self.folder / name).read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise TransparencyError(f"{self.folder / name} cannot be read: {error.strerror}") from error
        raise TransparencyError(f"{self.folder / path} is missing: the log of {self.size} leaves cannot be read without it")


class Nodes:
    """``node(level, index)`` of a log, from its tiles; keeps the tiles that it read last."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._tiles: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def __call__(self, level: int, index: int) -> Hash:
        """The hash over the leaves ``[index << level, (index + 1) << level)``; raises TransparencyError."""
        tile_level, height = divmod(level, HEIGHT)
        first = index << height
        tile = self._tile(tile_level, first // WIDTH)
        begin = first % WIDTH * HASH_SIZE
        data = tile[begin : begin + (HASH_SIZE << height)]
        if len(data) != HASH_SIZE << height:
            raise TransparencyError(f"{self._files.folder}: {self._files.size} leaves have no node {index} at height {level}")
        return subtree_root([data[place : place + HASH_SIZE] for place in range(0, len(data), HASH_SIZE)])

    def _tile(self, level: int, index: int) -> bytes:
        found = self._tiles.get((level, index))
        if found is None:
            found = self._tiles[level, index] = self._files.tile(level, index)
            if len(self._tiles) > _CACHED_TILES:
                self._tiles.popitem(last=False)
        else:
            self._tiles.move_to_end((level, index))
        return found


def _numbered(index: int, width: int) -> str:
    digits = f"{index:03d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    parts = [digits[place : place + 3] for place in range(0, len(digits), 3)]
    name = "/".join([*(f"x{part}" for part in parts[:-1]), parts[-1]])
    return name if width == WIDTH else f"{name}.p/{width}"
