"""Reading a whole log again: every entry, every tile, the root and the signature. The answer is the first place that is wrong.

Invariant: what is found sound here was computed from the entries alone and compared with what is stored; nothing that is stored
is used to check itself.
"""

from collections.abc import Callable

from forge.errors import TransparencyError
from forge.tlog.log import View
from forge.tlog.merkle import EMPTY_ROOT, HASH_SIZE, Hash, leaf_hash, node_hash, subtree_root
from forge.tlog.tiles import WIDTH, Files, bundle_path, tile_path, tile_widths


def check_log(view: View, each: Callable[[int, bytes], None] = lambda _index, _entry: None) -> None:
    """Raise TransparencyError that names the first tile, bundle or root that is not what the entries say.

    ``each`` is called with every entry in order, and may raise what it finds wrong with it.
    """
    files = view.files
    sums: list[list[bytes]] = [[] for _ in tile_widths(view.size)]
    numbers = [0] * (len(sums) + 1)
    for index in range(-(-view.size // WIDTH)):
        entries = files.bundle(index)
        for place, entry in enumerate(entries):
            each(index * WIDTH + place, entry)
        name = bundle_path(index, len(entries))
        _check_tile(files, 0, index, [leaf_hash(entry) for entry in entries], f"the entries of {name}")
        level, full = 0, len(entries) == WIDTH
        tile = files.tile(0, index)
        while full and level + 1 < len(sums):
            sums[level + 1].append(subtree_root(_split(tile)))
            level += 1
            full = len(sums[level]) == WIDTH
            if full:
                _check_tile(files, level, numbers[level], sums[level], f"the tiles at level {level - 1}")
                tile = b"".join(sums[level])
                sums[level], numbers[level] = [], numbers[level] + 1
    for level in range(1, len(sums)):
        if sums[level]:
            _check_tile(files, level, numbers[level], sums[level], f"the tiles at level {level - 1}")
    last = _split(files.tile(0, view.size // WIDTH)) if view.size % WIDTH else []
    root = _root([last, *sums[1:]])
    if root != view.checkpoint.root:
        raise TransparencyError(
            f"{files.folder / 'checkpoint'}: it says that the root of {view.size} leaves is {view.checkpoint.root.hex()}, the "
            f"entries have {root.hex()}"
        )


def _check_tile(files: Files, level: int, index: int, hashes: list[bytes] | list[Hash], source: str) -> None:
    found = _split(files.tile(level, index))
    for place, (stored, computed) in enumerate(zip(found, hashes, strict=True)):
        if stored != computed:
            raise TransparencyError(
                f"{files.folder / tile_path(level, index, len(found))}: hash {place} is {stored.hex()}, but {source} give "
                f"{computed.hex()} (from leaf {(index * WIDTH + place) * WIDTH**level} on): one of the two was altered"
            )


def _root(levels: list[list[bytes]]) -> Hash:
    """The root over what is left at each level of tiles: whole subtrees from the right edge up."""
    root: Hash | None = None
    for hashes in levels:
        rest = list(hashes)
        while rest:  # the lowest set bit of the count is the smallest complete subtree, and stands last
            count = len(rest) & -len(rest)
            part = subtree_root(rest[-count:])
            root = part if root is None else node_hash(part, root)
            del rest[-count:]
    return EMPTY_ROOT if root is None else root


def _split(data: bytes) -> list[bytes]:
    return [data[place : place + HASH_SIZE] for place in range(0, len(data), HASH_SIZE)]
