"""The store: what is written once is read back whole, or refused by name."""

import errno
import os
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge.contract.manifest import Manifest
from forge.errors import StoreError
from forge.store.store import Store

CONTENTS = {"a/b.txt": b"hello", "c.bin": bytes(range(256)) * 100}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store("store", tmp_path)


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def blob_of(store: Store, digest: str, path: str, base: Path) -> Path:
    name = next(file.sha256 for file in store.manifest(digest).files if file.path == path).removeprefix("sha256:")
    return base / "store" / "blobs" / name[:2] / name


def test_an_artifact_comes_back_byte_for_byte(store: Store, tmp_path: Path) -> None:
    manifest = store.put_folder(write(tmp_path / "in", CONTENTS))
    store.lay_out(manifest.digest, tmp_path / "out")
    assert {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    } == CONTENTS
    assert store.index() == {manifest.digest}


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,5}(\.[a-z]{1,3})?", fullmatch=True), st.binary(max_size=64), min_size=1, max_size=4)
)
def test_the_name_depends_on_contents_alone(tmp_path_factory: pytest.TempPathFactory, contents: dict[str, bytes]) -> None:
    base = tmp_path_factory.mktemp("store")
    store = Store("store", base)
    from_folder = store.put_folder(write(base / "in", contents))
    assert store.put_bytes(dict(reversed(contents.items()))).digest == from_folder.digest


def test_a_flipped_byte_is_found_and_named(store: Store, tmp_path: Path) -> None:
    digest = store.put_folder(write(tmp_path / "in", CONTENTS)).digest
    blob = blob_of(store, digest, "c.bin", tmp_path)
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[1000] ^= 1
    blob.write_bytes(data)
    for read in (
        lambda: store.check(digest),
        lambda: store.read_file(digest, "c.bin"),
        lambda: store.lay_out(digest, tmp_path / "o"),
    ):
        with pytest.raises(StoreError, match=r"c\.bin should be sha256:.* its bytes hash to"):
            read()
    assert not (tmp_path / "o" / "c.bin").exists()


def test_a_flipped_byte_in_a_manifest_is_found(store: Store, tmp_path: Path) -> None:
    digest = store.put_bytes(CONTENTS).digest
    (place,) = (tmp_path / "store" / "manifests").rglob("*.json")
    place.chmod(0o644)
    place.write_bytes(place.read_bytes().replace(b"256", b"257", 1))
    with pytest.raises(StoreError, match=r"the manifest of artifact .* is damaged"):
        store.manifest(digest)


def test_what_is_absent_is_named(store: Store, tmp_path: Path) -> None:
    missing = "sha256:" + "0" * 64
    with pytest.raises(StoreError, match=f"artifact {missing} is not in the store"):
        store.manifest(missing)
    digest = store.put_bytes(CONTENTS).digest
    blob_of(store, digest, "c.bin", tmp_path).unlink()
    with pytest.raises(StoreError, match=r"blob sha256:.* is not in the store"):
        store.check(digest)


def test_nothing_half_written_is_visible(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "in", CONTENTS)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    original = store._fs.put_file

    def put_file(source: str, target: str) -> None:
        if source.endswith("c.bin"):
            raise full
        original(source, target)

    monkeypatch.setattr(store._fs, "put_file", put_file)
    with pytest.raises(StoreError, match=r"cannot store .*c\.bin: No space left on device"):
        store.put_folder(folder)
    assert store.index() == frozenset()


def test_links_are_refused(store: Store, tmp_path: Path) -> None:
    folder = write(tmp_path / "in", CONTENTS)
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(StoreError, match="a symbolic link"):
        store.put_folder(folder)


def test_what_is_neither_file_nor_folder_is_refused(store: Store, tmp_path: Path) -> None:
    """Not left out in silence: the artifact would be another than the step made."""
    folder = write(tmp_path / "in", CONTENTS)
    os.mkfifo(folder / "pipe")
    with pytest.raises(StoreError, match="pipe: neither a file nor a folder"):
        store.put_folder(folder)


def test_a_blob_that_several_artifacts_hold_is_hashed_once(store: Store, tmp_path: Path) -> None:
    one, two = store.put_bytes({"x": b"same", "y": b"1"}).digest, store.put_bytes({"z": b"same"}).digest
    whole: set[str] = set()
    store.check(one, whole)
    blob = blob_of(store, two, "z", tmp_path)
    blob.chmod(0o644)
    blob.write_bytes(b"lost")
    store.check(two, whole)  # it was whole a moment ago, and is not read again
    with pytest.raises(StoreError, match="z should be"):
        store.check(two)


def test_the_head_of_a_file_is_as_long_as_asked_for(store: Store) -> None:
    digest = store.put_bytes({"x": b"0123456789", "empty": b""}).digest
    assert store.head(digest, "x", 4) == b"0123"
    assert store.head(digest, "x", 100) == b"0123456789"
    assert store.head(digest, "empty", 4) == b""
    with pytest.raises(StoreError, match="has no file y"):
        store.head(digest, "y", 4)


@pytest.mark.parametrize("path", ["../up", "/abs", "a/../b", "", "a\\b", "./a", "nul\0"])
def test_a_manifest_never_leads_out_of_its_folder(path: str) -> None:
    with pytest.raises(ValueError, match="unsafe path"):
        Manifest.model_validate({"files": [{"path": path, "size": 0, "sha256": "sha256:" + "0" * 64}]})


def test_a_laid_out_file_cannot_be_written_through(store: Store, tmp_path: Path) -> None:
    digest = store.put_bytes(CONTENTS).digest
    store.lay_out(digest, tmp_path / "out")
    assert (tmp_path / "out" / "c.bin").stat().st_mode & 0o222 == 0


def test_any_fsspec_filesystem_will_do(tmp_path: Path) -> None:
    store = Store("memory://forge-test", tmp_path)
    digest = store.put_folder(write(tmp_path / "in", CONTENTS)).digest
    store.lay_out(digest, tmp_path / "out")
    assert (tmp_path / "out" / "a" / "b.txt").read_bytes() == b"hello"
    assert store.check(digest).size == sum(len(data) for data in CONTENTS.values())
    assert not [path for path in fsspec.filesystem("memory").find("/forge-test") if path.endswith(".tmp")]
