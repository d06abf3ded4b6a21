"""A log on disk: open it, append to it, read it.

Rules:
- Entries, then tiles, are on the disk before the checkpoint that covers them is signed; a file appears whole or not at all.
- What was signed last is remembered outside the log's folder (``Seals``) before the checkpoint is published. So a stop between
  the two is rolled forward, and a log that was set back, cut or exchanged is never signed again: it would be a fork.
- Before it signs, a writer computes the root of the files that it builds on and compares it with the checkpoint's.
- One writer at a time, by a lock that the kernel drops with its holder. Readers take none: nothing that a checkpoint covers
  changes, and the partial files of a tile are removed only when the full one is covered by a checkpoint.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from filelock import FileLock, Timeout

from forge.errors import RefusedError, TransparencyError, TrustError
from forge.faults import reached
from forge.tlog.checkpoint import Checkpoint, SignedCheckpoint, read_checkpoint, sign_checkpoint
from forge.tlog.files import write_file
from forge.tlog.merkle import EMPTY_ROOT, HASH_SIZE, check_consistency, consistency_proof, leaf_hash, subtree_root, tree_root
from forge.tlog.note import VerifierKey, verifier_key
from forge.tlog.seals import Seal, Seals
from forge.tlog.tiles import CHECKPOINT, WIDTH, Files, Nodes, bundle_path, pack_bundle, tile_path, tile_widths

LOCK = ".writer.lock"
WAIT_SECONDS = 10.0
"""How long a writer waits for another."""


@dataclass(frozen=True)
class View:
    """A log as one checkpoint says it is."""

    signed: SignedCheckpoint
    files: Files

    @property
    def checkpoint(self) -> Checkpoint:
        """Origin, size and root."""
        return self.signed.checkpoint

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self.signed.checkpoint.size

    def consistency(self, old: int) -> list[bytes]:
        """The proof that the tree of ``old`` leaves is a prefix of this one; raises TransparencyError."""
        return list(consistency_proof(old, self.size, Nodes(self.files)))

    def check_continues(self, old: Checkpoint) -> None:
        """Raise TrustError unless an older checkpoint of the log is a prefix of it."""
        proof = self.consistency(old.size) if old.size <= self.size else []
        check_consistency(old.size, old.root, self.size, self.checkpoint.root, proof)

    def entries(self, start: int = 0) -> Iterator[bytes]:
        """Every entry from an index on; raises TransparencyError."""
        for index in range(start // WIDTH, -(-self.size // WIDTH)):
            yield from self.files.bundle(index)[max(0, start - index * WIDTH) :]


def read_log(folder: Path, key: VerifierKey, witnesses: Sequence[VerifierKey] = ()) -> View:
    """A log as its checkpoint is now; raises TransparencyError where there is none, TrustError where it is not the log's."""
    try:
        data = (folder / CHECKPOINT).read_bytes()
    except FileNotFoundError as error:
        raise TransparencyError(f"{folder} holds no {CHECKPOINT}: there is no log, or not yet") from error
    except OSError as error:
        raise TransparencyError(f"{folder / CHECKPOINT} cannot be read: {error.strerror}") from error
    try:
        return view_at(folder, data, key, witnesses)
    except TrustError as error:
        raise TrustError(f"{folder / CHECKPOINT}: {error}") from error


def view_at(folder: Path, data: bytes, key: VerifierKey, witnesses: Sequence[VerifierKey] = ()) -> View:
    """A log as a checkpoint says that it was, which may be older than the log; raises TrustError likewise."""
    signed = read_checkpoint(data, key, witnesses)
    return View(signed, Files(folder, signed.checkpoint.size))


