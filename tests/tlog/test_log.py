"""A log on disk: its layout is the specification's, it goes on after anything, and it never signs a fork."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.tlog.conftest import ORIGIN, Log, entry, private_key
from tests.tlog.test_merkle import by_definition

from forge.errors import RefusedError, TransparencyError, TrustError
from forge.faults import POINTS
from forge.tlog.check import check_log
from forge.tlog.log import open_writer
from forge.tlog.merkle import check_consistency, leaf_hash
from forge.tlog.note import verifier_key
from forge.tlog.seals import Seals
from forge.tlog.tiles import bundle_path, pack_bundle, tile_path, tile_widths, unpack_bundle

POINTS_OF_LOGS = {point for point in POINTS if point.startswith("tlog.")}


def test_the_names_of_tiles_are_the_specifications() -> None:
    assert tile_path(0, 1234067) == "tile/0/x001/x234/067"
    assert tile_path(3, 0, 1) == "tile/3/000.p/1"
    assert tile_path(0, 273, 112) == "tile/0/273.p/112"
    assert tile_path(1, 1000, 255) == "tile/1/x001/000.p/255"
    assert bundle_path(999) == "tile/entries/999"
    assert tile_widths(70_000) == [(273, 112), (1, 17), (0, 1)]
    assert tile_widths(256) == [(1, 0), (0, 1)]
    assert tile_widths(0) == []


@given(st.lists(st.binary(max_size=300), max_size=20))
@settings(max_examples=50, deadline=None)
def test_bundles_are_read_back(entries: list[bytes]) -> None:
    data = pack_bundle(entries)
    assert unpack_bundle(data, len(entries), "bundle") == entries
    with pytest.raises(TransparencyError, match="expected"):
        unpack_bundle(data, len(entries) + 1, "bundle")
    for cut in range(1, min(len(data), 4)):
        with pytest.raises(TransparencyError):
            unpack_bundle(data[:-cut], len(entries), "bundle")


def test_an_entry_is_as_long_as_its_length_can_say(log: Log) -> None:
    assert log.append(b"", b"x" * 65535).size == 2
    with pytest.raises(TransparencyError, match="65536 bytes cannot be logged"):
        log.append(b"x" * 65536)
    assert list(log.view().entries()) == [b"", b"x" * 65535]
    check_log(log.view())


def test_a_new_log_is_empty_and_signed(log: Log) -> None:
    assert log.append().size == 0
    assert log.folder.stat().st_mode & 0o777 == 0o700, "audit lines are nobody else's until the log is shown"
    assert set(log.files()) == {"checkpoint"}
    check_log(log.view())


def test_the_files_of_a_log_are_those_that_its_size_asks_for(log: Log) -> None:
    log.grow(256 * 2 + 3)
    assert set(log.files()) == {
        "checkpoint", "tile/0/000", "tile/0/001", "tile/0/002.p/3", "tile/1/000.p/2",
        "tile/entries/000", "tile/entries/001", "tile/entries/002.p/3",
    }  # fmt: skip
    assert log.files()["tile/0/001"] == b"".join(leaf_hash(entry(number)) for number in range(256, 512))
    assert log.files()["tile/1/000.p/2"][32:] == by_definition([entry(number) for number in range(256, 512)])
    assert log.files()["tile/entries/002.p/3"] == b"".join(b"\0\x0e" + entry(number) for number in range(512, 515))


@given(st.lists(st.integers(0, 300), max_size=6))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_it_is_appended_to_root_and_entries_are_the_same(
    make_log: Callable[..., Log], without_disk: None, steps: list[int]
) -> None:
    log = make_log()
    shutil.rmtree(log.folder.parent)
    log.folder.parent.mkdir()
    size, past = 0, []
    for step in steps:
        size += step
        past.append(log.grow(size))
    entries = [entry(number) for number in range(size)]
    if steps:
        view = log.view()
        assert list(view.entries()) == entries
        assert list(view.entries(size // 2)) == entries[size // 2 :]
        assert view.checkpoint.root == by_definition(entries)
        check_log(view)
        for old in past:
            check_consistency(old.size, old.root, size, view.checkpoint.root, view.consistency(old.size))


def test_partial_files_stay_until_the_full_one_is_covered(log: Log) -> None:
    for size in (3, 200, 255):
        log.grow(size)
    assert {"tile/0/000.p/3", "tile/0/000.p/200", "tile/entries/000.p/255"} <= set(log.files())
    old = log.view()
    log.grow(300)
    assert not [name for name in log.files() if name.startswith(("tile/0/000.p", "tile/entries/000.p"))]
    assert list(old.entries()) == [entry(number) for number in range(255)], "who read the older checkpoint reads on"
    check_log(old)


def test_whoever_reads_while_it_is_written_reads_a_whole_log(log: Log, without_disk: None) -> None:
    log.grow(1)
    stop = threading.Event()

    def write() -> None:
        for size in range(1, 1500, 11):
            log.grow(size)
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    sizes = set()
    while not stop.is_set():
        view = log.view()
        check_log(view)
        assert log.view().consistency(view.size) is not None
        sizes.add(view.size)
    writer.join()
    assert log.view().size == 1497, "the writer came to its end"
    assert len(sizes) > 5


def test_one_writer_at_a_time(log: Log) -> None:
    with open_writer(log.folder, ORIGIN, log.private, log.seals), pytest.raises(RefusedError, match="another process writes"):
        log.append(b"x")


def test_another_log_or_another_key_does_not_write_here(log: Log) -> None:
    log.grow(3)
    with pytest.raises(TrustError, match="signed by"), open_writer(log.folder, ORIGIN, private_key(2), log.seals):
        pass
    with pytest.raises(TrustError, match="signed by"), open_writer(log.folder, "example.org/other", log.private, log.seals):
        pass
    assert log.view().size == 3


# --- a stop at any write ---------------------------------------------------------------------------------------------

PROGRAM = """
import sys
import threading
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from forge.tlog.log import open_writer
from forge.tlog.seals import Seals
folder, size = Path(sys.argv[1]), int(sys.argv[2])
private = Ed25519PrivateKey.from_private_bytes((1).to_bytes(32, "big"))
with open_writer(folder / "log", "example.org/forge/ledger", private, Seals(folder / "seals.json")) as writer:
    writer.append([b'{"number":%d}' % number for number in range(writer.view().size, size)])
