"""The content-addressed store on any fsspec filesystem.

Layout: ``blobs/ab/<sha256>``, ``manifests/ab/<sha256>.json`` and ``damaged/ab/<sha256>.json``. Invariants: a name is written
once, by renaming a finished file into place; a manifest is written after all of its blobs; whatever is read is hashed and
refused when it is not what its name says. An artifact that was found damaged is noted as such, so that a plan can tell without
reading any bytes; storing it again mends its bytes and removes the note.
"""

import errno
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from forge.canonical import Digest, canonical_json, digest_of_bytes, digest_of_chunks, hex_of
from forge.contract.manifest import Manifest, manifest_of
from forge.errors import StoreError, UsageError
from forge.faults import reached

_CHUNK = 1 << 20


class Store:
    """An artifact store at a URL."""

    def __init__(self, url: str, base: Path) -> None:
        """Open the store; a URL without a scheme is a folder, relative to ``base``."""
        self.url = url
        path = url.removeprefix("file://")
        self._is_local = "://" not in path
        self._root = str((base / path).resolve())
        if not self._is_local:
            import fsspec

            try:
                self._fs, self._root = fsspec.core.url_to_fs(url)
            except (ImportError, ValueError) as error:
                raise UsageError(f"forge.toml: store.url: {url!r} cannot be opened: {error}") from error

    @cached_property
    def _fs(self) -> Any:
        """The file system; planning from a folder never asks for it, and need not load fsspec."""
        from fsspec.implementations.local import LocalFileSystem

        return LocalFileSystem()

    def put_folder(self, folder: Path) -> Manifest:
        """Store every file below a folder as one artifact; raises StoreError for links and for a full disk."""
        files: dict[str, tuple[int, str]] = {}
        for path in _plain_files(folder):
            digest = digest_of_chunks(_chunks_of(path))
            files[path.relative_to(folder).as_posix()] = (path.stat().st_size, digest)
            self._put_blob(digest, path)
        return self._complete(files)

    def put_bytes(self, contents: dict[str, bytes]) -> Manifest:
        """Store an artifact given as path -> bytes."""
        files: dict[str, tuple[int, str]] = {}
        for name, data in contents.items():
            digest = digest_of_bytes(data)
            files[name] = (len(data), digest)
            self._write(self._blob_path(digest), data)
        return self._complete(files)

    def has(self, digest: str) -> bool:
        """Whether the artifact's manifest is in the store; its bytes are not looked at."""
        return bool(self._fs.exists(self._manifest_path(digest)))

    def index(self) -> frozenset[str]:
        """The digests of all artifacts, those that are noted as damaged included."""
        return self._names("manifests")

    def damaged(self) -> frozenset[str]:
        """The digests of the artifacts that a read or a scrub found damaged."""
        return self._names("damaged")

    def listing_times(self) -> list[tuple[str, int]] | None:
        """Folder -> time of its last change in nanoseconds, of all that ``index`` and ``damaged`` list; None where unknown.

        A folder's time changes when a name in it appears or goes, so equal times mean an equal listing.
        """
        if not self._is_local:
            return None
        found = []
        for kind in ("manifests", "damaged"):
            top = Path(self._root) / kind
            if top.is_dir():
                folders = [top, *sorted(path for path in top.iterdir() if path.is_dir())]
                found += [(str(folder.relative_to(self._root)), folder.stat().st_mtime_ns) for folder in folders]
        return found

    def ages(self, now: float) -> dict[str, float | None]:
        """Artifact -> seconds since its manifest was written or written again, by its file system's clock; None: not told."""
        return {digest: self._age(self._manifest_path(digest), now) for digest in self.index()}

    def remove(self, digest: str) -> None:
        """Remove an artifact: its manifest, and the note that it is damaged. Its blobs stay until ``sweep``."""
        reached("store.remove.before")
        self._fs.rm_file(self._manifest_path(digest))
        reached("store.remove.after")
        self._clear(digest)

    def sweep(self, now: float, grace_seconds: float) -> tuple[int, int]:
        """Remove the blobs that no manifest names and that are older than ``grace_seconds``; returns their number and bytes.

        One whose age nobody can tell goes only without a grace time. A blob that is stored again while it is there gets a new
        time (``_put_blob``), so one that a writer is about to name in a manifest is not old. Raises StoreError, and removes
        nothing, while a manifest cannot be read.
        """
        named = {file.sha256 for digest in self.index() for file in self.manifest(digest).files}
        count = size = 0
        for path in self._blob_files():
            digest = "sha256:" + path.rsplit("/", 1)[-1]
            if digest in named or is_young(self._age(path, now), grace_seconds):
                continue
            size += int(self._fs.size(path) or 0)
            count += 1
            reached("store.sweep.before")
            self._fs.rm_file(path)
            reached("store.sweep.after")
        return count, size

    def _blob_files(self) -> list[str]:
        top = f"{self._root}/blobs"
        return [str(path) for path in self._fs.find(top)] if self._fs.exists(top) else []

    def _age(self, path: str, now: float) -> float | None:
        """Seconds since a file was written; None where the file system does not tell."""
        if self._is_local:
            return now - Path(path).stat().st_mtime
        try:
            found = self._fs.modified(path)
        except NotImplementedError:
            return None
        return now - float(found.timestamp())

    def _touch(self, path: str) -> None:
        if self._is_local:
            os.utime(path)

    def scrub(self) -> Iterator[tuple[str, StoreError | None]]:
        """Hash every artifact from its bytes, in order of digest; what is found is noted, and what is whole again cleared."""
        noted = self.damaged()
        for digest in sorted(self.index()):
            try:
                self.check(digest)
            except StoreError as error:
                yield digest, error
            else:
                if digest in noted:
                    self._clear(digest)
                yield digest, None

    def _names(self, kind: str) -> frozenset[str]:
        top = f"{self._root}/{kind}"
        if self._is_local:
            names: Iterable[str] = (name for shard in _listed(top) for name in _listed(f"{top}/{shard}"))
        elif self._fs.exists(top):
            names = (path.rsplit("/", 1)[-1] for path in self._fs.find(top))
        else:
            return frozenset()
        return frozenset(["sha256:" + name[:-5] for name in names if name.endswith(".json")])

    def manifest(self, digest: str) -> Manifest:
        """Read a manifest; raises StoreError when it is absent or its bytes are not what its name says."""
        path = self._manifest_path(digest)
        try:
            data = self._fs.cat_file(path)
        except FileNotFoundError as error:
            raise StoreError(f"artifact {digest} is not in the store ({path})") from error
        except OSError as error:
            raise StoreError(f"the manifest of artifact {digest} cannot be read: {error.strerror or error} ({path})") from error
        if digest_of_bytes(data) != digest:
            raise self._note(
                digest, f"the manifest of artifact {digest} is damaged: its bytes hash to {digest_of_bytes(data)} ({path})"
            )
        try:
            return Manifest.model_validate_json(data)
        except ValidationError as error:
            raise StoreError(f"artifact {digest}: not a manifest this engine reads: {error}") from error

    def lay_out(self, digest: str, folder: Path, *, link: bool = True) -> Manifest:
        """Make an artifact's files appear in a new folder, each checked; on a local disk they are hard links, if wanted."""
        manifest = self.manifest(digest)
        for file in manifest.files:
            target = folder / file.path
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                self._fetch(digest, file.sha256, target, link=link)
                found = digest_of_chunks(_chunks_of(target))
            except OSError as error:
                raise StoreError(f"artifact {digest}: cannot lay out {file.path}: {error.strerror or error}") from error
            if found != file.sha256:
                target.unlink()
                raise self._damage(digest, file.path, file.sha256, found)
        return manifest

    def read_file(self, digest: str, path: str) -> bytes:
        """The bytes of one (small) file of an artifact, checked."""
        file = next((file for file in self.manifest(digest).files if file.path == path), None)
        if file is None:
            raise StoreError(f"artifact {digest} has no file {path}")
        data = b"".join(self._chunks_in(digest, file.sha256))
        if digest_of_bytes(data) != file.sha256:
            raise self._damage(digest, path, file.sha256, digest_of_bytes(data))
        return data

    def check(self, digest: str, whole: set[str] | None = None) -> Manifest:
        """Hash an artifact from the bytes up; raises StoreError naming the file that is absent or damaged.

        ``whole``: blobs that the caller has had hashed already, and to which this adds: what several artifacts hold is then
        hashed once.
        """
        manifest = self.manifest(digest)
        whole = set() if whole is None else whole
        for file in manifest.files:
            if file.sha256 in whole:
                continue
            found = digest_of_chunks(self._chunks_in(digest, file.sha256))
            if found != file.sha256:
                raise self._damage(digest, file.path, file.sha256, found)
            whole.add(file.sha256)
        return manifest

    def head(self, digest: str, path: str, size: int) -> bytes:
        """The first bytes of a file of an artifact, as they are: only ``check`` says whether they are the right ones."""
        file = next((file for file in self.manifest(digest).files if file.path == path), None)
        if file is None:
            raise StoreError(f"artifact {digest} has no file {path}")
        data = bytearray()
        for chunk in self._chunks_in(digest, file.sha256):
            data += chunk
            if len(data) >= size:
                break
        return bytes(data[:size])

    def _chunks_in(self, artifact: str, blob: str) -> Iterator[bytes]:
        """A blob's bytes as part of an artifact: one that is gone damages the artifact."""
        try:
            yield from self._blob_chunks(blob)
        except _AbsentBlobError as error:
            raise self._note(artifact, f"artifact {artifact} is damaged: {error}") from error

    def _blob_chunks(self, digest: str) -> Iterator[bytes]:
        path = self._blob_path(digest)
        try:
            with self._fs.open(path, "rb") as file:
                yield from _chunks(file)
        except FileNotFoundError as error:
            raise _AbsentBlobError(f"blob {digest} is not in the store ({path})") from error
        except OSError as error:
            raise StoreError(f"blob {digest} cannot be read: {error.strerror or error} ({path})") from error

    def _damage(self, digest: str, path: str, expected: str, found: str) -> StoreError:
        place = self._blob_path(expected)
        return self._note(
            digest, f"artifact {digest} is damaged: {path} should be {expected}, its bytes hash to {found} ({place})"
        )

    def _note(self, digest: str, message: str) -> StoreError:
        """The error to raise, once the damage is noted for planning; a store that cannot be written keeps no notes."""
        with suppress(StoreError, OSError):
            self._write(self._note_path(digest), canonical_json({"schema_version": 1, "artifact": digest, "found": message}))
        return StoreError(message)

    def _clear(self, digest: str) -> None:
        if self._fs.exists(self._note_path(digest)):
            self._fs.rm_file(self._note_path(digest))

    def _complete(self, files: dict[str, tuple[int, str]]) -> Manifest:
        """The blobs are there: the manifest makes the artifact exist, and whole."""
        manifest = manifest_of(files)
        self._put_manifest(manifest)
        self._clear(manifest.digest)
        return manifest

    def _fetch(self, artifact: str, digest: str, target: Path, *, link: bool) -> None:
        source = self._blob_path(digest)
        try:
            if link and self._is_local and not Path(source).is_symlink():
                try:
                    target.hardlink_to(source)
                except OSError as error:
                    if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                        raise
                else:
                    return
            self._fs.get_file(source, str(target))
        except FileNotFoundError as error:
            raise self._note(
                artifact, f"artifact {artifact} is damaged: blob {digest} is not in the store ({source})"
            ) from error

    def _put_blob(self, digest: Digest, path: Path) -> None:
        target = self._blob_path(digest)
        if self._fs.exists(target) and digest_of_chunks(self._blob_chunks(digest)) == digest:
            self._touch(target)
            return  # one that is damaged is written again
        temporary = self._temporary(target)
        try:
            self._fs.put_file(str(path), temporary)
            self._finish(temporary, target)
        except OSError as error:
            raise StoreError(f"cannot store {path}: {error.strerror or error} ({target})") from error

    def _put_manifest(self, manifest: Manifest) -> None:
        self._write(self._manifest_path(manifest.digest), manifest.to_bytes())

    def _write(self, target: str, data: bytes) -> None:
        if self._fs.exists(target) and self._fs.cat_file(target) == data:
            self._touch(target)
            return
        temporary = self._temporary(target)
        try:
            self._fs.pipe_file(temporary, data)
            self._finish(temporary, target)
        except OSError as error:
            raise StoreError(f"cannot write {target}: {error.strerror or error}") from error

    def _temporary(self, target: str) -> str:
        self._fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        return f"{target}.{uuid.uuid4().hex}.tmp"

    def _finish(self, temporary: str, target: str) -> None:
        reached("store.write.before")
        self._rename(temporary, target)
        reached("store.write.after")

    def _rename(self, temporary: str, target: str) -> None:
        if not self._is_local:
            self._fs.mv(temporary, target)
            return
        with Path(temporary).open("rb") as file:
            os.fsync(file.fileno())
        Path(temporary).chmod(0o444)  # blobs are laid out as hard links: nobody may write through them
        Path(temporary).replace(target)
        folder = os.open(Path(target).parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _blob_path(self, digest: str) -> str:
        name = hex_of(digest)
        return f"{self._root}/blobs/{name[:2]}/{name}"

    def _manifest_path(self, digest: str) -> str:
        name = hex_of(digest)
        return f"{self._root}/manifests/{name[:2]}/{name}.json"

    def _note_path(self, digest: str) -> str:
        name = hex_of(digest)
        return f"{self._root}/damaged/{name[:2]}/{name}.json"


def is_young(age: float | None, grace_seconds: float) -> bool:
    """Whether something may be about to be named and must stay; what has no age does, unless there is no grace time at all."""
    return grace_seconds > 0 and (age is None or age < grace_seconds)


class _AbsentBlobError(StoreError):
    """A blob is not in the store."""


def _listed(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []


def manifest_of_folder(folder: Path) -> Manifest:
    """What a folder would be as an artifact, hashed from the bytes; raises StoreError for what is no plain file."""
    return manifest_of(
        {
            path.relative_to(folder).as_posix(): (path.stat().st_size, digest_of_chunks(_chunks_of(path)))
            for path in _plain_files(folder)
        }
    )


def _plain_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise StoreError(f"{path}: a symbolic link; an artifact holds plain files")
        if path.is_file():
            yield path
        elif not path.is_dir():
            raise StoreError(f"{path}: neither a file nor a folder; an artifact holds plain files")


def _chunks_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from _chunks(file)


def _chunks(file: BinaryIO | Any) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk
