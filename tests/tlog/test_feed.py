"""Every line of the audit files is in the log once, in order, whatever happens between; and what was altered is found."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import ROOT
from tests.tlog.conftest import ORIGIN, Log, put

from forge.canonical import digest_of_bytes
from forge.errors import TransparencyError, TrustError
from forge.tlog.compare import compare_files
from forge.tlog.feed import Feed
from forge.tlog.lines import Mark, find_request, mark_of_leaf
from forge.tlog.log import open_writer

DAY = "requests-2030-01-{:02d}.jsonl"


def line(number: int) -> bytes:
    return b'{"request_id":"r%d","status":200}' % number


class Place:
    """An audit folder, its log, and the feed between them."""

    def __init__(self, folder: Path, log: Log) -> None:
        self.files = folder / "audit"
        self.files.mkdir()
        self.log = log

    def day(self, number: int) -> Path:
        return self.files / DAY.format(number)

    def feed(self) -> int:
        """A feed that is started, sees what is there, and ends."""
        with open_writer(self.log.folder, ORIGIN, self.log.private, self.log.seals) as writer:
            feed = Feed(writer, self.files)
            try:
                return feed.poll()
            finally:
                feed.close()

    def lines(self) -> list[bytes]:
        return [entry for entry in self.log.view().entries() if mark_of_leaf(entry) is None]

    def marks(self) -> list[tuple[str, int]]:
        found = (mark_of_leaf(entry) for entry in self.log.view().entries())
        return [(mark.file, mark.offset) for mark in found if mark is not None]


@pytest.fixture
def place(tmp_path: Path, log: Log) -> Place:
    return Place(tmp_path, log)


@pytest.fixture
def running(place: Place) -> Iterator[Feed]:
    """A feed that goes on running through the test."""
    with open_writer(place.log.folder, ORIGIN, place.log.private, place.log.seals) as writer:
        feed = Feed(writer, place.files)
        yield feed
        feed.close()


def test_lines_are_logged_as_they_are_and_once(place: Place) -> None:
    assert place.feed() == 0
    put(place.day(1), [line(1), line(2)])
    assert (place.feed(), place.feed()) == (2, 0)
    put(place.day(1), [line(3)])
    put(place.day(2), [line(4)])
    assert (place.feed(), place.feed()) == (2, 0)
    assert place.lines() == [line(1), line(2), line(3), line(4)]
    assert place.marks() == [(DAY.format(1), 0), (DAY.format(2), 0)]
    assert compare_files(place.log.view(), [place.files]).lines == 4


def test_half_a_line_waits_for_its_end(place: Place, running: Feed) -> None:
    put(place.day(1), [line(1)])
    with place.day(2).open("wb") as file:
        file.write(line(2)[:9])
        file.flush()
        assert running.poll() == 1
        assert running.poll() == 0
        file.write(line(2)[9:] + b"\n")
    assert running.poll() == 1
    assert place.lines() == [line(1), line(2)]
    assert place.marks() == [(DAY.format(1), 0), (DAY.format(2), 0)]


def test_a_part_of_a_line_that_a_kill_left_behind_is_a_line(place: Place) -> None:
    """The gateway ends it when it starts again. It is alike in two files; that must not make one of them look logged."""
    for day in (1, 2):
        put(place.day(day), [line(day), b'{"requ'])
        assert place.feed() == 2
    put(place.day(2), [line(3)])
    put(place.day(3), [b'{"requ'])
    assert place.feed() == 2
    assert place.lines() == [line(1), b'{"requ', line(2), b'{"requ', line(3), b'{"requ']
    for day in (3, 2):
        assert place.feed() == 0, "nor is it logged once more at every start"
        put(place.day(day), [line(10 + day)])
        assert place.feed() == 1
    assert compare_files(place.log.view(), [place.files]).lines == 8


def test_files_that_begin_with_the_same_part_of_a_line_are_told_apart(place: Place) -> None:
    for day in (1, 2, 3):
        put(place.day(day), [b'{"requ', line(day)])
        assert (place.feed(), place.feed()) == (2, 0)
    for day in (1, 2, 3):
        put(place.day(day), [line(10 + day)])
    assert (place.feed(), place.feed()) == (3, 0)
    assert compare_files(place.log.view(), [place.files]).lines == 9
    alter(place.day(2), lambda lines: [lines[0], lines[2], lines[1]])
    with pytest.raises(TransparencyError, match=DAY.format(2)):
        compare_files(place.log.view(), [place.files])


def test_a_copy_of_a_file_in_another_folder_is_no_new_file(place: Place, tmp_path: Path) -> None:
    put(place.day(1), [line(1)])
    place.feed()
    shutil.copytree(place.files, tmp_path / "backup")
    found = compare_files(place.log.view(), [place.files, tmp_path / "backup"])
    assert (found.lines, found.waiting) == (1, 0)


def test_a_file_that_is_moved_away_while_the_feed_runs_is_read_to_its_end(place: Place, running: Feed, tmp_path: Path) -> None:
    put(place.day(1), [line(1)])
    assert running.poll() == 1
    put(place.day(1), [line(2)])
    place.day(1).rename(tmp_path / "old.jsonl")
    put(place.day(1), [line(3)])
    assert (running.poll(), running.poll()) == (2, 0)
    assert place.lines() == [line(1), line(2), line(3)]
    assert place.marks() == [(DAY.format(1), 0), (DAY.format(1), 0)]
    found = compare_files(place.log.view(), [place.files])
    assert (found.lines, found.absent) == (1, {DAY.format(1): 2})
    (tmp_path / "moved").mkdir()
    (tmp_path / "old.jsonl").rename(tmp_path / "moved" / "old.jsonl")
    assert compare_files(place.log.view(), [place.files, tmp_path / "moved"]).lines == 3


def test_files_may_be_moved_away_while_no_feed_runs(place: Place, tmp_path: Path) -> None:
    for day in (1, 2):
        put(place.day(day), [line(day)])
    place.feed()
    place.day(1).rename(tmp_path / "1.jsonl")
    place.day(2).rename(tmp_path / "2.jsonl")
    put(place.day(2), [line(3)])
    assert place.feed() == 1
    put(place.day(3), [line(4)])
    assert place.feed() == 1
    assert place.lines() == [line(1), line(2), line(3), line(4)]
    shutil.move(tmp_path / "1.jsonl", place.day(1))
    assert place.feed() == 0, "an old file that comes back was logged"


def test_a_clock_that_was_set_back_across_midnight(place: Place, running: Feed) -> None:
    for number, day in enumerate((1, 2, 1, 2, 1)):
        put(place.day(day), [line(number)])
        assert running.poll() == 1
    assert place.lines() == [line(number) for number in range(5)]
    assert compare_files(place.log.view(), [place.files]).lines == 5
    put(place.day(2), [line(5)])
    assert running.poll() == 1
    running.close()
    put(place.day(1), [line(6)])
    put(place.day(2), [line(7)])
    assert (running.poll(), running.poll()) == (2, 0)
    assert compare_files(place.log.view(), [place.files]).lines == 8


def test_the_number_of_a_file_that_is_gone_may_belong_to_another(
    place: Place, running: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems use them again; so the feed does not take a file for logged by its number."""
    monkeypatch.setattr("forge.tlog.feed.Feed._may_have_news", lambda _self, _path: True)
    put(place.day(1), [line(1), line(2), line(3)])
    put(place.day(2), [line(4)])
    running.poll()
    number = place.day(1).stat().st_ino
    data = [line(5), line(6), line(7), line(8)]
    with place.day(1).open("r+b") as file:  # the same inode: as if the old file had been removed, and its number used again
        file.truncate()
        file.write(b"".join(item + b"\n" for item in data))
    place.day(1).rename(place.day(3))
    assert place.day(3).stat().st_ino == number
    assert running.poll() == 4
    assert place.lines()[-4:] == data