class Writer:
    """The one writer of a log; from ``open_writer``, which holds the lock."""

    def __init__(self, folder: Path, origin: str, private: Ed25519PrivateKey, seals: Seals) -> None:
        self.folder = folder
        self.key = verifier_key(origin, private)
        self._private = private
        self._seals = seals
        self._is_in_doubt = False
        """Whether an append failed: it may have been sealed all the same."""
        self._recover()

    def view(self) -> View:
        """The log as it is, an append that failed half-way finished or forgotten; raises TransparencyError or TrustError."""
        if self._is_in_doubt:
            self._recover()
            self._is_in_doubt = False
        return read_log(self.folder, self.key)

    def append(self, entries: Sequence[bytes]) -> Checkpoint:
        """Append entries and sign; returns the new checkpoint. When it returns, all is on the disk.

        Raises TransparencyError where the log is damaged or an entry is too long, TrustError where it was set back. After any
        error the entries may be in the log or not: ``view`` tells, and has to be asked before the next append.
        """
        if self._is_in_doubt:
            raise TransparencyError(
                f"{self.folder}: an append failed, and may have been signed: look at the log before the next"
            )
        view = self.view()
        self._check_sealed(view)
        if not entries:
            return view.checkpoint
        self._is_in_doubt = True
        checkpoint = self._append(view, entries)
        self._is_in_doubt = False
        return checkpoint

    def _append(self, view: View, entries: Sequence[bytes]) -> Checkpoint:
        old = view.checkpoint
        found = tree_root(old.size, Nodes(view.files))
        if found != old.root:
            raise TransparencyError(
                f"{self.folder}: the tiles have the root {found.hex()}, the checkpoint {old}: they were altered. Nothing was "
                "appended; `forge log check` names the place"
            )
        _write_bundles(view.files, entries)
        size = old.size + len(entries)
        files = Files(self.folder, size)
        _write_tiles(view.files, [leaf_hash(entry) for entry in entries])
        signed = sign_checkpoint(Checkpoint(old.origin, size, tree_root(size, Nodes(files))), self._private)
        self._publish(signed)
        self._trim(old.size, size)
        return signed.checkpoint

    def _recover(self) -> None:
        """Make an empty log where there is none; finish an append that was stopped after it was sealed."""
        seal = self._seals.last(self.key.name)
        if not (self.folder / CHECKPOINT).exists() and seal is None:
            if (self.folder / "tile").exists():
                raise TransparencyError(f"{self.folder} holds tiles but no {CHECKPOINT}: restore it, or move the tiles away")
            self._publish(sign_checkpoint(Checkpoint(self.key.name, 0, EMPTY_ROOT), self._private))
            return
        size = read_log(self.folder, self.key).size if (self.folder / CHECKPOINT).exists() else 0
        if seal is not None and (seal.checkpoint.size > size or not (self.folder / CHECKPOINT).exists()):
            self._roll_forward(seal, size)
        self._check_sealed(read_log(self.folder, self.key))

    def _roll_forward(self, seal: Seal, old: int) -> None:
        """The append whose checkpoint was sealed but not published: its files are there, or the log was set back."""
        wanted = read_checkpoint(seal.data, self.key).checkpoint
        try:
            found = tree_root(wanted.size, Nodes(Files(self.folder, wanted.size)))
        except TransparencyError as error:
            raise TrustError(f"{self.folder}: {_set_back(f'{old} leaves', wanted)} ({error})") from error
        if found != wanted.root:
            raise TrustError(f"{self.folder}: {_set_back(f'{old} leaves', wanted)} (its tiles have the root {found.hex()})")
        write_file(self.folder / CHECKPOINT, seal.data)
        self._trim(old, wanted.size)

    def _check_sealed(self, view: View) -> None:
        """Refuse a log that does not continue what was sealed last."""
        seal = self._seals.last(self.key.name)
        if seal is not None and seal.checkpoint == view.checkpoint:
            return
        if seal is not None:
            try:
                view.check_continues(seal.checkpoint)
            except TrustError as error:
                raise TrustError(f"{self.folder}: {_set_back(str(view.checkpoint), seal.checkpoint)} ({error})") from error
        self._seals.remember(view.checkpoint, view.signed.data)  # the first time that this machine sees the log so far

    def _publish(self, signed: SignedCheckpoint) -> None:
        reached("tlog.sealed.before")
        self._seals.remember(signed.checkpoint, signed.data)
        reached("tlog.sealed.after")
        write_file(self.folder / CHECKPOINT, signed.data)

    def _trim(self, old: int, new: int) -> None:
        """Remove the partial files of tiles that are full and covered by now. Those that are left behind do no harm."""
        reached("tlog.trim.before")
        for level, ((was_full, width), (full, _)) in enumerate(zip(_padded(old, new), tile_widths(new), strict=True)):
            if width and full > was_full:
                names = [tile_path(level, was_full), *([bundle_path(was_full)] if level == 0 else [])]
                for name in names:
                    shutil.rmtree(self.folder / f"{name}.p", ignore_errors=True)
        reached("tlog.trim.after")