"""


def grow_in_a_process(folder: Path, size: int, **environment: str) -> int:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(size)],
        cwd=root,
        env={"PATH": "", "PYTHONPATH": str(root / "engine"), **environment},
        capture_output=True,
        check=False,
    )
    assert done.returncode in (0, -9), done.stderr.decode()
    return done.returncode


def test_killed_at_every_write_it_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    """From 254 to 257 leaves: partial files grow, a tile becomes full, a level is added, and old files are removed."""
    start = tmp_path / "start"
    assert grow_in_a_process(start, 254) == 0
    shutil.copytree(start, tmp_path / "whole")
    assert grow_in_a_process(tmp_path / "whole", 257, FORGE_FAULT_LOG=str(tmp_path / "reached")) == 0
    reached = (tmp_path / "reached").read_text().split()
    assert set(reached) == POINTS_OF_LOGS
    expected = Log(tmp_path / "whole" / "log", Seals(tmp_path / "unused"), private_key(1)).files()
    signed = set()
    for point in sorted(set(reached)):
        for number in range(1, reached.count(point) + 1):
            folder = tmp_path / f"{point}-{number}"
            shutil.copytree(start, folder)
            assert grow_in_a_process(folder, 257, FORGE_FAULT=f"{point}:{number}") == -9
            log = Log(folder / "log", Seals(folder / "seals.json"), private_key(1))
            check_log(log.view())  # whoever reads now reads a whole log
            signed.add(log.view().size)
            log.append()  # opening it finishes what was signed
            check_log(log.view())
            assert log.view().size in (254, 257)
            log.grow(257)
            check_log(log.view())
            kept = {name: data for name, data in log.files().items() if not name.endswith(".tmp")}
            assert {name: kept[name] for name in expected} == expected, (point, number)
    assert signed == {254, 257}


def test_after_a_stop_other_entries_may_follow(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of an append that was never signed are in nobody's way."""
    log.grow(250)
    monkeypatch.setattr("forge.tlog.log.sign_checkpoint", lambda *_: pytest.fail("stopped here"))
    with pytest.raises(pytest.fail.Exception):
        log.append(*(b"never signed" for _ in range(600)))
    monkeypatch.undo()
    for size in (252, 700, 900):
        log.grow(size)
        check_log(log.view())
    assert list(log.view().entries()) == [entry(number) for number in range(900)]


def test_a_disk_that_is_full_changes_nothing(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    log.grow(300)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TransparencyError, match="No space left"):
        log.grow(400)
    monkeypatch.undo()
    assert log.view().size == 300
    assert log.grow(400).size == 400
    check_log(log.view())


# --- attacks ---------------------------------------------------------------------------------------------------------


