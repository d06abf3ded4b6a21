"""The feed of an audit log: brings the lines of its files into a log, in their order, each exactly once.

Rules:
- The files are the source, and nothing else is remembered: where the feed stands is read from the log's own last mark. So a
  feed that was stopped at any point goes on without a gap and without a line twice.
- A file is put on the disk before its lines are logged, so no power cut leaves the log ahead of its files.
- When it begins, and after every fault, the feed compares the file that it was at, line by line, with the log. A line that was
  altered or is gone is a TrustError, and nothing is logged on top of it.
- A file that is moved away while the feed runs is read to its end. One that was moved away while no feed ran is closed, and
  what was not logged of it is not known here: `forge log check` names the files that it did not find.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from forge.errors import TransparencyError, TrustError
from forge.tlog.lines import LineFile, Mark, is_record, leaf_of_line, line_files, mark_of_leaf
from forge.tlog.log import View, Writer
from forge.tlog.merkle import HASH_SIZE, leaf_hash
from forge.tlog.tiles import WIDTH

MOST_LINES = 4096
"""At most so many lines are one append."""


@dataclass(frozen=True)
class _Known:
    """How far a file is logged. A file system gives the number of a file that is gone to another: the first line tells."""

    first: str
    end: int


_Identity = tuple[int, int]


class Feed:
    """One folder of files into one log; the log's writer belongs to it alone."""

    def __init__(self, writer: Writer, folder: Path) -> None:
        self._writer = writer
        self._folder = folder
        self._held: LineFile | None = None
        """The file that is followed: whoever writes it may still add to it after it was moved away."""
        self._marked: tuple[str, str] | None = None
        """Name and first line of the file that the log's last mark names."""
        self._known: dict[_Identity, _Known] = {}
        self._is_in_step = False

    def poll(self) -> int:
        """Log every line that is new; returns how many.

        Raises TransparencyError where that cannot be done now (the next call begins by comparing again), TrustError where the
        files contradict the log.
        """
        if not self._is_in_step:
            self._resume()
        self._is_in_step = False
        count = self._drain()
        for path in line_files(self._folder):
            if self._may_have_news(path):
                found = LineFile(path)
                count += self._drain()  # whoever writes has left the file before, for good or until he comes back
                self._take(found)
                count += self._drain()
        self._is_in_step = True
        return count

    def close(self) -> None:
        """Let go of the file that is held open; the writer is the caller's."""
        if self._held is not None:
            self._held.close()
            self._held = None
        self._is_in_step = False

    def _may_have_news(self, path: Path) -> bool:
        """Without opening the file: there may be hundreds, and one that grows."""
        try:
            found = path.stat()
        except FileNotFoundError:  # moved away since the folder was listed
            return False
        identity = (found.st_dev, found.st_ino)
        if self._held is not None and identity == self._held.identity:
            return False
        known = self._known.get(identity)
        return found.st_size > 0 if known is None else found.st_size != known.end

    def _take(self, file: LineFile) -> None:
        if self._held is not None and self._held is not file:
            self._held.close()
        self._held = file

    def _drain(self) -> int:
        """Log what is new in the file that is held, and a mark before it where the last leaves came from another."""
        file = self._held
        if file is None or file.first is None:
            return 0
        known = self._known.get(file.identity)
        offset, count = known.end if known is not None and known.first == file.first else 0, 0
        leaves: list[bytes] = []
        for line in file.lines(offset):
            if self._marked != (file.name, file.first):
                leaves.append(Mark(file.name, file.first, offset).to_leaf())
                self._marked = file.name, file.first
            leaves.append(leaf_of_line(line))
            offset += len(line) + 1
            count += 1
            if len(leaves) >= MOST_LINES:
                self._log(file, leaves, _Known(file.first, offset))
                leaves = []
        if leaves:
            self._log(file, leaves, _Known(file.first, offset))
        return count

    def _log(self, file: LineFile, leaves: list[bytes], known: _Known) -> None:
        try:
            file.sync()
        except OSError as error:
            raise TransparencyError(f"{self._folder / file.name} cannot be put on the disk: {error.strerror}") from error
        self._writer.append(leaves)
        self._known[file.identity] = known

    def _resume(self) -> None:
        """Find out what is logged: compare the file of the last mark line by line, and the last line of every other one."""
        view = self._writer.view()
        mark, start = _last_mark(view)
        self._known, self._marked = {}, None if mark is None else (mark.file, mark.first)
        held, self._held = self._held, None
        files = [] if held is None else [held]
        for path in line_files(self._folder):
            file = LineFile(path)
            if held is not None and file.identity == held.identity:
                file.close()
            else:
                files.append(file)
        if mark is not None:  # of two files that begin alike, as parts of lines may, the one of that name
            files.sort(key=lambda file: file.name != mark.file)
        try:
            others = []
            for file in files:
                if mark is not None and file.first == mark.first and self._held is None:
                    end = _compare(self._folder, file, mark, view, start)
                    self._known[file.identity] = _Known(mark.first, end)
                    self._held = file
                else:
                    others.append(file)
            self._known |= _logged(view, others)
            if mark is not None and self._held is None:
                self._refuse_altered_first_line(mark, others, view)
        finally:
            for file in files:
                if file is not self._held:
                    file.close()

    def _refuse_altered_first_line(self, mark: Mark, files: list[LineFile], view: View) -> None:
        """The file of the last mark is not here under its first line: moved away, or altered in that very line."""
        for file in files:
            if file.name == mark.file and file.identity in self._known:
                raise TrustError(
                    f"{self._folder / file.name}:1: the line is not the one with the digest {mark.first} that the log in "
                    f"{view.files.folder} has first of this file, though later lines are logged: it was altered. Restore it"
                )