def test_a_long_line_is_logged_by_its_digest(place: Place) -> None:
    put(place.day(1), [line(1), b'{"x":"' + b"y" * 65535 + b'"}', line(2)])
    assert (place.feed(), place.feed()) == (3, 0)
    assert place.lines()[1].startswith(b'\n{"digest":"sha256:')
    assert compare_files(place.log.view(), [place.files]).lines == 3
    with place.day(1).open("r+b") as file:
        file.seek(1000)
        file.write(b"z")
    with pytest.raises(TransparencyError, match="leaf 2 of the log"):
        compare_files(place.log.view(), [place.files])


def test_more_lines_than_one_append_takes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.tlog.feed.MOST_LINES", 7)
    put(place.day(1), (line(number) for number in range(100)))
    assert place.feed() == 100
    assert place.lines() == [line(number) for number in range(100)]


def test_a_fault_leaves_neither_a_gap_nor_a_line_twice(place: Place, running: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    put(place.day(1), [line(1)])
    running.poll()
    for number in range(2, 8):
        put(place.day(1 + number // 5), [line(number)])
        calls = [0]

        def fail_at(path: int, calls: list[int] = calls, last: int = number) -> None:
            calls[0] += 1
            if calls[0] == last:
                raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", fail_at)
            with pytest.raises(TransparencyError):
                running.poll()
        running.poll()
    assert place.lines() == [line(number) for number in range(1, 8)]
    assert compare_files(place.log.view(), [place.files]).lines == 7


PROGRAM = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from forge.tlog.feed import Feed
from forge.tlog.log import open_writer
from forge.tlog.seals import Seals
folder = Path(sys.argv[1])
private = Ed25519PrivateKey.from_private_bytes((1).to_bytes(32, "big"))
with open_writer(folder / "log", "example.org/forge/ledger", private, Seals(folder / "log-seals.json")) as writer:
    Feed(writer, folder / "audit").poll()
"""


def test_killed_at_every_write_each_line_is_logged_once(place: Place, tmp_path: Path) -> None:
    def feed_in_a_process(fault: str) -> int:
        environment = {"PATH": "", "PYTHONPATH": str(ROOT / "engine"), "FORGE_FAULT": fault}
        return subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], env=environment, check=False).returncode

    put(place.day(1), [line(0)])
    place.feed()
    written = 1
    for fault in [f"tlog.file.{side}:{number}" for number in range(1, 7) for side in ("before", "after")]:
        put(place.day(1), [line(written)])
        put(place.day(2), [line(written + 1)])
        written += 2
        assert feed_in_a_process(fault) == -9, fault
    assert feed_in_a_process("") == 0
    assert sorted(place.lines()) == sorted(line(number) for number in range(written))
    assert compare_files(place.log.view(), [place.files]).lines == written


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3), st.sampled_from(["", "feed", "move"])), max_size=10))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_in_whatever_order_things_happen(
    make_log: Callable[..., Log], tmp_path: Path, without_disk: None, steps: list[tuple[int, int, str]]
) -> None:
    """Days go on and back, feeds come and go, files are moved away: each line is logged once, in the order of its file."""
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    place, moved, written = Place(tmp_path, make_log()), tmp_path / "moved", 0
    moved.mkdir()
    for step, (day, count, event) in enumerate(steps):
        put(place.day(day), [line(number) for number in range(written, written + count)])
        written += count
        if event:
            place.feed()
        if event == "move" and place.day(day).exists():
            place.day(day).rename(moved / f"{step}-{place.day(day).name}")
    place.feed()
    assert sorted(place.lines()) == sorted(line(number) for number in range(written))
    assert compare_files(place.log.view(), [place.files, moved]).lines == written


# --- attacks ---------------------------------------------------------------------------------------------------------


def alter(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(change(lines)))


ATTACKS = {
    "edited": lambda lines: [*lines[:2], lines[2].replace(b"200", b"403"), *lines[3:]],
    "edited at the end": lambda lines: [*lines[:-1], lines[-1].replace(b"200", b"403")],
    "edited at the beginning": lambda lines: [lines[0].replace(b"200", b"403"), *lines[1:]],
    "reordered": lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
    "removed": lambda lines: [*lines[:2], *lines[3:]],
    "removed at the beginning": lambda lines: lines[1:],
    "inserted": lambda lines: [*lines[:2], b'{"request_id":"r99"}\n', *lines[2:]],
    "truncated": lambda lines: lines[:-1],
    "cut within a line": lambda lines: [*lines[:-1], lines[-1][:5]],
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("day", [1, 2])
def test_an_altered_file_is_found_whichever_day_it_is_of(place: Place, name: str, day: int) -> None:
    for number in (1, 2):
        put(place.day(number), [line(10 * number + place) for place in range(5)])
    place.feed()
    alter(place.day(day), ATTACKS[name])
    with pytest.raises(TransparencyError, match=DAY.format(day)):
        compare_files(place.log.view(), [place.files])
    if day == 2:  # the file that the feed is at: it does not go on
        size = place.log.view().size
        with pytest.raises(TrustError, match=DAY.format(day)):
            place.feed()
        assert place.log.view().size == size


def test_a_line_that_was_never_logged_among_logged_ones_is_found(place: Place) -> None:
    put(place.day(1), [line(1), line(2)])
    place.feed()
    put(place.day(2), [line(3)])
    place.feed()
    alter(place.day(1), lambda lines: [lines[0], b'{"request_id":"forged"}\n', lines[1]])
    with pytest.raises(TransparencyError, match="leaf 2 of the log"):
        compare_files(place.log.view(), [place.files])


def test_a_log_that_passes_over_lines_is_found(place: Place) -> None:
    put(place.day(1), [line(1)])
    place.feed()
    put(place.day(1), [line(2), line(3)])
    first = digest_of_bytes(line(1))
    place.log.append(Mark(DAY.format(1), first, 2 * (len(line(1)) + 1)).to_leaf(), line(3))
    with pytest.raises(TransparencyError, match=f"go on at byte {2 * (len(line(1)) + 1)}, but they are logged up to byte"):
        compare_files(place.log.view(), [place.files])


def test_a_file_is_on_the_disk_before_its_lines_are_logged(
    place: Place, running: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.poll()
    put(place.day(1), [line(1)])
    order = []
    monkeypatch.setattr("os.fsync", lambda descriptor: order.append(os.fstat(descriptor).st_ino))
    running.poll()
    assert order[0] == place.day(1).stat().st_ino
    assert len(order) > 5


def test_lines_that_no_feed_has_seen_are_counted(place: Place) -> None:
    put(place.day(1), [line(1)])
    place.feed()
    put(place.day(1), [line(2)])
    put(place.day(2), [line(3), line(4)])
    assert compare_files(place.log.view(), [place.files]).waiting == 3


def test_a_request_is_found_by_its_id_and_not_by_text_that_looks_like_it(place: Place) -> None:
    put(place.day(1), [b'{"model":"r2","request_id":"r1"}', line(2)])
    place.feed()
    assert find_request(place.log.view(), "r2") == 2
    with pytest.raises(TransparencyError, match="no leaf of the log"):
        find_request(place.log.view(), "r3")


def test_entries_of_another_kind_are_named(log: Log) -> None:
    log.append(b"\n{}")
    with pytest.raises(TransparencyError, match="neither a line nor a mark"):
        compare_files(log.view(), [])