@contextmanager
def open_writer(
    folder: Path, origin: str, private: Ed25519PrivateKey, seals: Seals, wait_seconds: float | None = None
) -> Iterator[Writer]:
    """The writer of a log, which is made where there is none; raises RefusedError while another process holds it.

    Raises TransparencyError or TrustError for a log that may not be continued.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # as private as what is logged, until its owner shows it
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=WAIT_SECONDS if wait_seconds is None else wait_seconds)
    except Timeout as error:
        raise RefusedError(
            f"another process writes the log in {folder} (a serving agent holds its audit log as long as it runs): find it "
            f"with `fuser {folder / LOCK}`, wait for it or end it"
        ) from error
    try:
        yield Writer(folder, origin, private, seals)
    finally:
        lock.release()


def _write_bundles(files: Files, entries: Sequence[bytes]) -> None:
    """Write the entries after those that are there, which are checked first: they are copied into new files."""
    index, width = divmod(files.size, WIDTH)
    kept = files.bundle(index) if width else []
    hashes = b"".join(leaf_hash(entry) for entry in kept)
    if width and hashes != files.tile(0, index):
        raise TransparencyError(
            f"{files.folder / bundle_path(index, width)}: its entries do not have the hashes of {tile_path(0, index, width)}: "
            "one of the two was altered. Nothing was appended; `forge log check` names the place"
        )
    every = [*kept, *entries]
    for begin in range(0, len(every), WIDTH):
        part = every[begin : begin + WIDTH]
        write_file(files.folder / bundle_path(index + begin // WIDTH, len(part)), pack_bundle(part))


def _write_tiles(files: Files, leaves: Sequence[bytes]) -> None:
    """Write the tiles that new leaves change, level by level: each full tile is one hash of the level above."""
    new: Sequence[bytes] = leaves
    level = 0
    while new:
        full, width = divmod(files.size >> 8 * level, WIDTH)
        kept = files.tile(level, full) if width else b""
        data = kept + b"".join(new)
        above = []
        for begin in range(0, len(data), WIDTH * HASH_SIZE):
            part = data[begin : begin + WIDTH * HASH_SIZE]
            write_file(files.folder / tile_path(level, full + begin // (WIDTH * HASH_SIZE), len(part) // HASH_SIZE), part)
            if len(part) == WIDTH * HASH_SIZE:
                above.append(subtree_root([part[place : place + HASH_SIZE] for place in range(0, len(part), HASH_SIZE)]))
        new, level = above, level + 1


def _padded(old: int, new: int) -> list[tuple[int, int]]:
    widths = tile_widths(old)
    return widths + [(0, 0)] * (len(tile_widths(new)) - len(widths))


def _set_back(found: str, sealed: Checkpoint) -> str:
    return (
        f"the log is at {found}, but {sealed} was signed here last, and it does not continue that: it was set back, cut or "
        "exchanged. Restore its folder; to sign on would fork the log"
    )