def _last_mark(view: View) -> tuple[Mark | None, int]:
    """The last mark of a log and the index of the leaf after it."""
    for index in reversed(range(-(-view.size // WIDTH))):
        entries = view.files.bundle(index)
        for place in reversed(range(len(entries))):
            mark = mark_of_leaf(entries[place])
            if mark is not None:
                return mark, index * WIDTH + place + 1
    return None, 0


def _compare(folder: Path, file: LineFile, mark: Mark, view: View, start: int) -> int:
    """The byte of a file up to which it is logged; raises TrustError where its lines are not what was logged of it."""
    offset = mark.offset
    number = sum(1 for _, end in _with_ends(file) if end <= offset) + 1
    lines = file.lines(offset)
    for index, entry in enumerate(view.entries(start), start):
        line = next(lines, None)
        if line is None:
            raise TrustError(
                f"{folder / file.name}: it ends before line {number}, which the log in {view.files.folder} has as leaf "
                f"{index}: the file was cut. Restore it; to leave it as it is, move it away"
            )
        if leaf_of_line(line) != entry:
            raise TrustError(
                f"{folder / file.name}:{number}: the line is not what the log in {view.files.folder} has as leaf {index}: it "
                "was altered, removed or moved. Restore it; to leave it as it is, move the file away, and the log goes on"
            )
        offset += len(line) + 1
        number += 1
    return offset


def _logged(view: View, files: list[LineFile]) -> dict[_Identity, _Known]:
    """By file: how far the log has it; files of which it has nothing are left out.

    A file is found in the log by its last record, or, where lines were added since, by the last of its records that the log
    has; one without any record, by its mark. What the log has after that is compared.
    """
    last: dict[bytes, LineFile] = {
        leaf_hash(leaf_of_line(record)): file for file in files if (record := file.last_record()) is not None
    }
    places = _places(view, set(last))
    whole = {last[found].identity: place for found, place in places.items()}
    known = {}
    for file in files:
        if file.first is None:
            continue
        records: dict[bytes, int] = {leaf_hash(leaf_of_line(line)): end for line, end in _with_ends(file) if is_record(line)}
        if file.identity in whole:
            place, end = whole[file.identity], max(records.values())
        else:
            anchors = records or {leaf_hash(Mark(file.name, file.first, 0).to_leaf()): 0}
            found = _places(view, set(anchors))
            if not found:
                continue
            end, place = max((anchors[item], place) for item, place in found.items())
        for line, leaf in zip(file.lines(end), view.entries(place + 1), strict=False):
            if leaf_of_line(line) != leaf:
                break
            end += len(line) + 1
        known[file.identity] = _Known(file.first, end)
    return known


def _with_ends(file: LineFile) -> Iterator[tuple[bytes, int]]:
    """Every line with the byte after its newline."""
    end = 0
    for line in file.lines(0):
        end += len(line) + 1
        yield line, end


def _places(view: View, wanted: set[bytes]) -> dict[bytes, int]:
    """Where some hashes are leaves of the log; the last place of each."""
    found: dict[bytes, int] = {}
    if wanted:
        for index in range(-(-view.size // WIDTH)):
            tile = view.files.tile(0, index)
            for place in range(0, len(tile), HASH_SIZE):
                if (item := tile[place : place + HASH_SIZE]) in wanted:
                    found[item] = index * WIDTH + place // HASH_SIZE
    return found