def damage(path: Path, place: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_every_byte_of_every_file_counts(log: Log) -> None:
    log.grow(260)
    for name, data in log.files().items():
        for place in {0, len(data) // 3, len(data) - 1}:
            damage(log.folder / name, place)
            with pytest.raises((TransparencyError, TrustError), match=name.replace(".", r"\.")):
                check_log(log.view())
            damage(log.folder / name, place)
        (log.folder / name).rename(log.folder / "away")
        with pytest.raises(TransparencyError, match=r"missing|no checkpoint"):
            check_log(log.view())
        (log.folder / "away").rename(log.folder / name)
    check_log(log.view())


def test_an_edited_entry_is_named(log: Log) -> None:
    log.grow(300)
    bundle = log.folder / "tile/entries/000"
    bundle.write_bytes(bundle.read_bytes().replace(entry(77), b'{"number":78}'))
    with pytest.raises(TransparencyError, match=r"tile/0/000: hash 77 is .* \(from leaf 77 on\)"):
        check_log(log.view())


def test_an_edited_entry_with_all_its_tiles_made_again_does_not_have_the_signed_root(
    log: Log, make_log: Callable[..., Log]
) -> None:
    log.grow(300)
    forged = make_log("forged", 2)
    forged.append(*(entry(number + (number == 7)) for number in range(300)))
    shutil.rmtree(log.folder / "tile")
    shutil.copytree(forged.folder / "tile", log.folder / "tile")
    with pytest.raises(TransparencyError, match="says that the root of 300 leaves is"):
        check_log(log.view())
    with pytest.raises(TransparencyError, match=r"were altered\. Nothing was appended"):
        log.append(b"more")


def test_reordered_and_truncated_entries_are_found(log: Log) -> None:
    log.grow(10)
    bundle = log.folder / "tile/entries/000.p/10"
    entries = [entry(number) for number in range(10)]
    bundle.write_bytes(pack_bundle([*entries[:3], entries[4], entries[3], *entries[5:]]))
    with pytest.raises(TransparencyError, match="hash 3 is"):
        check_log(log.view())
    with pytest.raises(TransparencyError, match="do not have the hashes"):
        log.append(b"more")
    bundle.write_bytes(pack_bundle(entries[:9]))
    with pytest.raises(TransparencyError, match="has 9 entries, expected 10"):
        check_log(log.view())


def test_a_log_that_was_set_back_is_never_signed_again(log: Log, tmp_path: Path) -> None:
    """A whole older copy holds in itself: only what was signed last, kept elsewhere, tells."""
    log.grow(300)
    shutil.copytree(log.folder, tmp_path / "older")
    log.grow(310)
    shutil.rmtree(log.folder)
    shutil.copytree(tmp_path / "older", log.folder)
    check_log(log.view())
    with pytest.raises(TrustError, match=r"310 leaves.* was signed here last.*to sign on would fork the log"):
        log.append(b"another history")
    assert log.view().size == 300
    (log.folder / "checkpoint").unlink()
    with pytest.raises(TrustError, match="would fork the log"):
        log.append(b"another history")


def test_a_log_that_was_exchanged_for_a_longer_one_of_the_same_key_is_not_signed(
    log: Log, make_log: Callable[..., Log]
) -> None:
    log.grow(300)
    fork = make_log("fork")
    fork.append(*(b"other" for _ in range(400)))
    shutil.rmtree(log.folder)
    shutil.copytree(fork.folder, log.folder)
    with pytest.raises(TrustError, match="does not continue that"):
        log.append(b"more")


def test_a_log_that_is_exchanged_under_an_open_writer_is_not_signed(log: Log, make_log: Callable[..., Log]) -> None:
    fork = make_log("fork")
    fork.append(*(b"other" for _ in range(400)))
    with open_writer(log.folder, ORIGIN, log.private, log.seals) as writer:
        writer.append([entry(0)])
        shutil.rmtree(log.folder / "tile")
        shutil.copytree(fork.folder, log.folder, dirs_exist_ok=True)
        with pytest.raises(TrustError, match="does not continue that"):
            writer.append([b"more"])
    assert log.files() == fork.files()


def test_a_checkpoint_that_another_key_signed_is_not_the_logs(log: Log, make_log: Callable[..., Log]) -> None:
    log.grow(3)
    other = make_log("other", 2)
    other.grow(3)
    shutil.copy(other.folder / "checkpoint", log.folder / "checkpoint")
    with pytest.raises(TrustError, match=r"not by example\.org/forge/ledger"):
        log.view()
    assert verifier_key(ORIGIN, other.private) == other.key


def test_tiles_without_a_checkpoint_are_not_built_on(log: Log) -> None:
    log.grow(3)
    (log.folder / "checkpoint").unlink()
    log.seals._path.unlink()
    with pytest.raises(TransparencyError, match="holds tiles but no checkpoint"):
        log.append(b"x")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"schema_version":2,"logs":{}}', '{"schema_version":1,"logs":{"a":1}}', "[" * 5000]
)
def test_without_what_was_signed_last_nothing_is_signed(log: Log, text: str) -> None:
    log.grow(3)
    log.seals._path.write_text(text)
    with pytest.raises(TransparencyError, match="what was signed last cannot be read"):
        log.append(b"x")
